"""Kernel point convolution, rigid and deformable (KPConv)."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops._library import check_device

_REDUCED = (torch.float16, torch.bfloat16)


def kpconv(
    query: Tensor,  # (M, D) float32 or float64, D in 1..3
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
    feats: Tensor,  # (N, C)
    weights: Tensor,  # (K, C, O)
    kernel_points: Tensor,  # (K, D)
    sigma: float,
    *,
    kernel_offsets: Tensor | None = None,  # (M, K, D)
    modulations: Tensor | None = None,  # (M, K)
) -> Tensor:  # (M, O)
    """Convolve ``feats`` with weights that sit at points in space.

    A neighbour at ``y = support[j] - query[m]`` meets kernel point k with the influence
    ``max(0, 1 - |y - kernel_points[k] - kernel_offsets[m, k]| / sigma)``; row m of the result is the sum over
    neighbours and kernel points of ``modulations[m, k] * influence * feats[j] @ weights[k]``. Rows of ``feats`` that
    are nobody's neighbour are never read.

    Differentiable in ``feats``, ``weights``, ``kernel_offsets`` and ``modulations``, not in the coordinates, the
    kernel points or ``sigma``, and once. The gradient of an influence at distance 0 is 0. Gradients do not depend on
    the number of threads. Under autocast everything is cast to float32.

    Args:
        query, support: coordinates, in the unit of ``sigma``; one dtype with ``feats``, ``weights`` and the rest.
        sigma: distance at which an influence ends, > 0.

    Returns:
        (M, O), dtype of ``feats``.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
        RuntimeError: an index outside [0, N].

    Source: Thomas et al., KPConv: Flexible and Deformable Convolution for Point Clouds, ICCV 2019, eq. 1 to 6
    (modulations: their supplement, after Zhu et al. 2019).
    """
    _check(query, support, neighbors, feats, weights, kernel_points, sigma, kernel_offsets, modulations)
    return torch.ops.pcseg.kpconv(
        query, support, neighbors, feats, weights, kernel_points, sigma, kernel_offsets, modulations
    )


def kpconv_fitting_distance(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
    kernel_points: Tensor,  # (K, D)
    sigma: float,
    kernel_offsets: Tensor,  # (M, K, D)
) -> Tensor:  # (M, K)
    """Squared distance from each deformed kernel point to the nearest neighbour, in units of ``sigma`` squared.

    Its mean is the fitting term of the deformable KPConv's regularisation. A query without neighbours gets 0.
    Differentiable in ``kernel_offsets`` (through the neighbour that is nearest).

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.

    Source: Thomas et al. 2019, eq. 7 to 8 (which sums the minima), and the authors' code (sigma squared).
    """
    op = "kpconv_fitting_distance"
    _check_geometry(op, query, support, neighbors, kernel_points, sigma)
    _check_offsets(op, kernel_offsets, (query.shape[0], kernel_points.shape[0], query.shape[1]))
    kernel_offsets = kernel_offsets.to(query.dtype)
    if neighbors.shape[1] == 0 or support.shape[0] == 0:
        return kernel_offsets.sum(-1) * 0
    missing = neighbors >= support.shape[0]
    relative = support[neighbors.masked_fill(missing, 0)] - query.unsqueeze(1)  # (M, H, D)
    relative = relative.masked_fill(missing.unsqueeze(-1), torch.inf)
    deformed = kernel_points + kernel_offsets  # (M, K, D)
    with torch.no_grad():
        # One kernel point at a time: (M, H, K, D) would be large.
        nearest = [(relative - point.unsqueeze(1)).square().sum(-1).argmin(1) for point in deformed.unbind(1)]
        index = torch.stack(nearest, 1).unsqueeze(-1).expand_as(deformed)  # (M, K, D)
        target = relative.gather(1, index)
        alone = target.isinf()
    difference = (deformed - target.masked_fill(alone, 0)).masked_fill(alone, 0)
    return difference.square().sum(-1) / sigma**2


def _check_geometry(
    op: str, query: Tensor, support: Tensor, neighbors: Tensor, kernel_points: Tensor, sigma: float
) -> None:
    coords = {"query (M, D)": query, "support (N, D)": support, "kernel_points (K, D)": kernel_points}
    for name, value in coords.items():
        if value.ndim != 2 or value.shape[1] != query.shape[-1] or not 1 <= value.shape[1] <= 3:
            raise ValueError(f"{op}: {name} needs one D in 1..3 throughout, got {tuple(value.shape)}")
    if kernel_points.shape[0] < 1:
        raise ValueError(f"{op}: kernel_points must hold at least one point")
    if neighbors.ndim != 2 or neighbors.shape[0] != query.shape[0]:
        raise ValueError(f"{op}: neighbors must be (M = {query.shape[0]}, H), got {tuple(neighbors.shape)}")
    if neighbors.dtype != torch.int64:
        raise TypeError(f"{op}: neighbors must be int64, got {neighbors.dtype}")
    if not sigma > 0:
        raise ValueError(f"{op}: sigma must be positive, got {sigma}")
    check_device(op, query=query, support=support, neighbors=neighbors, kernel_points=kernel_points)


def _check_offsets(op: str, kernel_offsets: Tensor, expected: tuple[int, int, int]) -> None:
    if tuple(kernel_offsets.shape) != expected:
        raise ValueError(f"{op}: kernel_offsets must be (M, K, D) = {expected}, got {tuple(kernel_offsets.shape)}")


def _check(
    query: Tensor,
    support: Tensor,
    neighbors: Tensor,
    feats: Tensor,
    weights: Tensor,
    kernel_points: Tensor,
    sigma: float,
    kernel_offsets: Tensor | None,
    modulations: Tensor | None,
) -> None:
    op = "kpconv"
    _check_geometry(op, query, support, neighbors, kernel_points, sigma)
    kernel_size = kernel_points.shape[0]
    if feats.ndim != 2 or feats.shape[0] != support.shape[0]:
        raise ValueError(f"{op}: feats must be (N = {support.shape[0]}, C), got {tuple(feats.shape)}")
    if weights.ndim != 3 or weights.shape[0] != kernel_size or weights.shape[1] != feats.shape[1]:
        expected = f"(K = {kernel_size}, C = {feats.shape[1]}, O)"
        raise ValueError(f"{op}: weights must be {expected}, got {tuple(weights.shape)}")
    if weights.shape[1] < 1 or weights.shape[2] < 1:
        raise ValueError(f"{op}: at least one channel in and out expected, got weights {tuple(weights.shape)}")
    if kernel_offsets is not None:
        _check_offsets(op, kernel_offsets, (query.shape[0], kernel_size, query.shape[1]))
    if modulations is not None and tuple(modulations.shape) != (query.shape[0], kernel_size):
        expected = (query.shape[0], kernel_size)
        raise ValueError(f"{op}: modulations must be (M, K) = {expected}, got {tuple(modulations.shape)}")
    values = {
        "query": query,
        "support": support,
        "feats": feats,
        "weights": weights,
        "kernel_points": kernel_points,
        "kernel_offsets": kernel_offsets,
        "modulations": modulations,
    }
    check_device(op, neighbors=neighbors, **values)
    dtypes = {name: value.dtype for name, value in values.items() if value is not None}
    if torch.is_autocast_enabled(feats.device.type):  # which casts what is not float64
        dtypes = {name: torch.float32 if dtype in _REDUCED else dtype for name, dtype in dtypes.items()}
    if set(dtypes.values()) not in ({torch.float32}, {torch.float64}):
        got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"{op}: all of float32 or all of float64 expected (reduced precision: use autocast), got {got}")


@torch.library.register_fake("pcseg::kpconv")
def _(query, support, neighbors, feats, weights, kernel_points, sigma, kernel_offsets, modulations) -> Tensor:
    return feats.new_empty(query.shape[0], weights.shape[2])


@torch.library.register_fake("pcseg::kpconv_backward")
def _(grad_out, query, support, neighbors, feats, weights, kernel_points, sigma, kernel_offsets, modulations, *needs):
    inputs = (feats, weights, kernel_offsets, modulations)
    return tuple(
        feats.new_empty(value.shape) if needed and value is not None else feats.new_empty(0)
        for value, needed in zip(inputs, needs)
    )


def _setup_context(ctx, inputs, output) -> None:
    *tensors, sigma, kernel_offsets, modulations = inputs
    ctx.save_for_backward(*tensors, kernel_offsets, modulations)
    ctx.sigma = sigma


def _backward(ctx, grad_out: Tensor):
    *tensors, kernel_offsets, modulations = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (3, 4, 7, 8)]
    grads = torch.ops.pcseg.kpconv_backward(grad_out, *tensors, ctx.sigma, kernel_offsets, modulations, *needs)
    feats, weights, offsets, modulations = (grad if needed else None for grad, needed in zip(grads, needs))
    return None, None, None, feats, weights, None, None, offsets, modulations


torch.library.register_autograd("pcseg::kpconv", _backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("pcseg::kpconv", _device, torch.float32)
