"""The linear layer without bias, on rows: torch's own on a GPU, ours on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.ops._library import check_device, check_float


def linear(
    rows: Tensor,  # (N, C)
    weight: Tensor,  # (O, C)
) -> Tensor:  # (N, O)
    """``rows @ weight.T``, as ``torch.nn.functional.linear``.

    float32 and float64 on a CPU run on our kernels: torch's CPU build leaves products to MKL, which reaches half of
    what a processor with AVX-512 can where it is not Intel's, and whose sums may depend on the number of threads.
    Everything else (a GPU, autocast, half precision) is torch's.

    Differentiable, once, in both.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
    """
    if rows.device.type != "cpu" or torch.is_autocast_enabled("cpu") or rows.dtype in (torch.float16, torch.bfloat16):
        return F.linear(rows, weight)
    _check(rows, weight)
    return torch.ops.pcseg.linear(rows, weight)


def _check(rows: Tensor, weight: Tensor) -> None:
    op = "linear"
    check_float(op, "rows", rows, "(N, C)")
    check_float(op, "weight", weight, "(O, C)")
    if weight.shape[1] != rows.shape[1]:
        raise ValueError(f"{op}: weight must be (O, C = {rows.shape[1]}), got {tuple(weight.shape)}")
    if rows.dtype != weight.dtype:
        raise TypeError(f"{op}: rows and weight must have one dtype, got {rows.dtype} and {weight.dtype}")
    check_device(op, rows=rows, weight=weight)


@torch.library.register_fake("pcseg::linear")
def _(rows: Tensor, weight: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


@torch.library.register_fake("pcseg::linear_backward")
def _(grad_out: Tensor, rows: Tensor, weight: Tensor, need_rows: bool, need_weight: bool) -> tuple[Tensor, Tensor]:
    return (
        rows.new_empty(rows.shape if need_rows else (0,)),
        rows.new_empty(weight.shape if need_weight else (0,)),
    )


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_out: Tensor):
    needs = ctx.needs_input_grad
    grads = torch.ops.pcseg.linear_backward(grad_out, *ctx.saved_tensors, *needs)
    return tuple(grad if needed else None for grad, needed in zip(grads, needs))


torch.library.register_autograd("pcseg::linear", _backward, setup_context=_setup_context)
