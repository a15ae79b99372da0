"""What the geometry alone tells about a point: the shape of its neighbourhood, its height above what lies around."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_float, check_offsets
from pcseg.ops.grid_subsample import grid_subsample


class LocalGeometry(NamedTuple):
    """Covariance features of M neighbourhoods; l1 >= l2 >= l3 are the eigenvalues (l2 is the last one if D == 2)."""

    eigenvalues: Tensor  # (M, D) descending, >= 0, in squared units of the coordinates
    normals: Tensor  # (M, D) unit, direction of the least variance, pointing up (last component >= 0)
    linearity: Tensor  # (M,) (l1 - l2) / l1
    planarity: Tensor  # (M,) (l2 - l3) / l1, 0 if D == 2
    sphericity: Tensor  # (M,) l3 / l1, also called scattering
    omnivariance: Tensor  # (M,) (l1 l2 l3) ** (1 / D)
    anisotropy: Tensor  # (M,) (l1 - l3) / l1
    eigenentropy: Tensor  # (M,) -sum of e log(e), e = l / (l1 + l2 + l3)
    change_of_curvature: Tensor  # (M,) l3 / (l1 + l2 + l3), also called surface variation
    verticality: Tensor  # (M,) 1 - |last component of the normal|


def local_geometry(
    coords: Tensor,  # (N, D) float32 or float64, D in 2..3
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
) -> LocalGeometry:
    """Shape of each listed neighbourhood, from the covariance matrix of its points.

    A neighbourhood is exactly what the list names: a point counts in its own only if the list holds it, as ``knn`` and
    ``radius_search`` of a cloud in itself do. Covariances (divided by the number of points) and their eigenvectors are
    computed in double. A neighbourhood without two distinct points has eigenvalues 0, all features 0 and a normal
    straight up; where the least eigenvalue is a double one (points on a line) the normal is any of its eigenvectors.
    Not differentiable. Nothing depends on the number of threads.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, an index outside [0, N].

    Source: Demantké et al., Dimensionality based scale selection in 3D lidar point clouds, 2011; Weinmann et al.,
    Semantic point cloud interpretation based on optimal neighborhoods, relevant features and efficient classifiers,
    ISPRS Journal 2015 (whose features divide by the sum where these divide by l1 follow the former).
    """
    op = "local_geometry"
    check_float(op, "coords", coords, "(N, D)")
    if coords.shape[1] not in (2, 3):
        raise ValueError(f"{op}: coords must have 2 or 3 dimensions, got {coords.shape[1]}")
    if neighbors.ndim != 2:
        raise ValueError(f"{op}: neighbors must be (M, k), got {tuple(neighbors.shape)}")
    if neighbors.dtype != torch.int64:
        raise TypeError(f"{op}: neighbors must be int64, got {neighbors.dtype}")
    check_device(op, coords=coords, neighbors=neighbors)
    eigenvalues, normals, features = call(torch.ops.pcseg.local_geometry, coords, neighbors)
    return LocalGeometry(eigenvalues, normals, *features.unbind(1))


def height_above_minimum(
    coords: Tensor,  # (N, 3) float32 or float64
    cell_size: float,
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
) -> Tensor:  # (N,)
    """Height of each point above the lowest point around it: height above ground where some ground is in reach.

    Around it means: in its own square cell ``floor(xy / cell_size)`` or the eight that touch it, within its cloud. So
    every point within ``cell_size`` is looked at, and none farther than ``2 * cell_size`` along an axis. Choose
    ``cell_size`` wider than the largest building or canopy gap; a single point below the ground lowers its
    surroundings. Not differentiable.

    Args:
        cell_size: edge of a cell, > 0, in the unit of ``coords``.

    Raises:
        ValueError, TypeError: shapes, dtypes, ``cell_size``, an x or y that is not finite, a cell beyond +-2^31.
    """
    op = "height_above_minimum"
    check_float(op, "coords", coords, "(N, 3)")
    if coords.shape[1] != 3:
        raise ValueError(f"{op}: coords must be (N, 3), got {tuple(coords.shape)}")
    if not (math.isfinite(cell_size) and cell_size > torch.finfo(coords.dtype).tiny):
        raise ValueError(f"{op}: cell_size must be positive and finite, got {cell_size}")
    if offsets is not None:
        check_offsets(op, "offsets", offsets)
    grid = grid_subsample(coords[:, :2], cell_size, offsets=offsets)
    return call(torch.ops.pcseg.height_above_minimum, coords, float(cell_size), *grid)


@torch.library.register_fake("pcseg::local_geometry")
def _(coords: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lists, dims = neighbors.shape[0], coords.shape[1]
    num_features = len(LocalGeometry._fields) - 2
    return coords.new_empty(lists, dims), coords.new_empty(lists, dims), coords.new_empty(lists, num_features)


@torch.library.register_fake("pcseg::height_above_minimum")
def _(coords, cell_size, cell_of_point, order, point_offsets, cloud_offsets) -> Tensor:
    return coords.new_empty(coords.shape[0])
