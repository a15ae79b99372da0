"""Training items: balanced crops of voxelised scenes, randomly changed; item i depends on the seed and i alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.config import AugmentConfig, CropConfig
from pcseg.datasets.augment import augmented
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.mix import mix_all
from pcseg.datasets.voxel_scene import NearestVoxels, VoxelScene
from pcseg.errors import InputError


class CropDataset(Dataset[PointBatch]):
    """Crops around random voxels of some scenes: a column or a ball, limited by a number of voxels and by a radius.

    ``balanced`` of the items hold a voxel of a class drawn evenly among those with visible labels; the others any
    voxel. The centre is that voxel, or (``off_center``) any one up to a share of the crop's reach away. ``rows`` of an
    item counts through the voxels of all scenes, in their order (``scene_starts``).
    Coordinates are relative to the centre. Any index is valid: a resumed run asks for the index where it stopped.
    """

    def __init__(
        self,
        scenes: Sequence[VoxelScene],
        contract: FeatureContract,
        crop: CropConfig,
        augment: AugmentConfig | None = None,
        *,
        seed: int,
        length: int = 2**31,
    ) -> None:
        """``length`` only serves loaders that ask for it.

        Raises:
            InputError: no scene, or only empty ones.
        """
        if sum(scene.num_voxels for scene in scenes) == 0:
            raise InputError("no voxels to crop from; name a training scene that has points")
        self.scenes, self.contract, self.crop, self.augment = tuple(scenes), contract, crop, augment
        self.seed, self.length = seed, length
        self.scene_starts = offsets_of([scene.num_voxels for scene in scenes])  # (S + 1,)
        known = any(scene.instances is not None for scene in scenes)  # items of all scenes go into one batch
        self._instances = [
            torch.full((scene.num_voxels,), IGNORE) if known and scene.instances is None else scene.instances
            for scene in scenes
        ]
        self._near = [NearestVoxels(scene.coords, typical=crop.max_voxels) for scene in scenes]
        labelled = [
            torch.full((scene.num_voxels,), IGNORE) if scene.labels is None else scene.labels for scene in scenes
        ]
        labels = torch.cat(labelled)
        self._of_class = [torch.nonzero(labels == index)[:, 0] for index in torch.unique(labels).tolist() if index >= 0]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> PointBatch:
        generator = item_generator(self.seed, index)
        item = self._item(generator)
        mix = 0.0 if self.augment is None else self.augment.mix
        if mix and float(torch.rand((), generator=generator)) < mix:
            item = laid_over(item, self._item(generator))
        return item

    def _item(self, generator: torch.Generator) -> PointBatch:
        """A crop, changed."""
        drawn = self._drawn(generator)
        number = int(torch.searchsorted(self.scene_starts, drawn, right=True)) - 1
        scene, start = self.scenes[number], int(self.scene_starts[number])
        centre, rows = self._around(number, drawn - start, generator)
        instances = self._instances[number]
        item = PointBatch(
            coords=scene.coords[rows] - scene.coords[centre],
            feats=scene.feats[rows],
            offsets=offsets_of([len(rows)]),
            labels=None if scene.labels is None else scene.labels[rows],
            instances=None if instances is None else instances[rows],
            rows=rows + start,
        )
        return item if self.augment is None else augmented(item, self.augment, self.contract, generator)

    def _around(self, number: int, row: int, generator: torch.Generator) -> tuple[int, Tensor]:
        """Centre and rows of a crop of a scene that holds a row."""
        rows = self._nearest(number, row)
        if not self.crop.off_center:
            return row, rows
        coords = self.scenes[number].coords
        if self.crop.shape == "column":
            coords = coords[:, :2]
        distances = (coords[rows] - coords[row]).norm(dim=1)
        near = rows[distances <= self.crop.off_center * distances.max()]
        centre = int(near[torch.randint(len(near), (), generator=generator)])
        moved = self._nearest(number, centre)
        # Where voxels are far denser around the new centre the crop may end before the row.
        return (centre, moved) if bool((moved == row).any()) else (row, rows)

    def _nearest(self, number: int, row: int) -> Tensor:  # (n,) int64, ascending
        near = self._near[number].find(
            self.scenes[number].coords[row].numpy(),
            count=self.crop.max_voxels,
            radius=self.crop.radius,
            in_plane=self.crop.shape == "column",
        )
        return torch.from_numpy(near)

    def _drawn(self, generator: torch.Generator) -> int:
        """A voxel, counted through all scenes."""
        balanced = float(torch.rand((), generator=generator)) < self.crop.balanced
        if not balanced or not self._of_class:
            return int(torch.randint(int(self.scene_starts[-1]), (), generator=generator))
        members = self._of_class[int(torch.randint(len(self._of_class), (), generator=generator))]
        return int(members[torch.randint(len(members), (), generator=generator)])


def laid_over(
    first: PointBatch,  # one cloud
    second: PointBatch,  # one cloud
) -> PointBatch:
    """Both as one cloud, in space standing on one level: that below which a twentieth of the rows of each lie."""
    if first.coords.shape[1] == 3 and first.num_rows and second.num_rows:
        low, other = (torch.quantile(item.coords[:, 2], 0.05) for item in (first, second))
        second = replace(second, coords=second.coords + second.coords.new_tensor([0, 0, 1]) * (low - other))
    return mix_all(first, second).batch


def item_generator(seed: int, index: int) -> torch.Generator:
    """Random numbers of an item: streams of different items and seeds are independent."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))
