"""A scene as networks see it: one row a voxel, subsampled once; every view of it is cut from the same voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcseg import ops
from pcseg.batch import IGNORE
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.voxel_grid import grid_of
from pcseg.errors import InputError
from pcseg.pyramid import majority_instance

_CELLS_ACROSS = 4  # cells of the index across a typical crop


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelScene:
    """The voxels of a scene, in lexicographic order of their cells."""

    name: str
    coords: Tensor  # (V, D) float32, barycentres
    feats: Tensor  # (V, C) float32
    labels: Tensor | None  # (V,) int64, majority of the visible labels, or IGNORE
    point_counts: Tensor  # (V,) int64, points of each voxel
    instances: Tensor | None = None  # (V,) int64, majority of the visible ids among points of the voxel's label

    @classmethod
    def build(
        cls,
        scene: RowSource,
        contract: FeatureContract,
        voxel_size: float,
        *,
        rows: np.ndarray | None = None,  # (n,) int64, points to keep; None: all
        visible: np.ndarray | None = None,  # (N,) bool, points whose label may be seen; None: all
    ) -> VoxelScene:
        """Read a scene and subsample it. Labels that are not visible are gone before anything else happens.

        Raises:
            InputError: a column that the contract needs and the scene lacks.
        """
        chosen = slice(None) if rows is None else rows
        feats = torch.from_numpy(contract.feats(scene, rows))
        labels, instances = (
            None
            if values is None
            else torch.from_numpy(
                np.array((values if visible is None else np.where(visible, values, IGNORE))[chosen], np.int64)
            )
            for values in (scene.labels, scene.instances)
        )
        grid, coords = grid_of(
            scene.coords[chosen], voxel_size, where=scene.name, what=f"the voxel size {voxel_size:g}"
        )
        voxels = ops.voxel_features(grid, coords, feats, labels)
        assert voxels.feats is not None
        return cls(
            name=scene.name,
            coords=voxels.coords,
            feats=voxels.feats,
            labels=voxels.labels,
            point_counts=grid.point_offsets.diff(),
            instances=None if instances is None else majority_instance(grid, instances, labels, voxels.labels),
        )

    @property
    def num_voxels(self) -> int:
        return self.coords.shape[0]


def check_trainable(scenes: Sequence[RowSource], class_names: Sequence[str], *, purpose: str = "train on") -> None:
    """Refuse scenes that cannot teach these classes, or be scored by them: ``purpose`` is for the message.

    Raises:
        InputError: a scene without labels, with another class table, or with a class index outside it.
    """
    for scene in scenes:
        if scene.labels is None:
            raise InputError(f"{scene.path}: has no labels to {purpose}; {_how_to_label(scene)}")
        if tuple(class_names) != scene.class_names:
            raise InputError(
                f"{scene.path}: was prepared with the classes {', '.join(scene.class_names) or 'none'}, "
                f"the run has {', '.join(class_names)}; prepare it again with the run's --config"
            )
        low, high = int(scene.labels.min()), int(scene.labels.max())
        if low < IGNORE or high >= len(class_names):
            raise InputError(
                f"{scene.path}: labels.npy: class {low if low < IGNORE else high} is outside the "
                f"{len(class_names)} classes; prepare it again"
            )


def _how_to_label(scene: RowSource) -> str:
    if scene.grid_shape is None:
        return "prepare it again with --label-map or --config"
    labels = f"masks/{scene.name}.png" if len(scene.grid_shape) == 2 else f"labels/{scene.name}.nii.gz"
    return f"add {labels} beside its folder, or leave '{scene.name}' out of data.train_scenes and data.val_scenes"


class NearestVoxels:
    """The nearest voxels around a place, in the plane or in space, found through a coarse grid in the plane."""

    def __init__(
        self,
        coords: Tensor,  # (V, D) float32
        *,
        typical: int,
    ) -> None:
        """``typical``: voxels of a crop, which sets the size of the grid's cells."""
        self.coords = coords.numpy()
        plane = self.coords[:, :2].astype(np.float64)
        self.low = plane.min(0) if len(plane) else np.zeros(2)
        self.extent = plane.max(0) - self.low if len(plane) else np.zeros(2)
        area = max(float(np.prod(np.maximum(self.extent, 1e-6))), 1e-12)
        share = min(1.0, typical / max(len(plane), 1))
        self.guess = max((area * share / np.pi) ** 0.5, float(self.extent.max()) * 1e-3, 1e-6)
        self.cell = 2 * self.guess / _CELLS_ACROSS
        self.shape = (self.extent / self.cell).astype(np.int64) + 1
        cells = np.minimum(((plane - self.low) / self.cell).astype(np.int64), self.shape - 1)
        keys = cells[:, 0] * self.shape[1] + cells[:, 1]
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]

    def find(
        self,
        centre: np.ndarray,  # (D,)
        *,
        count: int,
        radius: float | None = None,
        in_plane: bool,
    ) -> np.ndarray:  # (n,) int64
        """At most ``count`` rows within ``radius``, nearest ones, in ascending order; ties to the lower row."""
        axes = 2 if in_plane else self.coords.shape[1]
        reach = self.guess if radius is None else radius
        while True:
            near = self._square(centre[:2].astype(np.float64), reach)
            sq_dist = np.square(self.coords[near, :axes] - centre[:axes]).sum(1)
            inside = sq_dist <= reach * reach
            everything = len(near) == len(self.coords)
            if radius is not None or inside.sum() >= count or everything:
                if radius is not None or not everything:
                    near, sq_dist = near[inside], sq_dist[inside]
                if len(near) > count:
                    # Rows ascend, and the sort is stable: among equals the lower row comes first.
                    near = np.sort(near[np.argsort(sq_dist, kind="stable")[:count]])
                return near
            reach *= 1.5

    def _square(self, centre: np.ndarray, reach: float) -> np.ndarray:
        """Rows in the cells that a square around the centre touches, in ascending order."""
        first = np.floor((centre - self.low - reach) / self.cell).clip(0, self.shape - 1).astype(np.int64)
        last = np.floor((centre - self.low + reach) / self.cell).clip(0, self.shape - 1).astype(np.int64)
        columns = np.arange(first[0], last[0] + 1) * self.shape[1]
        starts = np.searchsorted(self.keys, columns + first[1], side="left")
        ends = np.searchsorted(self.keys, columns + last[1], side="right")
        parts = [self.order[start:end] for start, end in zip(starts, ends, strict=True)]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
