"""Rows of neighbours: the one reader of padded neighbour lists."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_float


def gather_neighbors(
    values: Tensor,  # (N, C) float32 or float64
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    fill: float = 0.0,
) -> Tensor:  # (M, k, C)
    """The rows of ``values`` that ``neighbors`` names, ``fill`` where there is none.

    Differentiable in ``values``, any number of times. A gradient is summed in the order of the entries of
    ``neighbors``, whatever the number of threads. Under autocast reduced-precision ``values`` are cast to float32.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, an index outside [0, N].
    """
    op = "gather_neighbors"
    check_float(op, "values", values, "(N, C)")
    if neighbors.ndim != 2:
        raise ValueError(f"{op}: neighbors must be (M, k), got {tuple(neighbors.shape)}")
    if neighbors.dtype != torch.int64:
        raise TypeError(f"{op}: neighbors must be int64, got {neighbors.dtype}")
    check_device(op, values=values, neighbors=neighbors)
    return call(torch.ops.pcseg.gather_neighbors, values, neighbors, float(fill))


@torch.library.register_fake("pcseg::gather_neighbors")
def _(values: Tensor, neighbors: Tensor, fill: float) -> Tensor:
    return values.new_empty(*neighbors.shape, values.shape[1])


@torch.library.register_fake("pcseg::gather_neighbors_backward")
def _(grad: Tensor, neighbors: Tensor, num_rows: int) -> Tensor:
    return grad.new_empty(num_rows, grad.shape[2])


def _setup_context(ctx, inputs, output) -> None:
    values, neighbors, _ = inputs
    ctx.save_for_backward(neighbors)
    ctx.num_rows = values.shape[0]


def _backward(ctx, grad: Tensor):
    return torch.ops.pcseg.gather_neighbors_backward(grad, ctx.saved_tensors[0], ctx.num_rows), None, None


def _setup_second(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])


def _second_backward(ctx, grad: Tensor):
    return torch.ops.pcseg.gather_neighbors(grad, ctx.saved_tensors[0], 0.0), None, None


torch.library.register_autograd("pcseg::gather_neighbors", _backward, setup_context=_setup_context)
torch.library.register_autograd("pcseg::gather_neighbors_backward", _second_backward, setup_context=_setup_second)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("pcseg::gather_neighbors", _device, torch.float32)
