"""Which rows of a scene lie where: square tiles in the plane, made of whole voxels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CHUNK = 1_000_000
MAX_TILE_POINTS = 1_000_000
"""Tiles with more points are made smaller: memory goes by the tile."""

Place = tuple[int, int]
"""Tile along the x axis and along the y axis, counted from the origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileIndex:
    """The rows of a scene, sorted by tile; only tiles with points exist. A voxel never lies in two tiles."""

    edge: float  # of a tile, a multiple of the voxel size
    order: np.ndarray  # (N,) int32 or int64, rows by tile, in the scene's order within one
    ranges: dict[Place, tuple[int, int]]  # of ``order``, band by band
    band_axis: int  # the axis along which bands follow each other

    def rows(self, place: Place) -> np.ndarray:  # (n,) int64
        """Rows in a tile, none where there is no such tile."""
        start, end = self.ranges.get(place, (0, 0))
        return self.order[start:end].astype(np.int64)

    def bounds(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of a tile, (2,) float64 each."""
        corner = np.asarray(place, np.float64) * self.edge
        return corner, corner + self.edge

    def bands(self) -> Iterator[tuple[int, list[Place]]]:
        """Tiles in bands across the scene's longer side: a band's number and its tiles, bands in ascending order."""
        for band, places in itertools.groupby(self.ranges, key=lambda place: place[self.band_axis]):
            yield band, list(places)


def index_tiles(
    coords: np.ndarray,  # (N, D >= 2) float32, memory-mapped or not
    voxel_size: float,
    edge: float,
    *,
    max_points: int = MAX_TILE_POINTS,
) -> TileIndex:
    """Sort rows into tiles of about ``edge``: smaller where a tile would hold more than ``max_points``.

    Cells are floor(coord / voxel_size) in float32, as in :func:`pcseg.ops.grid_subsample`, so that both agree about
    points on a boundary.
    """
    voxels = max(1, round(edge / voxel_size))
    while True:
        index = _index(coords, voxel_size, voxels)
        most = max((end - start for start, end in index.ranges.values()), default=0)
        if voxels == 1 or most <= max_points:
            return index
        voxels = max(1, voxels // 2)


def _index(coords: np.ndarray, voxel_size: float, voxels: int) -> TileIndex:
    keys = np.empty(len(coords), np.int64)
    low, high = _extent(coords, voxel_size, voxels)
    axis = int(high[1] - low[1] > high[0] - low[0])
    width = int(high[1 - axis] - low[1 - axis] + 1)
    for start in range(0, len(coords), CHUNK):
        cells = _cells(coords[start : start + CHUNK], voxel_size, voxels) - low
        keys[start : start + CHUNK] = cells[:, axis] * width + cells[:, 1 - axis]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    bounds = np.flatnonzero(np.diff(keys, prepend=-1, append=np.iinfo(np.int64).max))
    ranges = {}
    for start, end in itertools.pairwise(bounds.tolist()):
        outer, inner = divmod(int(keys[start]), width)
        place = (outer + int(low[axis]), inner + int(low[1 - axis]))
        ranges[place if axis == 0 else place[::-1]] = (start, end)
    small = len(coords) <= np.iinfo(np.int32).max
    return TileIndex(
        edge=voxels * voxel_size,
        order=order.astype(np.int32) if small else order,
        ranges=ranges,
        band_axis=axis,
    )


def _extent(coords: np.ndarray, voxel_size: float, voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest tile, (2,) int64 each."""
    if len(coords) == 0:
        return np.zeros(2, np.int64), np.zeros(2, np.int64)
    cells = [
        np.stack([part.min(0), part.max(0)])
        for start in range(0, len(coords), CHUNK)
        for part in [_cells(coords[start : start + CHUNK], voxel_size, voxels)]
    ]
    return np.min(cells, axis=(0, 1)), np.max(cells, axis=(0, 1))


def _cells(coords: np.ndarray, voxel_size: float, voxels: int) -> np.ndarray:  # (n, 2) int64
    plane = np.asarray(coords[:, :2], np.float32)
    return np.floor(plane / np.float32(voxel_size)).astype(np.int64) // voxels
