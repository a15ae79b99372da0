"""Parts of a point transformer on packed rows: vector attention, transitions down and up, the mean of a cloud.

No tensor of size (N, k, C) is made: a norm over pairs of rows is folded into the op that reads it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcseg import ops
from pcseg.models.layers import RowBatchNorm


class Neighborhood(NamedTuple):
    """Neighbour lists with where the neighbours are; one for all layers of a level."""

    neighbors: Tensor  # (M, k) int64, N where there is no neighbour
    relative: Tensor  # (M, k, D) query minus neighbour; 0 where there is none
    mean: Tensor  # (D,) of ``relative`` over the pairs that exist
    covariance: Tensor  # (D, D) likewise
    count: Tensor  # () int64, pairs that exist
    complete: bool  # all of them do


@torch.no_grad()
def neighborhood(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    *,
    complete: bool = False,
) -> Neighborhood:
    """Where the neighbours of each query are. Without gradients to the coordinates.

    Args:
        complete: known to have no empty place.
    """
    relative = query.unsqueeze(1) - ops.gather_neighbors(support, neighbors)
    present = neighbors < support.shape[0]
    if not complete:
        relative = relative * present.unsqueeze(2)
    count = present.sum()
    pairs = relative.flatten(0, 1).double()
    total = count.clamp(min=1)
    mean = pairs.sum(0) / total
    covariance = pairs.T @ pairs / total - torch.outer(mean, mean)
    return Neighborhood(neighbors, relative, mean.to(query), covariance.to(query), count, complete)


def of_coords(coords: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # (..., D), (O, D) -> (..., O)
    """A linear layer in full precision, under autocast too: reduced, coordinates would lose their last places."""
    with torch.autocast(coords.device.type, enabled=False):
        return F.linear(coords, weight, bias)


class PairNorm(nn.BatchNorm1d):
    """Batch norm over pairs that are never stored: its statistics come from elsewhere, and it becomes an affine map.

    As :class:`RowBatchNorm`, it uses the running statistics where there are fewer than two rows in training.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def of_batch(self, rows: int) -> bool:
        """Whether the statistics of the batch are wanted."""
        return self.training and rows >= 2

    def fold(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (C,) of the norm with these statistics."""
        scale = self.weight * torch.rsqrt(var + self.eps)
        return scale, self.bias - mean * scale

    @torch.no_grad()
    def note(
        self,
        mean: Tensor,  # (C,)
        var: Tensor,  # (C,) biased
        count: Tensor,  # () of pairs
    ) -> None:
        """Take a batch into the running statistics."""
        unbiased = var.detach() * (count / (count - 1).clamp(min=1)).to(var)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked.add_(1)


Pairs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # value, neighbors, position, its weight and bias


class VectorAttention(nn.Module):
    """Softmax over neighbours of one weight for each group of channels, times value and position encoding.

    Args:
        channels: C in and out.
        dim: D of the coordinates.
        share: channels that share a weight; it divides C.
        momentum: of the norms.

    Source: Zhao et al. 2021, Point Transformer, equations 3 and 4. As in the authors' code a norm follows each linear
    layer but the last of both encodings, ``share`` channels have one weight, and the position encoding's hidden layer
    has D channels; the paper has no norms, no sharing, and does not say its hidden width. The code's differences are
    neighbour minus query for features and positions; ours have the paper's sign, which the weights absorb.
    """

    def __init__(self, channels: int, *, dim: int, share: int, momentum: float):
        super().__init__()
        groups = channels // share
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.position = nn.Linear(dim, dim)
        self.position_norm = PairNorm(dim, momentum=momentum)
        self.position_out = nn.Linear(dim, channels)
        self.relation_norm = PairNorm(channels, momentum=momentum)
        self.relation = nn.Linear(channels, groups)
        self.weight_norm = PairNorm(groups, momentum=momentum)
        self.weight_out = nn.Linear(groups, groups)

    def forward(self, feats: Tensor, near: Neighborhood) -> Tensor:  # (N, C) -> (N, C)
        position = self._position(near)
        # Biases of query, key and value are the same for every pair: they join that of the position encoding.
        relation_bias = self.position_out.bias + self.query.bias - self.key.bias
        query, key = ops.linear(feats, self.query.weight), ops.linear(feats, self.key.weight)
        pairs = query, key, near.neighbors, position, self.position_out.weight, relation_bias
        norm = self.relation_norm
        if norm.of_batch(len(feats)):
            mean, var = ops.attention_statistics(*pairs)
            norm.note(mean, var, near.count)
        else:
            mean, var = norm.running_mean, norm.running_var
        relation = ops.attention_relation(*pairs, *norm.fold(mean, var), self.relation.weight, self.relation.bias)
        value, value_bias = ops.linear(feats, self.value.weight), self.position_out.bias + self.value.bias
        return self._attend(relation, near, (value, near.neighbors, position, self.position_out.weight, value_bias))

    def _position(self, near: Neighborhood) -> Tensor:  # (N, k, D)
        """Hidden layer of the position encoding; the statistics of a linear layer follow from those of its input."""
        weight, bias, norm = self.position.weight, self.position.bias, self.position_norm
        if norm.of_batch(len(near.neighbors)):
            mean = of_coords(near.mean, weight, bias)
            var = (of_coords(weight, near.covariance) * weight).sum(1).clamp(min=0)
            norm.note(mean, var, near.count)
        else:
            mean, var = norm.running_mean, norm.running_var
        scale, shift = norm.fold(mean, var)
        return F.relu_(of_coords(near.relative, weight * scale.unsqueeze(1), bias * scale + shift))

    def _attend(self, relation: Tensor, near: Neighborhood, pairs: Pairs) -> Tensor:  # (N, k, G) -> (N, C)
        """Norm, ReLU and the last linear layer give the weights of the sum over ``pairs``."""
        norm, last = self.weight_norm, self.weight_out
        of_batch = norm.of_batch(len(relation))
        if of_batch and not near.complete:
            # Empty places of ``relation`` are 0 and stay out of the statistics.
            present = (near.neighbors < len(relation)).unsqueeze(2)
            total = near.count.clamp(min=1)
            mean = relation.sum((0, 1)) / total
            var = torch.where(present, relation - mean, 0.0).square().sum((0, 1)) / total
            norm.note(mean, var, near.count)
            scale, shift = norm.fold(mean, var)
            logits = F.linear(F.relu(relation * scale + shift), last.weight, last.bias)
            return ops.attention_aggregate(logits, *pairs)
        mean, var = (None, None) if of_batch else (norm.running_mean, norm.running_var)
        out, mean, var = ops.norm_attention(
            relation, norm.weight, norm.bias, last.weight, last.bias, *pairs, mean=mean, var=var, eps=norm.eps
        )
        if of_batch:
            norm.note(mean, var, near.count)
        return out


class AttentionBlock(nn.Module):
    """Residual block: linear layer, vector attention, linear layer, each with a norm.

    Source: Zhao et al. 2021, Point Transformer, figure 4a; norms as in the authors' code.
    """

    def __init__(self, channels: int, *, dim: int, share: int, momentum: float):
        super().__init__()
        self.reduce = DenseRows(channels, channels, momentum, bias=False)
        self.attention = VectorAttention(channels, dim=dim, share=share, momentum=momentum)
        self.attention_norm = RowBatchNorm(channels, momentum=momentum)
        self.expand = nn.Linear(channels, channels, bias=False)
        self.expand_norm = RowBatchNorm(channels, momentum=momentum)

    def forward(self, feats: Tensor, near: Neighborhood) -> Tensor:  # (N, C) -> (N, C)
        mixed = F.relu_(self.attention_norm(self.attention(self.reduce(feats), near)))
        return F.relu_(self.expand_norm(ops.linear(mixed, self.expand.weight)) + feats)


class DenseRows(nn.Module):
    """Linear layer, batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, momentum: float, *, bias: bool):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)
        self.norm = RowBatchNorm(out_channels, momentum=momentum)

    def forward(self, rows: Tensor) -> Tensor:  # (N, C) -> (N, O)
        return F.relu_(self.norm(biased(ops.linear(rows, self.linear.weight), self.linear.bias)))


