"""Parts of networks on packed rows: kernel point convolutions, unary and bottleneck blocks, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcseg import ops
from pcseg.models.kernel_points import Layout, kernel_points

LEAKY_SLOPE = 0.1


def activate(feats: Tensor) -> Tensor:
    """LeakyReLU in place: what a norm, a sum or a linear layer returns is nobody else's, and memory traffic costs."""
    return F.leaky_relu(feats, LEAKY_SLOPE, inplace=True)


class Penalty(NamedTuple):
    """Regularisation of one deformable convolution, both dimensionless means over rows and kernel points."""

    fitting: Tensor  # () squared distance of each kernel point to the nearest neighbour, in sigma
    repulsion: Tensor  # () squared overlaps with the other kernel points, summed over them


class RowBatchNorm(nn.BatchNorm1d):
    """Batch norm over rows that also takes fewer than two rows in training: those see the running statistics."""

    def forward(self, input: Tensor) -> Tensor:  # (N, C) -> (N, C)
        if self.training and input.shape[0] < 2:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def make_norm(
    kind: Literal["batch", "group"],
    channels: int,
    momentum: float,
) -> nn.Module:
    """A normalisation of (N, C) rows.

    Args:
        kind: "batch" over rows; "group" over groups of about 16 channels of each row alone, whatever else is in the
            batch.
        momentum: weight of the new batch in the running statistics; 0.02 here is 0.98 in TensorFlow's convention.
    """
    if kind == "batch":
        return RowBatchNorm(channels, momentum=momentum)
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)


class KPConv(nn.Module):
    """Rigid kernel point convolution.

    The kernel is a buffer in the unit of the coordinates and part of the state: a checkpoint brings its own.

    Args:
        num_points: K kernel points.
        dim: D of the coordinates.
        sigma: distance at which a kernel point's influence ends, in the unit of the coordinates.

    Source: Thomas et al. 2019, KPConv, equations 1 to 4, linear influence, sum over neighbours.
    """

    points: Tensor  # (K, D) float32

    def __init__(
        self, in_channels: int, out_channels: int, *, num_points: int, dim: int, sigma: float, layout: Layout = "centre"
    ):
        super().__init__()
        self.sigma = sigma
        self.weight = nn.Parameter(torch.empty(num_points, in_channels, out_channels))
        points = kernel_points(num_points, dim, layout) * sigma
        self.register_buffer("points", torch.tensor(points.tolist(), dtype=torch.float32))
        nn.init.uniform_(self.weight, -1.0, 1.0)
        with torch.no_grad():
            self.weight.mul_(math.sqrt(3.0 / (num_points * in_channels)))  # variance 1 / (K C)

    def forward(
        self,
        query: Tensor,  # (M, D)
        support: Tensor,  # (N, D)
        neighbors: Tensor,  # (M, H) int64
        feats: Tensor,  # (N, C)
    ) -> Tensor:  # (M, O)
        return ops.kpconv(query, support, neighbors, feats, self.weight, self.points, self.sigma)

    def extra_repr(self) -> str:
        points, in_channels, out_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, num_points={points}, sigma={self.sigma:g}"


