"""Vector attention of a point transformer, fused: no tensor of size (M, k, C) is made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcseg.ops._library import check_device

_REDUCED = (torch.float16, torch.bfloat16)


def attention_relation(
    query: Tensor,  # (M, C) float32 or float64
    key: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
    scale: Tensor,  # (C,)
    shift: Tensor,  # (C,)
    weight: Tensor,  # (G, C)
    bias: Tensor,  # (G,)
) -> Tensor:  # (M, k, G)
    """``Linear(ReLU(scale * x + shift))`` of the differences ``x = query[m] - key[j] + delta`` between neighbours.

    ``delta = position_weight @ position[m, h] + position_bias`` is the position encoding, given by the low-dimensional
    layer before its last linear one. ``scale`` and ``shift`` are a folded BatchNorm (its statistics in training:
    ``attention_statistics``), or ones and zeros. A place without neighbour gives 0 and gets no gradient.

    Differentiable in everything of floating point, once. Gradients do not depend on the number of threads. Under
    autocast everything is cast to float32.

    Args:
        position: hidden layer of the position encoding; P is small, usually 3.
        weight, bias: a linear layer, as ``torch.nn.Linear`` keeps it.

    Returns:
        (M, k, G), dtype of ``key``.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
        RuntimeError: an index outside [0, N].

    Source: Zhao et al., Point Transformer, ICCV 2021, eq. 3.
    """
    op = "attention_relation"
    check_pairs(op, "key", query, key, neighbors, position, position_weight, position_bias)
    channels = key.shape[1]
    for name, value in (("scale", scale), ("shift", shift)):
        _check_shape(op, name, value, f"(C = {channels},)", (channels,))
    if weight.ndim != 2 or weight.shape[0] < 1 or weight.shape[1] != channels:
        raise ValueError(f"{op}: weight must be (G >= 1, C = {channels}), got {tuple(weight.shape)}")
    _check_shape(op, "bias", bias, f"(G = {weight.shape[0]},)", (weight.shape[0],))
    values = {"scale": scale, "shift": shift, "weight": weight, "bias": bias}
    check_dtypes(op, neighbors, query=query, key=key, **_position(position, position_weight, position_bias), **values)
    return torch.ops.pcseg.attention_relation(
        query, key, neighbors, position, position_weight, position_bias, scale, shift, weight, bias
    )


def attention_statistics(
    query: Tensor,  # (M, C) float32 or float64
    key: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
) -> tuple[Tensor, Tensor]:  # (C,), (C,)
    """Mean and biased variance, per channel, of the differences that ``attention_relation`` normalises.

    Over all pairs that have a neighbour; 0 where there is none. Summed in float64. Differentiable in everything of
    floating point, once, so that a BatchNorm in training becomes ``scale = w / sqrt(var + eps)`` and
    ``shift = b - mean * scale``. Gradients do not depend on the number of threads. Under autocast everything is cast to
    float32.

    Returns:
        mean, var: dtype of ``key``.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
        RuntimeError: an index outside [0, N].
    """
    op = "attention_statistics"
    check_pairs(op, "key", query, key, neighbors, position, position_weight, position_bias)
    check_dtypes(op, neighbors, query=query, key=key, **_position(position, position_weight, position_bias))
    return torch.ops.pcseg.attention_statistics(query, key, neighbors, position, position_weight, position_bias)


def attention_aggregate(
    logits: Tensor,  # (M, k, G) float32 or float64
    value: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
) -> Tensor:  # (M, C)
    """Softmax of the logits over each list of neighbours, and the sum of ``value[j] + delta`` with these weights.

    ``delta`` as in ``attention_relation``. Channel c has the weight ``c % G``. A place without neighbour has no weight,
    a row without neighbours gives 0.

    Differentiable in everything of floating point, once. Gradients do not depend on the number of threads. Under
    autocast everything is cast to float32.

    Args:
        logits: G divides C.

    Returns:
        (M, C), dtype of ``value``.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
        RuntimeError: an index outside [0, N].

    Source: Zhao et al., Point Transformer, ICCV 2021, eq. 3; the authors' code shares a weight among 8 channels.
    """
    op = "attention_aggregate"
    check_pairs(op, "value", None, value, neighbors, position, position_weight, position_bias)
    rows, places, channels = *neighbors.shape, value.shape[1]
    if logits.ndim != 3 or logits.shape[:2] != (rows, places) or logits.shape[2] < 1 or channels % logits.shape[2]:
        expected = f"(M = {rows}, k = {places}, G) with a G that divides C = {channels}"
        raise ValueError(f"{op}: logits must be {expected}, got {tuple(logits.shape)}")
    check_dtypes(op, neighbors, logits=logits, value=value, **_position(position, position_weight, position_bias))
    return torch.ops.pcseg.attention_aggregate(logits, value, neighbors, position, position_weight, position_bias)


def vector_attention(
    query: Tensor,  # (M, C) float32 or float64
    key: Tensor,  # (N, C)
    value: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
    scale: Tensor,  # (C,)
    shift: Tensor,  # (C,)
    weight: Tensor,  # (G, C)
    bias: Tensor,  # (G,)
    finish: Callable[[Tensor], Tensor],  # (M, k, G) -> (M, k, G)
) -> Tensor:  # (M, C)
    """``attention_aggregate(finish(attention_relation(...)), ...)``: the whole attention.

    ``finish`` is what the weight encoding gamma does after its first linear layer: usually norm, ReLU and a linear
    layer of G channels.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices.
        RuntimeError: an index outside [0, N].

    Source: Zhao et al., Point Transformer, ICCV 2021, eq. 3.
    """
    relation = attention_relation(
        query, key, neighbors, position, position_weight, position_bias, scale, shift, weight, bias
    )
    return attention_aggregate(finish(relation), value, neighbors, position, position_weight, position_bias)


def _position(position: Tensor, position_weight: Tensor, position_bias: Tensor) -> dict[str, Tensor]:
    return {"position": position, "position_weight": position_weight, "position_bias": position_bias}


def _check_shape(op: str, name: str, value: Tensor, expected: str, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{op}: {name} must be {expected}, got {tuple(value.shape)}")


def check_pairs(
    op: str,
    key_name: str,
    query: Tensor | None,
    key: Tensor,
    neighbors: Tensor,
    position: Tensor,
    position_weight: Tensor,
    position_bias: Tensor,
) -> None:
    if key.ndim != 2 or key.shape[1] < 1:
        raise ValueError(f"{op}: {key_name} must be (N, C >= 1), got {tuple(key.shape)}")
    channels = key.shape[1]
    if neighbors.ndim != 2:
        raise ValueError(f"{op}: neighbors must be (M, k), got {tuple(neighbors.shape)}")
    if neighbors.dtype != torch.int64:
        raise TypeError(f"{op}: neighbors must be int64, got {neighbors.dtype}")
    rows, places = neighbors.shape
    if query is not None:
        _check_shape(op, "query", query, f"(M = {rows}, C = {channels})", (rows, channels))
    if position.ndim != 3 or position.shape[:2] != (rows, places) or position.shape[2] < 1:
        raise ValueError(f"{op}: position must be (M = {rows}, k = {places}, P >= 1), got {tuple(position.shape)}")
    width = position.shape[2]
    _check_shape(op, "position_weight", position_weight, f"(C = {channels}, P = {width})", (channels, width))
    _check_shape(op, "position_bias", position_bias, f"(C = {channels},)", (channels,))


def check_dtypes(op: str, neighbors: Tensor, **values: Tensor) -> None:
    check_device(op, neighbors=neighbors, **values)
    dtypes = {name: value.dtype for name, value in values.items()}
    if torch.is_autocast_enabled(neighbors.device.type):  # which casts what is not float64
        dtypes = {name: torch.float32 if dtype in _REDUCED else dtype for name, dtype in dtypes.items()}
    if set(dtypes.values()) not in ({torch.float32}, {torch.float64}):
        got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"{op}: all of float32 or all of float64 expected (reduced precision: use autocast), got {got}")


@torch.library.register_fake("pcseg::attention_relation")
def _(query, key, neighbors, position, position_weight, position_bias, scale, shift, weight, bias) -> Tensor:
    return key.new_empty(*neighbors.shape, weight.shape[0])


@torch.library.register_fake("pcseg::attention_statistics")
def _(query, key, neighbors, position, position_weight, position_bias) -> tuple[Tensor, Tensor]:
    return key.new_empty(key.shape[1]), key.new_empty(key.shape[1])


@torch.library.register_fake("pcseg::attention_aggregate")
def _(logits, value, neighbors, position, position_weight, position_bias) -> Tensor:
    return value.new_empty(neighbors.shape[0], value.shape[1])


def _empty_like(*values: Tensor) -> tuple[Tensor, ...]:
    return tuple(value.new_empty(value.shape) for value in values)


@torch.library.register_fake("pcseg::attention_relation_backward")
def _(grad_out, query, key, neighbors, *rest):
    return _empty_like(query, key, *rest)


@torch.library.register_fake("pcseg::attention_statistics_backward")
def _(grad_mean, grad_var, mean, query, key, neighbors, *rest):
    return _empty_like(query, key, *rest)


@torch.library.register_fake("pcseg::attention_aggregate_backward")
def _(grad_out, logits, value, neighbors, *rest):
    return _empty_like(logits, value, *rest)


def _save_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _save_inputs_and_mean(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[0], *inputs)


def _relation_backward(ctx, grad_out: Tensor):
    query, key, *rest = torch.ops.pcseg.attention_relation_backward(grad_out, *ctx.saved_tensors)
    return query, key, None, *rest


def _statistics_backward(ctx, grad_mean: Tensor, grad_var: Tensor):
    query, key, *rest = torch.ops.pcseg.attention_statistics_backward(grad_mean, grad_var, *ctx.saved_tensors)
    return query, key, None, *rest


def _aggregate_backward(ctx, grad_out: Tensor):
    logits, value, *rest = torch.ops.pcseg.attention_aggregate_backward(grad_out, *ctx.saved_tensors)
    return logits, value, None, *rest


for _op, _backward, _setup_context in (
    ("pcseg::attention_relation", _relation_backward, _save_inputs),
    ("pcseg::attention_statistics", _statistics_backward, _save_inputs_and_mean),
    ("pcseg::attention_aggregate", _aggregate_backward, _save_inputs),
):
    torch.library.register_autograd(_op, _backward, setup_context=_setup_context)
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast(_op, _device, torch.float32)
