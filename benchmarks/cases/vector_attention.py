"""Vector attention, forward and backward in training, against plain, row-chunked and compiled PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.case import Case
from benchmarks.clouds import Clouds
from pcseg import ops

OPS = ("vector_attention",)

ROWS, K, EPS = 40_000, 16, 1e-5
CHUNK = 2048  # rows: their (chunk, k, C) tensors about fit the last-level cache
Pairs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Everything an attention reads; ``leaves`` get gradients."""

    query: Tensor  # (N, C)
    key: Tensor  # (N, C)
    value: Tensor  # (N, C)
    neighbors: Tensor  # (N, k)
    position: Tensor  # (N, k, 3)
    position_weight: Tensor  # (C, 3)
    position_bias: Tensor  # (C,)
    norm_weight: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    weight: Tensor  # (G, C)
    bias: Tensor  # (G,)
    second_norm_weight: Tensor  # (G,)
    second_norm_bias: Tensor  # (G,)
    second_weight: Tensor  # (G, G)
    second_bias: Tensor  # (G,)

    def leaves(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.__slots__ if name != "neighbors"]

    def pairs(self) -> Pairs:
        return self.query, self.key, self.neighbors, self.position, self.position_weight, self.position_bias

    def finish(self, relation: Tensor) -> Tensor:
        """The rest of the weight encoding, in plain PyTorch."""
        flat = relation.flatten(0, 1)
        normed = F.batch_norm(flat, None, None, self.second_norm_weight, self.second_norm_bias, training=True)
        return F.linear(normed.relu(), self.second_weight, self.second_bias).view_as(relation)


def make(coords: Tensor, channels: int, weights: int) -> Layer:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(coords.device).requires_grad_()

    rows = coords.shape[0]
    return Layer(
        query=normal(rows, channels),
        key=normal(rows, channels),
        value=normal(rows, channels),
        neighbors=ops.knn(coords, coords, K)[0],
        position=normal(rows, K, 3),
        position_weight=normal(channels, 3),
        position_bias=normal(channels),
        norm_weight=normal(channels),
        norm_bias=normal(channels),
        weight=normal(weights, channels, scale=channels**-0.5),
        bias=normal(weights),
        second_norm_weight=normal(weights),
        second_norm_bias=normal(weights),
        second_weight=normal(weights, weights, scale=weights**-0.5),
        second_bias=normal(weights),
    )


def folded(layer: Layer, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    scale = layer.norm_weight / (var + EPS).sqrt()
    return scale, layer.norm_bias - mean * scale


def fused(layer: Layer) -> Tensor:
    scale, shift = folded(layer, *ops.attention_statistics(*layer.pairs()))
    relation = ops.attention_relation(*layer.pairs(), scale, shift, layer.weight, layer.bias)
    rest = layer.second_norm_weight, layer.second_norm_bias, layer.second_weight, layer.second_bias
    return ops.norm_attention(relation, *rest, layer.value, *layer.pairs()[2:])[0]


def delta(position: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(position, weight, bias)


def differences(query: Tensor, key: Tensor, neighbors: Tensor, *position: Tensor) -> Tensor:
    return query.unsqueeze(1) - key[neighbors] + delta(*position)


def aggregate(logits: Tensor, value: Tensor, neighbors: Tensor, *position: Tensor) -> Tensor:
    values = value[neighbors] + delta(*position)  # (M, k, C)
    groups = values.unflatten(2, (-1, logits.shape[2]))
    return (groups * logits.softmax(1).unsqueeze(2)).sum(1).flatten(1)


def plain(layer: Layer) -> Tensor:
    x = differences(*layer.pairs())
    normed = F.batch_norm(x.flatten(0, 1), None, None, layer.norm_weight, layer.norm_bias, training=True)
    relation = F.linear(normed.relu(), layer.weight, layer.bias).unflatten(0, x.shape[:2])
    return aggregate(layer.finish(relation), layer.value, *layer.pairs()[2:])


def chunked(layer: Layer) -> Tensor:
    """Rows in chunks, whose large tensors are made again for the gradient."""
    query, key, neighbors, position, *parameters = layer.pairs()

    def sums(query: Tensor, neighbors: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        x = differences(query, key, neighbors, position, *parameters)
        return x.sum((0, 1)), x.square().sum((0, 1))

    def relate(query: Tensor, neighbors: Tensor, position: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        x = differences(query, key, neighbors, position, *parameters)
        return F.linear((x * scale + shift).relu(), layer.weight, layer.bias)

    def attend(logits: Tensor, neighbors: Tensor, position: Tensor) -> Tensor:
        return aggregate(logits, layer.value, neighbors, position, *parameters)

    def each(f: Callable, *by_row: Tensor, rest: tuple[Tensor, ...] = ()) -> list:
        parts = zip(*(rows.split(CHUNK) for rows in by_row))
        return [checkpoint(f, *part, *rest, use_reentrant=False) for part in parts]

    parts = each(sums, query, neighbors, position)
    mean, square = (torch.stack(part).sum(0) / neighbors.numel() for part in zip(*parts))
    norm = folded(layer, mean, square - mean.square())
    logits = layer.finish(torch.cat(each(relate, query, neighbors, position, rest=norm)))
    return torch.cat(each(attend, logits, neighbors, position))


def step(run: Callable[[Layer], Tensor], layer: Layer, grad: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward."""

    def both() -> list[Tensor]:
        out = run(layer)
        return [out.detach(), *torch.autograd.grad(out, layer.leaves(), grad)]

    return both


def compiled() -> Callable[[Layer], Tensor]:
    """``plain``, compiled, on tensors: a dataclass would be guarded field by field."""

    def of_fields(*fields: Tensor) -> Tensor:
        values: dict[str, Any] = dict(zip(Layer.__slots__, fields, strict=True))
        return plain(Layer(**values))

    run = torch.compile(of_fields, dynamic=False)
    return lambda layer: run(*(getattr(layer, name) for name in Layer.__slots__))


def check(ours: Callable[[], list[Tensor]], theirs: Callable[[], list[Tensor]]) -> Callable[[], None]:
    def compare() -> None:
        for a, b in zip(ours(), theirs(), strict=True):
            # By their norms: roundings put a few sums on the other side of a ReLU. The gradient of a bias before a norm
            # is zero but for roundings, hence the 10.
            assert (a - b).norm() <= 2e-2 * (10 + b.norm())

    return compare


def cases(clouds: Clouds) -> Iterator[Case]:
    coords = clouds.ahn3_voxels()[:ROWS]
    rows = coords.shape[0]
    for channels, weights in ((64, 8), (128, 16), (64, 64)):
        layer = make(coords, channels, weights)
        grad = torch.randn(rows, channels, generator=torch.Generator().manual_seed(1)).to(coords.device)
        ours = step(fused, layer, grad)
        peers = {"PyTorch": plain, "PyTorch chunked": chunked, "PyTorch compiled": compiled()}
        # Rows of query, key, value and result with their gradients once; lists, positions and relations with theirs.
        floats = 8 * rows * channels + rows * K * (2 + 2 * 3 + 6 * weights)
        yield Case(
            op="vector_attention",
            variant=f"forward + backward, C = {channels}, G = {weights}, k = {K}",
            input=f"AHN3 voxels, {rows} rows",
            rows=rows,
            ours=ours,
            peers={name: step(run, layer, grad) for name, run in peers.items()},
            bytes_moved=4 * floats,
            flops=2 * rows * K * (3 * channels * weights + 3 * weights * weights + 30 * channels),
            check=check(ours, step(plain, layer, grad)),
        )