def biased(rows: Tensor, bias: Tensor | None) -> Tensor:  # (N, C)
    """Add a bias to a fresh result, in place."""
    return rows if bias is None else rows.add_(bias)


class TransitionDown(nn.Module):
    """To the next level: linear layer on features and relative position, norm, ReLU, the largest over neighbours.

    A channel's norm and ReLU rise (or, with a negative weight, fall) with its value, so the largest value is found
    first. Where the weight is negative it is that of the negated channel.

    Source: Zhao et al. 2021, Point Transformer, section 3.4; relative positions as in the authors' code (the
    paper has none).
    """

    def __init__(self, in_channels: int, out_channels: int, *, dim: int, momentum: float):
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim + in_channels, out_channels, bias=False)
        self.norm = PairNorm(out_channels, momentum=momentum)

    def forward(
        self,
        feats: Tensor,  # (N, C)
        coords: Tensor,  # (N, D)
        coarse_coords: Tensor,  # (M, D)
        pool: Tensor,  # (M, k) int64, N where there is no neighbour
    ) -> Tensor:  # (M, O)
        norm, dim = self.norm, self.dim
        sign = torch.where(norm.weight < 0, -1.0, 1.0).to(norm.weight)
        weight = self.linear.weight * sign.unsqueeze(1)
        from_coords, from_feats = weight[:, :dim], weight[:, dim:]
        values = ops.linear(feats, from_feats)
        if norm.of_batch(len(coarse_coords)):
            near = neighborhood(coarse_coords, coords, pool)
            # Query minus key plus position, negated all three: neighbour's features and where it is from the query.
            mean, var = ops.attention_statistics(
                values.new_zeros(len(pool), values.shape[1]),
                -values,
                pool,
                -near.relative,
                from_coords.contiguous(),
                torch.zeros_like(norm.bias),
            )
            norm.note(sign * mean, var, near.count)
        else:
            mean, var = sign * norm.running_mean, norm.running_var
        scale = norm.weight * sign * torch.rsqrt(var + norm.eps)
        largest = ops.neighbor_max(values + of_coords(coords, from_coords), pool)
        shift = norm.bias - mean * scale
        return F.relu_((largest - of_coords(coarse_coords, from_coords)) * scale + shift)


