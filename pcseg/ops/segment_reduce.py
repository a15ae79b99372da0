"""Reductions over consecutive rows (CSR ranges)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pcseg.ops._library import check_device, check_float, check_offsets

_KINDS = {"sum": 0, "mean": 1, "max": 2}


def segment_reduce(
    values: Tensor,  # (N, C) float32 or float64
    offsets: Tensor,  # (S + 1,) int64, ascending, within [0, N]
    reduce: Literal["sum", "mean", "max"],
) -> Tensor:  # (S, C)
    """Reduce the rows ``offsets[s]`` to ``offsets[s + 1]`` of ``values`` to row ``s`` of the result.

    An empty segment gives 0. The gradient of ``max`` goes to the first row that attains it; a NaN wins a maximum.

    Returns:
        (S, C), dtype of ``values``.

    Raises:
        ValueError, TypeError: shapes, dtypes, an unknown ``reduce``.
    """
    _check(values, offsets, reduce)
    return torch.ops.pcseg.segment_reduce(values, offsets, _KINDS[reduce])[0]


def _check(values: Tensor, offsets: Tensor, reduce: str) -> None:
    op = "segment_reduce"
    if reduce not in _KINDS:
        raise ValueError(f"{op}: reduce must be one of {', '.join(_KINDS)}, got {reduce!r}")
    check_float(op, "values", values, "(N, C)")
    check_offsets(op, "offsets", offsets)
    check_device(op, values=values, offsets=offsets)


@torch.library.register_fake("pcseg::segment_reduce")
def _(values: Tensor, offsets: Tensor, reduce: int) -> tuple[Tensor, Tensor]:
    segments = offsets.shape[0] - 1
    out = values.new_empty(segments, values.shape[1])
    arg = values.new_empty(segments if reduce == _KINDS["max"] else 0, values.shape[1], dtype=torch.int64)
    return out, arg


def _setup_context(ctx, inputs, output) -> None:
    values, offsets, reduce = inputs
    ctx.save_for_backward(offsets, output[1])
    ctx.num_rows, ctx.reduce = values.shape[0], reduce
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _grad_arg: Tensor):
    offsets, arg = ctx.saved_tensors
    if ctx.reduce == _KINDS["max"]:
        # An empty segment has arg -1; its gradient lands in an extra row that is cut off.
        row = torch.where(arg < 0, ctx.num_rows, arg)
        grad_values = grad.new_zeros(ctx.num_rows + 1, grad.shape[1]).scatter_(0, row, grad)[:-1]
        return grad_values, None, None
    lengths = offsets.diff()
    if ctx.reduce == _KINDS["mean"]:
        grad = grad / lengths.clamp(min=1).unsqueeze(1).to(grad.dtype)
    grad_values = grad.new_zeros(ctx.num_rows, grad.shape[1])
    rows = torch.repeat_interleave(grad, lengths, dim=0)
    grad_values[offsets[0] : offsets[-1]] = rows
    return grad_values, None, None


torch.library.register_autograd("pcseg::segment_reduce", _backward, setup_context=_setup_context)
