"""How many voxels a cloud fills, and how unevenly, in memory that goes by the voxels and not by the points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_CELL_LIMIT = 2**20  # cells an axis that a key of 64 bits holds, either side of the origin


@dataclass(frozen=True, slots=True)
class VoxelCount:
    """Statistics of a grid with its origin at 0."""

    voxel_size: float
    num_voxels: int
    num_points: int
    most: int  # points of the fullest voxel

    def __str__(self) -> str:
        mean = self.num_points / max(self.num_voxels, 1)
        return f"{self.num_voxels:,} voxels of {self.voxel_size:g} m, {mean:.1f} points each, at most {self.most}"


def count_voxels(chunks: Iterable[np.ndarray], voxel_size: float) -> VoxelCount:
    """Count the voxels of a cloud that comes in parts, (n, 3) each.

    Raises:
        ValueError: a point more than a million cells from the origin.
    """
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for coords in chunks:
        cells = np.floor(coords / np.float32(voxel_size)).astype(np.int64)
        if len(cells) and np.abs(cells).max() >= _CELL_LIMIT:
            raise ValueError(
                f"count_voxels: a point lies more than {_CELL_LIMIT} cells of {voxel_size} from the origin"
            )
        cells += _CELL_LIMIT
        waiting.append(np.unique((cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2], return_counts=True))
        # Merged when as much waits as there is: each voxel is sorted a few times, and memory stays at twice the result.
        if sum(len(part) for part, _ in waiting) >= max(len(keys), 1 << 20):
            keys, counts = _merged([(keys, counts), *waiting])
            waiting = []
    keys, counts = _merged([(keys, counts), *waiting])
    return VoxelCount(voxel_size, len(keys), int(counts.sum()), int(counts.max(initial=0)))


def _merged(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([key for key, _ in parts])
    order = np.argsort(keys, kind="stable")  # parts are sorted: a merge
    keys = keys[order]
    counts = np.concatenate([count for _, count in parts])[order]
    if not len(keys):
        return keys, counts
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts, starts)
