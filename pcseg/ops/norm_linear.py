"""Norm, ReLU and a linear layer on many rows of few channels: torch's own on a GPU, ours on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.ops._library import check_device, check_float


def norm_linear(
    rows: Tensor,  # (R, C)
    norm_weight: Tensor,  # (C,)
    norm_bias: Tensor,  # (C,)
    weight: Tensor,  # (O, C)
    bias: Tensor,  # (O,)
    *,
    mean: Tensor | None = None,  # (C,)
    var: Tensor | None = None,  # (C,)
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:  # (R, O), (C,), (C,)
    """``Linear(ReLU(BatchNorm(rows)))``: what ends the weight encoding of a vector attention.

    Without ``mean`` and ``var`` the norm uses the rows' own, as in training. float32 and float64 on a CPU run on our
    kernels, in one pass and without tensors in between: for few channels the time goes into passes over memory.
    Everything else (a GPU, autocast, half precision) is torch's.

    Differentiable, once, in all but ``mean`` and ``var``. Gradients do not depend on the number of threads on a CPU.

    Args:
        weight, bias: a linear layer, as ``torch.nn.Linear`` keeps it.
        mean, var: statistics to use, both or none.
        eps: added to the variance.

    Returns:
        The result, and the mean and biased variance that were used, without gradient.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
    """
    check_norm("norm_linear", rows, norm_weight, norm_bias, weight, bias, mean, var)
    if rows.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        if mean is None or var is None:
            return torch.ops.pcseg.norm_linear(
                rows, norm_weight, norm_bias, norm_bias.detach(), norm_bias.detach(), weight, bias, eps, True
            )
        return torch.ops.pcseg.norm_linear(
            rows, norm_weight, norm_bias, mean.detach(), var.detach(), weight, bias, eps, False
        )
    if mean is None or var is None:
        normed = F.batch_norm(rows, None, None, norm_weight, norm_bias, training=True, eps=eps)
        values = rows.detach()
        var, mean = torch.var_mean(values if values.dtype.itemsize >= 4 else values.float(), 0, correction=0)
    else:
        normed = F.batch_norm(rows, mean, var, norm_weight, norm_bias, eps=eps)
    return F.linear(normed.relu(), weight, bias), mean, var


def check_norm(
    op: str,
    rows: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
) -> None:
    check_float(op, "rows", rows, "(R, C)")
    check_float(op, "weight", weight, "(O, C)")
    channels, outputs = rows.shape[1], weight.shape[0]
    if channels < 1 or outputs < 1 or weight.shape[1] != channels:
        raise ValueError(f"{op}: weight must be (O >= 1, C = {channels} >= 1), got {tuple(weight.shape)}")
    if (mean is None) != (var is None):
        raise ValueError(f"{op}: mean and var must be given together or not at all")
    vectors = {"norm_weight": norm_weight, "norm_bias": norm_bias, "mean": mean, "var": var, "bias": bias}
    for name, value in vectors.items():
        size = outputs if name == "bias" else channels
        if value is not None and tuple(value.shape) != (size,):
            raise ValueError(f"{op}: {name} must be ({size},), got {tuple(value.shape)}")
    check_device(op, rows=rows, weight=weight, **vectors)
    values = {"rows": rows, "weight": weight, **{name: v for name, v in vectors.items() if v is not None}}
    if len({v.dtype for v in values.values()}) > 1 and not torch.is_autocast_enabled(rows.device.type):
        got = ", ".join(f"{name} {v.dtype}" for name, v in values.items())
        raise TypeError(f"{op}: one dtype expected, got {got}")


@torch.library.register_fake("pcseg::norm_linear")
def _(rows, norm_weight, norm_bias, mean, var, weight, bias, eps, of_batch) -> tuple[Tensor, Tensor, Tensor]:
    channels = norm_bias.shape[0]
    return rows.new_empty(rows.shape[0], weight.shape[0]), rows.new_empty(channels), rows.new_empty(channels)


@torch.library.register_fake("pcseg::norm_linear_backward")
def _(grad_out, rows, norm_weight, norm_bias, mean, var, weight, bias, eps, of_batch):
    return tuple(value.new_empty(value.shape) for value in (rows, norm_weight, norm_bias, weight, bias))


def _setup_context(ctx, inputs, output) -> None:
    rows, norm_weight, norm_bias, _, _, weight, bias, ctx.eps, ctx.of_batch = inputs
    _, mean, var = output
    ctx.save_for_backward(rows, norm_weight, norm_bias, mean, var, weight, bias)
    ctx.mark_non_differentiable(mean, var)


def _backward(ctx, grad_out: Tensor, _grad_mean: Tensor, _grad_var: Tensor):
    grads = torch.ops.pcseg.norm_linear_backward(grad_out, *ctx.saved_tensors, ctx.eps, ctx.of_batch)
    rows, norm_weight, norm_bias, weight, bias = grads
    return rows, norm_weight, norm_bias, None, None, weight, bias, None, None


torch.library.register_autograd("pcseg::norm_linear", _backward, setup_context=_setup_context)
