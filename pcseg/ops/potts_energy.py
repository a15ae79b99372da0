"""Pairwise Potts energy of soft labels over neighbour lists, fused."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from pcseg.ops._library import check_device

Relaxation = Literal["bl", "q", "nq", "cce", "cd", "lq"]
RELAXATIONS: tuple[Relaxation, ...] = get_args(Relaxation)

_REDUCED = (torch.float16, torch.bfloat16)


def potts_energy(
    log_probs: Tensor,  # (N, K) float32 or float64
    neighbors: Tensor,  # (N, k) int64 in [0, N], N where there is no neighbour
    edge_weight: Tensor,  # (N, k), dtype of log_probs
    relaxation: Relaxation,
) -> Tensor:  # (N,)
    """Sum over each row's neighbours j of ``edge_weight * P(row, row j)``, P a relaxation of [labels differ].

    The energy of a graph is the sum of the result. A symmetric list names each pair twice, so its builder gives each
    direction half the weight. Slots without neighbour cost nothing, whatever their weight.

    With p, q the probabilities at the ends of an edge: ``"bl"`` 1 - p.q, ``"q"`` |p - q|^2 / 2, ``"nq"`` the same of
    p / |p| and q / |q|, ``"cce"`` -log p.q, ``"cd"`` -log of the cosine of p and q, ``"lq"`` -log(1 - |p - q|^2 / 2).
    Log-probabilities below -30 count as -30 and get no gradient there, so that one-hot ends of different class cost a
    large finite energy in the last three (about 29 in ``"cce"`` and ``"cd"``). ``"lq"`` is computed as -log(p.q + half
    of both ends' sum p_k (1 - p_k)), 1 - p_k being the sum of the others: the same where rows sum to 1, as they must,
    and free of cancellation.

    The gradient reaches both ends of each edge and ``edge_weight``, once; results do not depend on the number of
    threads. Nothing of size (N, k, K) is made. Under autocast everything is cast to float32.

    Args:
        log_probs: logarithms of probabilities, such as ``log_softmax`` of logits; -inf is allowed.

    Returns:
        (N,), dtype of ``log_probs``.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, an unknown relaxation.
        RuntimeError: an index outside [0, N].

    Source: Zhang and Boykov, Soft self-labeling and Potts relaxations for weakly-supervised segmentation, CVPR 2025
    (the six relaxations; the floor and the stable form of LQ are ours).
    """
    op = "potts_energy"
    if neighbors.ndim != 2 or neighbors.shape[:1] != log_probs.shape[:1]:
        rows = log_probs.shape[0] if log_probs.ndim else "N"
        raise ValueError(f"{op}: neighbors must be (N = {rows}, k), got {tuple(neighbors.shape)}")
    code = _check(op, log_probs, {"neighbors": neighbors}, edge_weight, relaxation)
    return torch.ops.pcseg.potts_energy(log_probs, neighbors, edge_weight, None, code)


def potts_energy_csr(
    log_probs: Tensor,  # (N, K) float32 or float64
    edge_offsets: Tensor,  # (N + 1,) int64, edge_offsets[0] == 0, edge_offsets[-1] == E
    edge_index: Tensor,  # (E,) int64 in [0, N], N for no edge
    edge_weight: Tensor,  # (E,), dtype of log_probs
    relaxation: Relaxation,
) -> Tensor:  # (N,)
    """``potts_energy`` on a graph of uneven degree: row i has the edges edge_offsets[i] .. edge_offsets[i + 1] - 1.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, an unknown relaxation.
        RuntimeError: an index outside [0, N]; offsets that do not ascend from 0 to E.
    """
    op = "potts_energy_csr"
    if log_probs.ndim == 2 and tuple(edge_offsets.shape) != (log_probs.shape[0] + 1,):
        raise ValueError(
            f"{op}: edge_offsets must be (N + 1 = {log_probs.shape[0] + 1},), got {tuple(edge_offsets.shape)}"
        )
    if edge_index.ndim != 1:
        raise ValueError(f"{op}: edge_index must be (E,), got {tuple(edge_index.shape)}")
    code = _check(op, log_probs, {"edge_index": edge_index, "edge_offsets": edge_offsets}, edge_weight, relaxation)
    return torch.ops.pcseg.potts_energy(log_probs, edge_index, edge_weight, edge_offsets, code)


def _check(op: str, log_probs: Tensor, indices: dict[str, Tensor], edge_weight: Tensor, relaxation: str) -> int:
    """The shared checks; returns the relaxation's number."""
    if log_probs.ndim != 2 or log_probs.shape[1] < 1:
        raise ValueError(f"{op}: log_probs must be (N, K) with K >= 1, got {tuple(log_probs.shape)}")
    name, index = next(iter(indices.items()))
    if edge_weight.shape != index.shape:
        raise ValueError(
            f"{op}: edge_weight must have the shape of {name}, {tuple(index.shape)}, got {tuple(edge_weight.shape)}"
        )
    for name, index in indices.items():
        if index.dtype != torch.int64:
            raise TypeError(f"{op}: {name} must be int64, got {index.dtype}")
    dtypes = [log_probs.dtype, edge_weight.dtype]
    if torch.is_autocast_enabled(log_probs.device.type):  # which casts what is not float64
        dtypes = [torch.float32 if dtype in _REDUCED else dtype for dtype in dtypes]
    if set(dtypes) not in ({torch.float32}, {torch.float64}):
        raise TypeError(
            f"{op}: log_probs and edge_weight must both be float32 or both float64 (reduced precision: use autocast), "
            f"got {log_probs.dtype} and {edge_weight.dtype}"
        )
    check_device(op, log_probs=log_probs, edge_weight=edge_weight, **indices)
    if relaxation not in RELAXATIONS:
        raise ValueError(f"{op}: relaxation must be one of {', '.join(RELAXATIONS)}, got {relaxation!r}")
    return RELAXATIONS.index(relaxation)


@torch.library.register_fake("pcseg::potts_energy")
def _(log_probs, edge_index, edge_weight, edge_offsets, relaxation) -> Tensor:
    return log_probs.new_empty(log_probs.shape[0])


@torch.library.register_fake("pcseg::potts_energy_backward")
def _(grad, log_probs, edge_index, edge_weight, edge_offsets, relaxation, need_probs, need_weight):
    return (
        log_probs.new_empty(log_probs.shape if need_probs else 0),
        edge_weight.new_empty(edge_weight.shape if need_weight else 0),
    )


def _setup_context(ctx, inputs, output) -> None:
    log_probs, edge_index, edge_weight, edge_offsets, ctx.relaxation = inputs
    ctx.save_for_backward(log_probs, edge_index, edge_weight, edge_offsets)


def _backward(ctx, grad: Tensor):
    need_probs, _, need_weight = ctx.needs_input_grad[:3]
    grad_probs, grad_weight = torch.ops.pcseg.potts_energy_backward(
        grad, *ctx.saved_tensors, ctx.relaxation, need_probs, need_weight
    )
    return grad_probs if need_probs else None, None, grad_weight if need_weight else None, None, None


torch.library.register_autograd("pcseg::potts_energy", _backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("pcseg::potts_energy", _device, torch.float32)
