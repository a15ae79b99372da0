"""Largest value over neighbour lists."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops._library import check_device, check_float


def neighbor_max(
    values: Tensor,  # (N, C) float32 or float64
    neighbors: Tensor,  # (M, H) int64 in [0, N], N where there is no neighbour
) -> Tensor:  # (M, C)
    """Largest value of each channel over each list; 0 where a list is empty.

    The gradient goes to the row that attains the maximum, the first of the list where several do. A NaN wins. Unlike
    gathering the lists, this needs memory for the result only. Under autocast the values are cast to float32.

    Returns:
        (M, C), dtype of ``values``.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
        RuntimeError: an index outside [0, N].
    """
    op = "neighbor_max"
    if torch.is_autocast_enabled(values.device.type) and values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    check_float(op, "values", values, "(N, C)")
    if neighbors.ndim != 2:
        raise ValueError(f"{op}: neighbors must be (M, H), got {tuple(neighbors.shape)}")
    if neighbors.dtype != torch.int64:
        raise TypeError(f"{op}: neighbors must be int64, got {neighbors.dtype}")
    check_device(op, values=values, neighbors=neighbors)
    return torch.ops.pcseg.neighbor_max(values, neighbors)[0]


@torch.library.register_fake("pcseg::neighbor_max")
def _(values: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    out = values.new_empty(neighbors.shape[0], values.shape[1])
    return out, torch.empty_like(out, dtype=torch.int32)


@torch.library.register_fake("pcseg::neighbor_max_backward")
def _(grad: Tensor, arg: Tensor, num_rows: int) -> Tensor:
    return grad.new_empty(num_rows, grad.shape[1])


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])
    ctx.num_rows = inputs[0].shape[0]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _grad_arg: Tensor):
    return torch.ops.pcseg.neighbor_max_backward(grad, ctx.saved_tensors[0], ctx.num_rows), None


torch.library.register_autograd("pcseg::neighbor_max", _backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("pcseg::neighbor_max", _device, torch.float32)
