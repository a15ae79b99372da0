"""grid_subsample with voxel_features beside numpy and Open3D: barycentres, three feature means, labels, inverse map."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg import ops

OPS = ("grid_subsample",)

open3d = optional("open3d")
CLASSES = 13


def with_numpy(coords: np.ndarray, feats: np.ndarray, labels: np.ndarray, size: float):
    """The usual recipe: unique cells, then weighted counts."""
    cell = np.floor(coords / size).astype(np.int64)
    cell -= cell.min(0)
    extent = cell.max(0) + 1
    key = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    _, voxel, count = np.unique(key, return_inverse=True, return_counts=True)
    voxels = len(count)
    columns = np.concatenate([coords, feats], 1)
    sums = np.stack([np.bincount(voxel, column, voxels) for column in columns.T], 1)
    votes = np.bincount(voxel * CLASSES + labels, minlength=voxels * CLASSES).reshape(voxels, CLASSES)
    return sums / count[:, None], votes.argmax(1), voxel


def peers(coords: Tensor, feats: Tensor, labels: Tensor, size: float) -> dict[str, Callable[[], object]]:
    if coords.is_cuda:
        return {}
    arrays = coords.numpy(), feats.numpy(), labels.numpy()
    found: dict[str, Callable[[], object]] = {"numpy": lambda: with_numpy(*arrays, size)}
    if open3d:
        cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor.from_numpy(arrays[0]))
        cloud.point.colors = open3d.core.Tensor.from_numpy(arrays[1])
        found["open3d, means only"] = lambda: cloud.voxel_down_sample(size)
    return found


def cases(clouds: Clouds) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "ahn3": (clouds.ahn3(), 1.0),
        "room": (clouds.room(), 0.04),
        "room, dense": (clouds.room(3), 0.04),
        "lidar": (clouds.lidar(), 0.2),
    }
    for name, (coords, size) in inputs.items():
        feats = torch.rand(len(coords), 3, generator=generator).to(coords)
        labels = (coords[:, 0] / (20 * size)).floor().long() % CLASSES  # regions, as labels of a scan have
        labels[torch.rand(len(coords), generator=generator).to(coords) < 0.02] = 0

        def ours(coords: Tensor = coords, feats: Tensor = feats, labels: Tensor = labels, size: float = size) -> object:
            grid = ops.grid_subsample(coords, size)
            return ops.voxel_features(grid, coords, feats, labels), grid.voxel_of_point

        def check(coords: Tensor = coords, feats: Tensor = feats, labels: Tensor = labels, size: float = size) -> None:
            grid = ops.grid_subsample(coords, size)
            mine = ops.voxel_features(grid, coords, feats, labels)
            theirs, votes, voxel = with_numpy(coords.cpu().numpy(), feats.cpu().numpy(), labels.cpu().numpy(), size)
            np.testing.assert_array_equal(grid.voxel_of_point.cpu().numpy(), voxel)
            assert mine.labels is not None and mine.feats is not None
            np.testing.assert_array_equal(mine.labels.cpu().numpy(), votes)
            np.testing.assert_allclose(
                torch.cat([mine.coords, mine.feats], 1).cpu().numpy(), theirs, rtol=1e-4, atol=1e-4
            )

        yield Case(
            op="grid_subsample",
            variant=f"{size} m, features",
            input=name,
            rows=len(coords),
            ours=ours,
            peers=peers(coords, feats, labels, size),
            bytes_moved=coords.nbytes + feats.nbytes + labels.nbytes + 16 * len(coords),
            check=check,
        )
