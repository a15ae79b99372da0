"""How many voxels a cloud fills, and how unevenly, in memory that goes by the voxels and not by the points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_CELL_LIMIT = 2**20  # cells an axis that a key of 64 bits holds, either side of the origin
_SHARES = 16  # voxels are merged share by share, so that what merging needs is small beside the voxels themselves
_SHARE = 59  # bits of a key below the four that name its share


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
    none = np.zeros(0, np.int64), np.zeros(0, np.int32)
    shares = [none] * _SHARES  # of each: keys, ascending, and counts
    waiting: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in shares]

    def merge() -> None:
        for share, parts in enumerate(waiting):
            shares[share] = _merged([shares[share], *parts])
            parts.clear()

    num_waiting = num_known = 0
    for coords in chunks:
        keys, counts = np.unique(_keys(coords, voxel_size), return_counts=True)
        cuts = np.searchsorted(keys, np.arange(1, _SHARES) << _SHARE)
        parts = zip(np.split(keys, cuts), np.split(counts.astype(np.int32), cuts), strict=True)
        for share, part in enumerate(parts):
            waiting[share].append(part)
        num_waiting += len(keys)
        # Merged when half as much waits as there is: each voxel is sorted a few times.
        if num_waiting >= max(num_known // 2, 1 << 20):
            merge()
            num_waiting, num_known = 0, sum(len(keys) for keys, _ in shares)
    merge()
    return VoxelCount(
        voxel_size=voxel_size,
        num_voxels=sum(len(keys) for keys, _ in shares),
        num_points=sum(int(counts.sum(dtype=np.int64)) for _, counts in shares),
        most=max(int(counts.max(initial=0)) for _, counts in shares),
    )


def _keys(
    coords: np.ndarray,  # (n, 3)
    voxel_size: float,
) -> np.ndarray:  # (n,) int64
    """A number for each cell; its highest bits are the lowest ones of x, so that every share is about as large."""
    cells = np.floor(coords / np.float32(voxel_size))
    if len(cells) and max(cells.max(), -cells.min()) >= _CELL_LIMIT:
        raise ValueError(f"count_voxels: a point lies more than {_CELL_LIMIT} cells of {voxel_size} from the origin")
    x, y, z = (cells.astype(np.int64) + _CELL_LIMIT).T
    return ((x % _SHARES) << _SHARE) | ((x // _SHARES) << 42) | (y << 21) | z


def _merged(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([key for key, _ in parts])
    order = np.argsort(keys, kind="stable")  # parts are sorted: a merge
    keys = keys[order]
    counts = np.concatenate([count for _, count in parts])[order]
    if not len(keys):
        return keys, counts
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts, starts).astype(np.int32)
