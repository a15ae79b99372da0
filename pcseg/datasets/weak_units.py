"""What labels are drawn from: the voxels of a scene, or its rows; and random numbers that belong to a scene."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from pcseg import ops
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.voxel_grid import grid_of
from pcseg.datasets.weak_recipes import Reveal


def scene_generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of a scene: they depend on the seed and the scene's name alone."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16], "little")])


def lowest(
    keys: np.ndarray,  # (N,) float
    candidates: np.ndarray,  # (n,) int64
    count: int,
) -> np.ndarray:  # (min(n, count),) int64
    """The candidates of the lowest keys: random ones where keys are random, and nested in ``count``."""
    return candidates[np.argsort(keys[candidates], kind="stable")[:count]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """The labels of a scene that can be drawn."""

    labels: np.ndarray  # (U,) int16, class or IGNORE, of each voxel or row
    rows: np.ndarray  # (n,) int64 ascending, rows that show a unit's label
    unit_of_row: np.ndarray  # (n,) int64, the unit of each of them

    @classmethod
    def of(cls, source: RowSource, voxel_size: float | None, reveal: Reveal) -> Units:
        """Voxels of a size, or rows where it is None.

        The label of a voxel is that of most of its points, the unlabelled ones aside.

        Raises:
            InputError: as :func:`grid_of`.
        """
        labels = np.asarray(source.labels, np.int16)
        if voxel_size is None:
            rows = np.flatnonzero(labels >= 0)
            return cls(labels=labels, rows=rows, unit_of_row=rows)
        grid, coords = grid_of(source.coords, voxel_size, where=source.path, what=f"the voxel size {voxel_size:g}")
        voxels = ops.voxel_features(grid, coords, None, torch.from_numpy(labels.astype(np.int64)))
        assert voxels.labels is not None
        of_voxel, voxel = voxels.labels.numpy().astype(np.int16), grid.voxel_of_point.numpy()
        rows = np.flatnonzero((labels >= 0) & (labels == of_voxel[voxel]))
        if reveal == "one":
            there = torch.from_numpy(rows)
            offset = coords[there].double() - voxels.coords[grid.voxel_of_point[there]].double()
            # Among points equally near, the lower row: the sort is stable.
            order = np.lexsort((offset.square().sum(1).numpy(), voxel[rows]))
            first = np.unique(voxel[rows][order], return_index=True)[1]
            rows = np.sort(rows[order[first]])
        return cls(labels=of_voxel, rows=rows, unit_of_row=voxel[rows])

    def showing(
        self,
        units: np.ndarray,  # (u,) int64
    ) -> np.ndarray:  # (n,) int64 ascending
        """Rows that show the labels of units."""
        chosen = np.zeros(len(self.labels), bool)
        chosen[units] = True
        return self.rows[chosen[self.unit_of_row]]
