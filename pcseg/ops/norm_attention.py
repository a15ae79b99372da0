"""The end of a vector attention, fused: norm, ReLU, linear layer, softmax and the weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops.norm_linear import check_norm, norm_linear
from pcseg.ops.vector_attention import attention_aggregate, check_dtypes, check_pairs


def norm_attention(
    relation: Tensor,  # (M, k, G)
    norm_weight: Tensor,  # (G,)
    norm_bias: Tensor,  # (G,)
    weight: Tensor,  # (H, G)
    bias: Tensor,  # (H,)
    value: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
    *,
    mean: Tensor | None = None,  # (G,)
    var: Tensor | None = None,  # (G,)
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:  # (M, C), (G,), (G,)
    """``attention_aggregate`` of what ``norm_linear`` makes of the relations.

    The logits are never stored, nor is their gradient: float32 and float64 on a CPU need one tensor of size (M, k, G),
    for the gradient of the relations, where the two ops need three. Everything else (a GPU, autocast, half precision)
    runs the two ops.

    Differentiable, once, in all but ``mean`` and ``var``. Gradients do not depend on the number of threads.

    Args:
        relation: what ``attention_relation`` returns. All (M, k) count for the norm, as in ``norm_linear``.
        weight, bias: a linear layer, as ``torch.nn.Linear`` keeps it; H divides C.
        mean, var: statistics to use, both or none.
        eps: added to the variance.

    Returns:
        The result, and the mean and biased variance that were used, without gradient.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
        RuntimeError: an index outside [0, N].

    Source: Zhao et al., Point Transformer, ICCV 2021, eq. 3.
    """
    op = "norm_attention"
    _check(op, relation, weight, value, neighbors, position, position_weight, position_bias)
    check_norm(op, relation.flatten(0, 1), norm_weight, norm_bias, weight, bias, mean, var)
    norm = (norm_weight, norm_bias, weight, bias)
    pairs = (value, neighbors, position, position_weight, position_bias)
    if relation.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        rows, mean, var = norm_linear(relation.flatten(0, 1), *norm, mean=mean, var=var, eps=eps)
        return attention_aggregate(rows.unflatten(0, neighbors.shape), *pairs), mean, var
    if mean is None or var is None:
        used, of_batch = (norm_bias.detach(), norm_bias.detach()), True
    else:
        used, of_batch = (mean.detach(), var.detach()), False
    return torch.ops.pcseg.norm_attention(relation, *norm[:2], *used, *norm[2:], *pairs, eps, of_batch)


def _check(
    op: str,
    relation: Tensor,
    weight: Tensor,
    value: Tensor,
    neighbors: Tensor,
    position: Tensor,
    position_weight: Tensor,
    position_bias: Tensor,
) -> None:
    check_pairs(op, "value", None, value, neighbors, position, position_weight, position_bias)
    rows, places = neighbors.shape
    if relation.ndim != 3 or relation.shape[:2] != (rows, places):
        raise ValueError(f"{op}: relation must be (M = {rows}, k = {places}, G), got {tuple(relation.shape)}")
    if weight.ndim == 2 and weight.shape[0] and value.shape[1] % weight.shape[0]:
        expected = f"a number of rows that divides C = {value.shape[1]}"
        raise ValueError(f"{op}: weight must have {expected}, got {tuple(weight.shape)}")
    rest = {"position": position, "position_weight": position_weight, "position_bias": position_bias}
    check_dtypes(op, neighbors, relation=relation, value=value, **rest)


@torch.library.register_fake("pcseg::norm_attention")
def _(relation, norm_weight, norm_bias, mean, var, weight, bias, value, neighbors, *rest):
    channels = norm_bias.shape[0]
    out = value.new_empty(neighbors.shape[0], value.shape[1])
    return out, relation.new_empty(channels), relation.new_empty(channels)


@torch.library.register_fake("pcseg::norm_attention_backward")
def _(
    grad_out, relation, norm_weight, norm_bias, mean, var, weight, bias, value, neighbors, position, position_weight,
    position_bias, eps, of_batch,
):  # fmt: skip
    like = (relation, norm_weight, norm_bias, weight, bias, value, position, position_weight, position_bias)
    return tuple(given.new_empty(given.shape) for given in like)


def _setup_context(ctx, inputs, output) -> None:
    relation, norm_weight, norm_bias, _, _, *rest, ctx.eps, ctx.of_batch = inputs
    _, mean, var = output
    ctx.save_for_backward(relation, norm_weight, norm_bias, mean, var, *rest)
    ctx.mark_non_differentiable(mean, var)


def _backward(ctx, grad_out: Tensor, _grad_mean: Tensor, _grad_var: Tensor):
    grads = torch.ops.pcseg.norm_attention_backward(grad_out, *ctx.saved_tensors, ctx.eps, ctx.of_batch)
    relation, norm_weight, norm_bias, weight, bias, value, *position = grads
    return relation, norm_weight, norm_bias, None, None, weight, bias, value, None, *position, None, None


torch.library.register_autograd("pcseg::norm_attention", _backward, setup_context=_setup_context)
