"""Points to voxels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_float, check_offsets

MAX_DIMS = 8


class VoxelGrid(NamedTuple):
    """Which points make up which voxel; all int64. Voxels are in lexicographic order of (cloud, cell)."""

    voxel_of_point: Tensor  # (N,)
    order: Tensor  # (N,) sorts the points by voxel, stable
    point_offsets: Tensor  # (V + 1,) points of voxel v: order[point_offsets[v]:point_offsets[v + 1]]
    voxel_offsets: Tensor  # (B + 1,) voxels of cloud b: voxel_offsets[b] to voxel_offsets[b + 1]


def grid_subsample(
    coords: Tensor,  # (N, D) float32 or float64, D in 1..8
    voxel_size: float,
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
) -> VoxelGrid:
    """Group points by regular cells ``floor(coords / voxel_size)``, the origin at 0.

    The division is a true one in the dtype of ``coords``, so points on boundaries fall alike on every device. Memory
    grows with the number of points only, however far apart they are. The result does not depend on the number of
    threads or the instruction set.

    Args:
        voxel_size: edge of a cell, > 0, in the unit of ``coords``.

    Raises:
        ValueError, TypeError: shapes, dtypes, ``voxel_size``, a coordinate that is not finite, a cell beyond +-2^31.
    """
    if offsets is None:
        offsets = torch.tensor([0, coords.shape[0]], device=coords.device)
    _check(coords, voxel_size, offsets)
    return VoxelGrid(*call(torch.ops.pcseg.grid_subsample, coords, float(voxel_size), offsets))


def _check(coords: Tensor, voxel_size: float, offsets: Tensor) -> None:
    op = "grid_subsample"
    check_float(op, "coords", coords, "(N, D)")
    if not 1 <= coords.shape[1] <= MAX_DIMS:
        raise ValueError(f"{op}: coords must have 1 to {MAX_DIMS} dimensions, got {coords.shape[1]}")
    if not (math.isfinite(voxel_size) and voxel_size > torch.finfo(coords.dtype).tiny):
        raise ValueError(f"{op}: voxel_size must be positive and finite, got {voxel_size}")
    check_offsets(op, "offsets", offsets)
    check_device(op, coords=coords, offsets=offsets)


@torch.library.register_fake("pcseg::grid_subsample")
def _(coords: Tensor, voxel_size: float, offsets: Tensor) -> tuple[Tensor, ...]:
    num_points = coords.shape[0]
    bounds = torch.library.get_ctx().new_dynamic_size(min=1)  # V + 1: a size of data has to stand alone in a shape
    return tuple(offsets.new_empty(length) for length in (num_points, num_points, bounds, offsets.shape[0]))