class DeformableKPConv(nn.Module):
    """Kernel point convolution whose points move: a rigid one predicts the offset of each point at each row.

    Offsets start at zero (a rigid kernel). The paper trains them with a tenth of the learning rate: their parameters
    are those whose name holds ``offset_``.

    Args:
        as for :class:`KPConv`;
        modulated: also predict a weight 2 sigmoid(...) in (0, 2) for each kernel point.

    Source: Thomas et al. 2019, KPConv, section 3.3, equations 5 and 6; modulations as in Zhu et al. 2019.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_points: int,
        dim: int,
        sigma: float,
        layout: Layout = "centre",
        modulated: bool = False,
    ):
        super().__init__()
        self.modulated = modulated
        self.conv = KPConv(in_channels, out_channels, num_points=num_points, dim=dim, sigma=sigma, layout=layout)
        predicted = num_points * (dim + int(modulated))
        self.offset_conv = KPConv(in_channels, predicted, num_points=num_points, dim=dim, sigma=sigma, layout=layout)
        self.offset_bias = nn.Parameter(torch.zeros(predicted))
        nn.init.zeros_(self.offset_conv.weight)

    def forward(
        self,
        query: Tensor,  # (M, D)
        support: Tensor,  # (N, D)
        neighbors: Tensor,  # (M, H) int64
        feats: Tensor,  # (N, C)
    ) -> tuple[Tensor, Penalty]:  # (M, O)
        conv = self.conv
        points, dim = conv.points.shape
        predicted = self.offset_conv(query, support, neighbors, feats) + self.offset_bias
        # Predicted in units of sigma, so that one level's offsets mean the same as another's.
        offsets = (conv.sigma * predicted[:, : points * dim]).view(-1, points, dim)
        modulations = 2.0 * torch.sigmoid(predicted[:, points * dim :]) if self.modulated else None
        out = ops.kpconv(
            query,
            support,
            neighbors,
            feats,
            conv.weight,
            conv.points,
            conv.sigma,
            kernel_offsets=offsets,
            modulations=modulations,
        )
        return out, deformation_penalty(query, support, neighbors, conv.points, conv.sigma, offsets)


def deformation_penalty(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, H) int64
    points: Tensor,  # (K, D) kernel points, relative to the query
    sigma: float,
    offsets: Tensor,  # (M, K, D)
) -> Penalty:
    """Keeps deformed kernel points near the cloud and apart from each other.

    Source: Thomas et al. 2019, KPConv, equations 7 to 9, as means over rows and kernel points instead of sums, so that
    they do not grow with the cloud.
    """
    if query.shape[0] == 0:
        return Penalty(0.0 * offsets.sum(), 0.0 * offsets.sum())
    fitting = ops.kpconv_fitting_distance(query, support, neighbors, points, sigma, offsets).mean()
    kernel = points + offsets
    apart = (kernel[:, :, None] - kernel[:, None]).square().sum(3)
    other = ~torch.eye(len(points), dtype=torch.bool, device=kernel.device)
    # Pairs too far apart, and points with themselves, have no overlap; masked before the root, whose slope at 0 is inf.
    close = other & (apart < sigma * sigma)
    overlap = torch.where(close, 1.0 - torch.where(close, apart, 1.0).clamp(min=1e-12).sqrt() / sigma, 0.0)
    return Penalty(fitting, overlap.square().sum(2).mean())


class Unary(nn.Module):
    """Linear layer, norm and, unless it feeds a sum, LeakyReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: nn.Module, activation: bool = True):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm = norm
        self.activation = activation

    def forward(self, feats: Tensor) -> Tensor:  # (N, C) -> (N, O)
        out = self.norm(ops.linear(feats, self.linear.weight))
        return activate(out) if self.activation else out


class Bottleneck(nn.Module):
    """Residual block: unary to a quarter of the channels, convolution, unary back.

    Args:
        conv: of out_channels // 4 channels.
        norm: makes the normalisation of so many channels.
        strided: the query is a coarser level, and the shortcut pools over the lists.

    Source: Thomas et al. 2019, KPConv, supplementary material (network architectures).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv: KPConv | DeformableKPConv,
        norm: Callable[[int], nn.Module],
        *,
        strided: bool,
    ):
        super().__init__()
        self.strided = strided
        middle = out_channels // 4
        same, matches = in_channels == middle, in_channels == out_channels
        self.reduce = nn.Identity() if same else Unary(in_channels, middle, norm(middle))
        self.conv = conv
        self.conv_norm = norm(middle)
        self.expand = Unary(middle, out_channels, norm(out_channels), activation=False)
        self.shortcut = (
            nn.Identity() if matches else Unary(in_channels, out_channels, norm(out_channels), activation=False)
        )

    def forward(
        self,
        query: Tensor,  # (M, D)
        support: Tensor,  # (N, D)
        neighbors: Tensor,  # (M, H) int64
        feats: Tensor,  # (N, C)
    ) -> tuple[Tensor, Penalty | None]:  # (M, O)
        penalty = None
        mixed = self.conv(query, support, neighbors, self.reduce(feats))
        if isinstance(self.conv, DeformableKPConv):
            mixed, penalty = mixed
        mixed = self.expand(activate(self.conv_norm(mixed)))
        straight = ops.neighbor_max(feats, neighbors) if self.strided else feats
        return activate(mixed + self.shortcut(straight)), penalty


class UpsampleUnary(nn.Module):
    """Decoder step: nearest coarse features beside the skip connection, then a unary layer.

    The linear layer runs on the coarse rows before they are copied to the fine ones, which is the same sum with fewer
    products.
    """

    def __init__(self, coarse_channels: int, skip_channels: int, out_channels: int, norm: nn.Module):
        super().__init__()
        self.coarse_channels = coarse_channels
        self.linear = nn.Linear(coarse_channels + skip_channels, out_channels, bias=False)
        self.norm = norm

    def forward(
        self,
        coarse: Tensor,  # (M, C)
        skip: Tensor,  # (N, S)
        upsample: Tensor,  # (N,) int64, row of coarse
    ) -> Tensor:  # (N, O)
        weight = self.linear.weight
        from_coarse = ops.linear(coarse, weight[:, : self.coarse_channels])
        from_skip = ops.linear(skip, weight[:, self.coarse_channels :])
        return activate(self.norm(from_skip + from_coarse.index_select(0, upsample)))
