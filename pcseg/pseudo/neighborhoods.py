"""Which rows should agree, and how much a difference of labels between them should cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcseg import ops
from pcseg.batch import PointBatch
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.errors import InputError
from pcseg.images import image_edges
from pcseg.ops import GridEdges

_SHORTEST = 0.25  # of the median distance: nearer pairs weigh no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A group of features whose difference says that labels may differ too."""

    channels: slice
    scale: Sequence[float]
    """Of each channel: the network's unit in the feature's own."""
    bandwidth: float
    """In the feature's own unit; 0: the root mean square difference over the edges."""


def contrasts_of(contract: FeatureContract, bandwidths: Mapping[str, float]) -> tuple[Contrast, ...]:
    """The named features of a contract. Integer colours count from 0 to 255, whatever the network reads.

    Raises:
        InputError: a feature that the run does not read, a negative bandwidth.
    """
    groups = []
    for name, bandwidth in bandwidths.items():
        feature = next((f for f in contract.features if f.name == name), None)
        if feature is None:
            raise InputError(
                f"method.contrast: the run reads no feature '{name}'; it reads {', '.join(contract.names)}"
            )
        if bandwidth < 0:
            raise InputError(f"method.contrast: the bandwidth of '{name}' must not be negative, got {bandwidth}")
        unit = 255.0 if feature.transform == "unit" else 1.0
        scale = tuple(channel.std * unit for channel in feature.channels)
        groups.append(Contrast(channels=contract.slices[name], scale=scale, bandwidth=bandwidth))
    return tuple(groups)


def signal_of(batch: PointBatch, contrasts: Sequence[Contrast]) -> list[Tensor]:  # (N, c) float32 each
    """The features of each group, in their own unit, up to a constant."""
    return [batch.feats[:, g.channels] * batch.feats.new_tensor(g.scale) for g in contrasts]


@torch.no_grad()
def nearest_edges(
    batch: PointBatch,
    contrasts: Sequence[Contrast],
    *,
    k: int = 8,
    connectivity: int = 8,
) -> GridEdges:
    """Neighbour lists for :func:`pcseg.ops.potts_energy`: the pixels beside each pixel, or the nearest rows of a cloud.

    A pair weighs ``exp(-sum_g |d_g|^2 / (2 sigma_g^2)) / d`` with d_g the difference of a group of features and d its
    distance: in pixels, or in units of the median distance of the batch's pairs, no less than a quarter. Each entry has
    half the weight: a pair that both ends list counts once, one that only one end lists a half.

    Returns:
        neighbors (N, k) int64, N for none; edge_weight (N, k) float32.

    Source: Marin et al. 2021, Robust Trust Region, code (grids); clouds are ours.
    """
    signals = signal_of(batch, contrasts)
    if batch.image_sizes is not None:
        flat = batch.feats.new_zeros(batch.num_rows, 1)
        neighbors, weight = image_edges(flat, batch.image_sizes, connectivity)  # pyright: ignore[reportArgumentType]
    else:
        neighbors, sq_dist = ops.nearest_others(batch.coords, k, offsets=batch.offsets)
        distance = sq_dist.sqrt()
        there = torch.isfinite(distance)
        typical = distance[there].median() if bool(there.any()) else distance.new_ones(())
        relative = distance / typical.clamp(min=torch.finfo(distance.dtype).tiny)
        weight = torch.where(there, 0.5 / relative.clamp(min=_SHORTEST), 0.0)
    exponent = torch.zeros_like(weight)
    present = neighbors < batch.num_rows
    for group, signal in zip(contrasts, signals, strict=True):
        other = ops.gather_neighbors(signal, neighbors)  # (N, k, c)
        squares = (other - signal.unsqueeze(1)).square().sum(-1)
        variance = torch.tensor(group.bandwidth**2, device=squares.device)
        if group.bandwidth == 0:
            variance = torch.where(present, squares, 0.0).sum() / present.sum().clamp(min=1)
        exponent += squares / (2 * variance.clamp(min=torch.finfo(squares.dtype).tiny))
    return GridEdges(neighbors, weight * torch.exp(-exponent) * present)


@torch.no_grad()
def dense_lattice(
    batch: PointBatch,
    contrasts: Sequence[Contrast],
    *,
    position_bandwidth: float,
) -> ops.PermutohedralLattice:
    """The lattice of positions and features, each over its bandwidth: all pairs of a cloud, weighted by a Gaussian.

    A bandwidth of 0 is the root mean square deviation of the group over the batch.

    Raises:
        InputError: more than 8 axes together.
    """
    axes = [batch.coords / position_bandwidth]
    for group, signal in zip(contrasts, signal_of(batch, contrasts), strict=True):
        bandwidth = group.bandwidth or float((signal - signal.mean(0)).square().sum(1).mean().sqrt())
        axes.append(signal / max(bandwidth, torch.finfo(signal.dtype).tiny))
    joined = torch.cat(axes, 1)
    if joined.shape[1] > 8:
        raise InputError(f"method.contrast: a dense neighborhood takes 8 axes at most, these are {joined.shape[1]}")
    return ops.PermutohedralLattice(joined, offsets=batch.offsets)