class TransitionUp(nn.Module):
    """To the finer level: its own rows and the interpolated coarser ones, each through a dense layer, added.

    Source: Zhao et al. 2021, Point Transformer, section 3.4.
    """

    def __init__(self, coarse_channels: int, out_channels: int, *, momentum: float):
        super().__init__()
        self.skip = DenseRows(out_channels, out_channels, momentum, bias=True)
        self.coarse = DenseRows(coarse_channels, out_channels, momentum, bias=True)

    def forward(
        self,
        coarse: Tensor,  # (M, C)
        skip: Tensor,  # (N, O)
        neighbors: Tensor,  # (N, U) int64, rows of coarse; M where there is none
        weights: Tensor,  # (N, U) of these rows, with sum 1
    ) -> Tensor:  # (N, O)
        return self.skip(skip) + interpolated(self.coarse(coarse), neighbors, weights)


def interpolated(
    values: Tensor,  # (M, C)
    neighbors: Tensor,  # (N, U) int64, M where there is no neighbour
    weights: Tensor,  # (N, U) >= 0, with sum 1 over the neighbours that exist
) -> Tensor:  # (N, C)
    """Weighted sum of neighbours, without a tensor of size (N, U, C); no gradient to the weights.

    The softmax of logarithms is the weights themselves, so this is an attention without positions.
    """
    channels = values.shape[1]
    return ops.attention_aggregate(
        weights.log().to(values.dtype).unsqueeze(2),
        values,
        neighbors,
        values.new_zeros(*neighbors.shape, 1),
        values.new_zeros(channels, 1),
        values.new_zeros(channels),
    )


class CloudMean(nn.Module):
    """At the lowest level: beside each row the mean of its cloud, through a linear layer and ReLU; then a dense layer.

    Source: the authors' code; the paper has a plain layer there.
    """

    def __init__(self, channels: int, momentum: float):
        super().__init__()
        self.mean = nn.Linear(channels, channels)
        self.dense = nn.Linear(2 * channels, channels)
        self.norm = RowBatchNorm(channels, momentum=momentum)

    def forward(
        self,
        feats: Tensor,  # (N, C)
        offsets: Tensor,  # (B + 1,) int64
    ) -> Tensor:  # (N, C)
        rows, channels = feats.shape
        mean = ops.segment_reduce(feats, offsets, "mean")
        mean = F.relu_(biased(ops.linear(mean, self.mean.weight), self.mean.bias))
        # The layer's second half runs once a cloud.
        of_cloud = biased(ops.linear(mean, self.dense.weight[:, channels:]), self.dense.bias)
        cloud = torch.repeat_interleave(offsets.diff(), output_size=rows)
        out = ops.linear(feats, self.dense.weight[:, :channels]) + of_cloud.index_select(0, cloud)
        return F.relu_(self.norm(out))
