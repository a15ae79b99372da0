"""Reductions over consecutive rows (CSR ranges)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_float, check_offsets

_KINDS = {"sum": 0, "mean": 1, "max": 2}


def segment_reduce(
    values: Tensor,  # (N, C) float32 or float64
    offsets: Tensor,  # (S + 1,) int64, ascending, within [0, N]
    reduce: Literal["sum", "mean", "max"],
    *,
    backend: Literal["pcseg", "torch_scatter"] = "pcseg",
) -> Tensor:  # (S, C)
    """Reduce the rows ``offsets[s]`` to ``offsets[s + 1]`` of ``values`` to row ``s`` of the result.

    An empty segment gives 0. The gradient of ``max`` goes to the first row that attains it; a NaN wins a maximum.
    Differentiable in ``values``, once. Neither values nor gradients depend on the number of threads. Under autocast
    reduced-precision ``values`` are cast to float32.

    Args:
        backend: "torch_scatter" computes it with ``torch_scatter.segment_csr``, which is optional
            (``pip install pcseg[scatter]``). It checks no offsets, and with equal maxima or NaN may differ.

    Returns:
        (S, C), dtype of ``values``.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, offsets, an unknown ``reduce`` or ``backend``.
        ImportError: ``backend="torch_scatter"`` without that package.
    """
    op = "segment_reduce"
    if reduce not in _KINDS:
        raise ValueError(f"{op}: reduce must be one of {', '.join(_KINDS)}, got {reduce!r}")
    check_float(op, "values", values, "(N, C)")
    check_offsets(op, "offsets", offsets)
    check_device(op, values=values, offsets=offsets)
    if backend == "torch_scatter":
        return _torch_scatter(values, offsets, reduce)
    if backend != "pcseg":
        raise ValueError(f"{op}: backend must be pcseg or torch_scatter, got {backend!r}")
    return call(torch.ops.pcseg.segment_reduce, values, offsets, _KINDS[reduce])[0]


def _torch_scatter(values: Tensor, offsets: Tensor, reduce: str) -> Tensor:
    try:
        import torch_scatter  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:  # OSError: built for another torch
        raise ImportError(
            f"segment_reduce: backend='torch_scatter' needs that package ({error}): pip install pcseg[scatter]"
        ) from error
    # segment_csr divides by zero where nothing is to do, and leaves the gradient of rows in no segment undefined.
    used = values[int(offsets[0]) : int(offsets[-1])]
    if used.numel() == 0:
        return values.new_zeros(offsets.shape[0] - 1, values.shape[1]) + 0 * values.sum()
    return torch_scatter.segment_csr(used, offsets - offsets[0], reduce=reduce)


@torch.library.register_fake("pcseg::segment_reduce")
def _(values: Tensor, offsets: Tensor, reduce: int) -> tuple[Tensor, Tensor]:
    segments = offsets.shape[0] - 1
    out = values.new_empty(segments, values.shape[1])
    return out, values.new_empty(segments if reduce == _KINDS["max"] else 0, values.shape[1], dtype=torch.int64)


@torch.library.register_fake("pcseg::segment_reduce_backward")
def _(grad: Tensor, offsets: Tensor, arg: Tensor, num_rows: int, reduce: int) -> Tensor:
    return grad.new_empty(num_rows, grad.shape[1])


def _setup_context(ctx, inputs, output) -> None:
    values, offsets, reduce = inputs
    ctx.save_for_backward(offsets, output[1])
    ctx.num_rows, ctx.reduce = values.shape[0], reduce
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _grad_arg: Tensor):
    offsets, arg = ctx.saved_tensors
    return torch.ops.pcseg.segment_reduce_backward(grad, offsets, arg, ctx.num_rows, ctx.reduce), None, None


torch.library.register_autograd("pcseg::segment_reduce", _backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("pcseg::segment_reduce", _device, torch.float32)
