"""The resolutions of a cloud: subsampling, and the neighbour lists that a network walks along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pcseg import ops
from pcseg.batch import IGNORE, PointBatch

INTERPOLATED = 3
"""Coarser points between which a finer one is interpolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One resolution of a packed batch; the index "no neighbour" is the number of rows of the level that is indexed."""

    coords: Tensor  # (N_l, D)
    offsets: Tensor  # (B + 1,) int64
    neighbors: Tensor  # (N_l, H) int64, rows of this level around each row of it, nearest first
    complete: bool = False  # no place of ``neighbors`` is empty; False: unknown
    pool: Tensor | None = None  # (N_{l+1}, H) int64, rows of this level around each row of the next; None at the last
    upsample: Tensor | None = None  # (N_l,) int64, nearest row of the next level; None at the last
    interpolate: Tensor | None = None  # (N_l, U) int64, nearest rows of the next level, nearest first
    interpolate_weights: Tensor | None = None  # (N_l, U) >= 0, of these rows, with sum 1; 0 where there is none


def subsample(
    batch: PointBatch,
    voxel_size: float,
) -> tuple[PointBatch, ops.VoxelGrid]:
    """One row a voxel: the barycentre, the mean features, the majority label and instance (IGNORE does not vote).

    The instance is one of the voxel's own label.

    ``rows`` and ``image_sizes`` are dropped: a voxel stands for many rows, and the grid says for which.

    Args:
        voxel_size: edge of a voxel, in the unit of the coordinates; cells are floor(coord / voxel_size).
    """
    grid = ops.grid_subsample(batch.coords, voxel_size, offsets=batch.offsets)
    voxels = ops.voxel_features(grid, batch.coords, batch.feats, batch.labels)
    assert voxels.feats is not None
    instances = None
    if batch.instances is not None:
        instances = majority_instance(grid, batch.instances, batch.labels, voxels.labels)
    reduced = PointBatch(
        coords=voxels.coords, feats=voxels.feats, offsets=grid.voxel_offsets, labels=voxels.labels, instances=instances
    )
    return reduced, grid


def majority_instance(
    grid: ops.VoxelGrid,
    instances: Tensor,  # (N,) int64
    labels: Tensor | None = None,  # (N,) int64
    voxel_labels: Tensor | None = None,  # (V,) int64; given with ``labels``
) -> Tensor:  # (V,) int64
    """Most frequent id of each voxel, ties to the lower one; IGNORE only where nobody votes.

    Where there are labels only rows of the voxel's own label vote, so that an instance never has voxels of two classes
    if it has no rows of two.
    """
    num_voxels = grid.point_offsets.shape[0] - 1
    voted = instances != IGNORE
    if labels is not None and voxel_labels is not None:
        voted &= labels == voxel_labels[grid.voxel_of_point]
    pairs, votes = torch.unique(
        torch.stack([grid.voxel_of_point[voted], instances[voted]], 1), dim=0, return_counts=True
    )
    # Later writes win nothing on a GPU, so the winners come first in a stable order and only they are written.
    order = torch.argsort(votes, descending=True, stable=True)
    order = order[torch.argsort(pairs[order, 0], stable=True)]
    voxel = pairs[order, 0]
    first = torch.ones_like(voxel, dtype=torch.bool)
    first[1:] = voxel[1:] != voxel[:-1]
    winners = order[first]
    result = instances.new_full((num_voxels,), IGNORE)
    result[pairs[winners, 0]] = pairs[winners, 1]
    return result


@torch.no_grad()
def build_pyramid(
    coords: Tensor,  # (N, D) float32, already subsampled at voxel_size
    offsets: Tensor,  # (B + 1,) int64
    *,
    voxel_size: float,
    num_levels: int,
    radius: float | Sequence[float],
    max_neighbors: Sequence[int] | None,
) -> tuple[Level, ...]:
    """Resolutions of a batch, finest first: level 0 is the given points, each further level has voxels twice as large.

    A point of a coarser level is the barycentre of the points in its voxel. Lists hold the nearest ``max_neighbors``
    points within the radius; ``upsample`` is the nearest coarser point, however far.

    Args:
        voxel_size: edge of a voxel of level 0, in the unit of ``coords``.
        radius: neighbourhood radius in voxels of the level searched, one value or one a level.
        max_neighbors: longest list of each level, pool lists included; None: complete lists.

    Raises:
        ValueError: lengths that do not match ``num_levels``, or what the searches refuse.

    Source: Thomas et al. 2019, KPConv, section 3.2 (pooling by grid subsampling) and 4.
    """
    radii = _per_level("radius", radius, num_levels)
    caps = [None] * num_levels if max_neighbors is None else _per_level("max_neighbors", max_neighbors, num_levels)
    levels: list[Level] = []
    points = ops.point_index(coords, offsets=offsets)  # searched by its own level, the coarser and the finer one
    for index in range(num_levels):
        reach, cap = radii[index] * voxel_size, caps[index]
        neighbors = _within(points.coords, points, reach, cap, offsets)
        if index == num_levels - 1:
            levels.append(Level(coords=coords, offsets=offsets, neighbors=neighbors))
            break
        voxel_size *= 2
        grid = ops.grid_subsample(coords, voxel_size, offsets=offsets)
        coarse = ops.point_index(ops.voxel_features(grid, coords).coords, offsets=grid.voxel_offsets)
        pool = _within(coarse.coords, points, reach, cap, grid.voxel_offsets)
        nearest, _ = ops.knn(coords, coarse, 1, query_offsets=offsets)
        levels.append(
            Level(coords=coords, offsets=offsets, neighbors=neighbors, pool=pool, upsample=nearest[:, 0].contiguous())
        )
        points, coords, offsets = coarse, coarse.coords, coarse.offsets
    return tuple(levels)


@torch.no_grad()
def build_knn_pyramid(
    coords: Tensor,  # (N, D) float32 or float64
    offsets: Tensor,  # (B + 1,) int64
    *,
    neighbors: Sequence[int],
    pooling: Literal["farthest", "grid"],
    stride: int,
    voxel_size: float,
) -> tuple[Level, ...]:
    """Resolutions of a batch, finest first, with lists of fixed length: the ``k`` nearest, however far.

    "farthest" keeps of each cloud of n points the max(1, n // stride) farthest from each other, from its first row on;
    "grid" takes the barycentres of voxels, twice as large from level to level. Lists of a level and pool lists into it
    have its ``neighbors`` places; a cloud with fewer points leaves some empty. ``interpolate`` holds the
    :data:`INTERPOLATED` nearest coarser points, with weights as 1 / distance.

    Args:
        neighbors: places of each level's lists; their number is that of the levels.
        stride: of "farthest".
        voxel_size: edge of a voxel of level 0, in the unit of ``coords``; of "grid".

    Raises:
        ValueError: what the searches refuse.

    Source: Zhao et al. 2021, Point Transformer, section 3.4; the weights as in the authors' code.
    """
    levels: list[Level] = []
    points = ops.point_index(coords, offsets=offsets)
    for index, count in enumerate(neighbors):
        own, _ = ops.knn(points.coords, points, count)
        lengths = offsets.diff()
        complete = bool(((lengths >= count) | (lengths == 0)).all())
        if index == len(neighbors) - 1:
            levels.append(Level(coords=coords, offsets=offsets, neighbors=own, complete=complete))
            break
        if pooling == "farthest":
            kept = torch.where(lengths > 0, (lengths // stride).clamp(min=1), 0)
            coarse_coords = coords[ops.farthest_point_sample(coords, kept, offsets=offsets)]
            coarse_offsets = torch.cat([kept.new_zeros(1), kept.cumsum(0)])
        else:
            voxel_size *= 2
            grid = ops.grid_subsample(coords, voxel_size, offsets=offsets)
            coarse_coords, coarse_offsets = ops.voxel_features(grid, coords).coords, grid.voxel_offsets
        coarse = ops.point_index(coarse_coords, offsets=coarse_offsets)
        pool, _ = ops.knn(coarse_coords, points, neighbors[index + 1], query_offsets=coarse_offsets)
        nearest, sq_dist = ops.knn(coords, coarse, INTERPOLATED, query_offsets=offsets)
        closeness = 1.0 / (sq_dist.sqrt() + 1e-8)
        levels.append(
            Level(
                coords=coords,
                offsets=offsets,
                neighbors=own,
                complete=complete,
                pool=pool,
                interpolate=nearest,
                interpolate_weights=closeness / closeness.sum(1, keepdim=True),
            )
        )
        points, coords, offsets = coarse, coarse_coords, coarse_offsets
    return tuple(levels)


def calibrate_max_neighbors(
    batches: Iterable[PointBatch],
    *,
    voxel_size: float,
    num_levels: int,
    radius: float | Sequence[float],
    percentile: float = 0.9,
) -> tuple[int, ...]:
    """The given percentile of neighbour counts of each level over sampled training crops: caps for the lists.

    Args:
        batches: crops as training sees them, subsampled at ``voxel_size``.
        voxel_size, num_levels, radius: as for :func:`build_pyramid`.
        percentile: in (0, 1]; 1 keeps every list complete on these crops.

    Raises:
        ValueError: a percentile out of range, or crops without a single point.
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"calibrate_max_neighbors: percentile must be in (0, 1], got {percentile}")
    histograms = [torch.zeros(1, dtype=torch.int64) for _ in range(num_levels)]
    for batch in batches:
        levels = build_pyramid(
            batch.coords,
            batch.offsets,
            voxel_size=voxel_size,
            num_levels=num_levels,
            radius=radius,
            max_neighbors=None,
        )
        for index, level in enumerate(levels):
            counts = (level.neighbors < level.coords.shape[0]).sum(1).cpu()
            size = max(histograms[index].numel(), level.neighbors.shape[1] + 1)
            padded = torch.bincount(counts, minlength=size)
            padded[: histograms[index].numel()] += histograms[index]
            histograms[index] = padded
    if int(histograms[0].sum()) == 0:
        raise ValueError("calibrate_max_neighbors: the crops hold no point")
    caps = []
    for histogram in histograms:
        short = histogram.cumsum(0) < percentile * histogram.sum()
        caps.append(max(1, int(short.sum())))
    return tuple(caps)


def _per_level(name: str, values, num_levels: int) -> list:
    if isinstance(values, (int, float)):
        return [values] * num_levels
    if len(values) != num_levels:
        raise ValueError(f"build_pyramid: {name} needs {num_levels} values, one a level, got {list(values)}")
    return list(values)


def _within(
    query: Tensor,  # (M, D)
    support: ops.PointIndex,  # (N, D)
    reach: float,
    cap: int | None,
    query_offsets: Tensor,  # (B + 1,)
) -> Tensor:  # (M, H) int64
    """Radius search; without a cap the list grows until every neighbourhood fits, and is cut to the longest."""
    if cap is not None:
        return ops.radius_search(query, support, reach, cap, query_offsets=query_offsets)
    cap, points = 64, support.coords.shape[0]
    while True:
        found = ops.radius_search(query, support, reach, cap, query_offsets=query_offsets)
        longest = int((found < points).sum(1).max()) if found.numel() else 1
        if longest < cap or cap >= points:
            return found[:, : max(1, longest)].contiguous()
        cap *= 2
