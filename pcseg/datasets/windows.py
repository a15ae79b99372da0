"""Training items of networks that read images: square windows of pixels; item i depends on the seed and i alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.config import AugmentConfig, CropConfig
from pcseg.datasets.augment import Geometry, disturbed
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.resample import Lookup, footprint, holds, look_up
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_part import ScenePart
from pcseg.datasets.views import item_generator
from pcseg.errors import InputError

_TOLERANCE = 1e-3  # pixels


class WindowDataset(Dataset[PointBatch]):
    """Windows around random pixels of some images, turned, mirrored and stretched by resampling.

    ``balanced`` of the windows hold a pixel of a class drawn evenly among those with visible labels; the others any
    pixel. The centre is that pixel, or (``off_center``) one up to a share of half the edge away. A window that would
    reach beyond the border is moved inwards, and where the image is smaller the rest is its mirror image, with labels
    IGNORE. Every item is a full grid in raster order, with ``coords`` (x, y) of its own cells and ``image_sizes``.
    ``rows`` counts through the pixels of all images, in their order (``scene_starts``), and names for each cell the
    pixel that it stands for (:func:`pcseg.datasets.resample.look_up`).

    Images are read when an item needs them; kept is only how many pixels of each class they have.
    """

    def __init__(
        self,
        parts: Sequence[ScenePart],
        contract: FeatureContract,
        crop: CropConfig,
        augment: AugmentConfig | None = None,
        *,
        seed: int,
        length: int = 2**31,
    ) -> None:
        """``length`` only serves loaders that ask for it.

        Raises:
            InputError: no image, or something that is none.
        """
        for part in parts:
            if part.scene.grid_shape is None or len(part.scene.grid_shape) != 2:
                raise InputError(f"{part.scene.path}: is no image, and the network reads whole windows of pixels")
        if sum(part.num_points for part in parts) == 0:
            raise InputError("no pixels to cut windows from; name a training image")
        self.parts, self.contract, self.crop, self.augment = tuple(parts), contract, crop, augment
        self.seed, self.length = seed, length
        self.scene_starts = offsets_of([part.scene.num_points for part in parts])  # (S + 1,)
        self._part_starts = offsets_of([part.num_points for part in parts])
        self._counts = self._count_classes()
        self._has_instances = any(part.scene.instances is not None for part in parts)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> PointBatch:
        generator = item_generator(self.seed, index)
        number, row, labels = self._centre(generator)
        part = self.parts[number]
        height, width = self._shape(number)
        size = self.crop.window
        geometry = Geometry.none(2) if self.augment is None else Geometry.draw(self.augment, 2, generator)
        labelled = None if labels is None else labels != IGNORE
        pixel = row % width, row // width
        wanted = _off_center(pixel, self.crop, geometry, generator)
        centre = _inwards(wanted, pixel, (width, height), geometry, size)
        cells = look_up((height, width), centre, geometry, size, labelled=labelled)
        steps = torch.arange(size)
        instances = self._instances(number) if self._has_instances else None
        item = PointBatch(
            coords=torch.stack([steps.repeat(size), steps.repeat_interleave(size)], 1).float(),
            feats=geometry.follow(self._features(part.scene, cells), self.contract),
            offsets=offsets_of([size * size]),
            labels=None if labels is None else cells.ids(labels, IGNORE),
            instances=None if instances is None else cells.ids(instances, IGNORE),
            rows=cells.rows + int(self.scene_starts[number]),
            image_sizes=torch.tensor([[size, size]]),
        )
        return item if self.augment is None else disturbed(item, self.augment, self.contract, generator)

    def _shape(self, number: int) -> tuple[int, int]:
        shape = self.parts[number].scene.grid_shape
        assert shape is not None
        return shape[0], shape[1]

    def _features(self, scene: RowSource, cells: Lookup) -> Tensor:  # (n, C)
        """Of the band of image rows that the window touches, no more."""
        first, last = int(cells.corners.min()), int(cells.corners.max())
        return cells.features(torch.from_numpy(self.contract.feats(scene, slice(first, last + 1))), first)

    def _labels(self, number: int) -> Tensor | None:  # (H * W,) int64
        """What may be seen of an image's labels."""
        labels = self.parts[number].scene.labels
        return None if labels is None else _within(self.parts[number], labels)

    def _instances(self, number: int) -> Tensor:  # (H * W,) int64
        """What may be seen of an image's instances; IGNORE everywhere where it has none and others do."""
        part = self.parts[number]
        instances = part.scene.instances
        if instances is None:
            return torch.full((part.scene.num_points,), IGNORE)
        return _within(part, instances)

    def _count_classes(self) -> dict[int, Tensor]:  # (S,) int64 each
        """Of every class that occurs: its visible pixels in the images up to each."""
        counts: dict[int, Tensor] = {}
        for number in range(len(self.parts)):
            labels = self._labels(number)
            if labels is None:
                continue
            for index, count in enumerate(torch.bincount(labels[labels >= 0]).tolist()):
                if count:
                    counts.setdefault(index, torch.zeros(len(self.parts), dtype=torch.int64))[number] = count
        return {index: counts[index].cumsum(0) for index in sorted(counts)}

    def _centre(self, generator: torch.Generator) -> tuple[int, int, Tensor | None]:
        """An image, a pixel of it, and its visible labels."""
        balanced = float(torch.rand((), generator=generator)) < self.crop.balanced
        if balanced and self._counts:
            wanted = list(self._counts)[int(torch.randint(len(self._counts), (), generator=generator))]
            sums = self._counts[wanted]
            place = torch.randint(int(sums[-1]), (), generator=generator)
            number = int(torch.searchsorted(sums, place, right=True))
            place = int(place) - (int(sums[number - 1]) if number else 0)
            labels = self._labels(number)
            assert labels is not None
            return number, int(torch.nonzero(labels == wanted)[place]), labels
        place = torch.randint(int(self._part_starts[-1]), (), generator=generator)
        number = int(torch.searchsorted(self._part_starts, place, right=True)) - 1
        row = int(place - self._part_starts[number])
        chosen = self.parts[number].chosen
        return number, row if chosen is None else int(chosen[row]), self._labels(number)


def _within(
    part: ScenePart,
    values: np.ndarray,  # (H * W,) integer
) -> Tensor:  # (H * W,) int64
    """Values of the part's pixels, IGNORE at the others."""
    seen = np.asarray(values, np.int64)
    if part.chosen is not None:
        kept = np.full(len(seen), IGNORE, np.int64)
        kept[part.chosen] = seen[part.chosen]
        seen = kept
    return torch.from_numpy(np.ascontiguousarray(seen))


def _off_center(
    pixel: tuple[int, int],
    crop: CropConfig,
    geometry: Geometry,
    generator: torch.Generator,
) -> tuple[int, int]:
    """A place (x, y) for the centre of a window that holds a pixel, up to a share of half its edge away."""
    if not crop.off_center:
        return pixel
    cells = (torch.rand(1, 2, generator=generator) - 0.5) * crop.off_center * crop.window
    x, y = (torch.tensor([pixel]) + geometry.origin(cells)).round().long()[0].tolist()
    return x, y


def _inwards(
    wanted: tuple[int, int],
    pixel: tuple[int, int],
    limits: tuple[int, int],  # (W, H)
    geometry: Geometry,
    size: int,
) -> tuple[int, int]:
    """The centre (x, y) nearest to the wanted one whose window stays within the image, if it holds the pixel; else
    the pixel."""
    moved = []
    for place, count, reach in zip(wanted, limits, torch.stack(footprint(geometry, size), 1).tolist(), strict=True):
        low, high = math.ceil(-reach[0] - _TOLERANCE), math.floor(count - 1 - reach[1] + _TOLERANCE)
        moved.append(min(max(place, low), high) if low <= high else round((low + high) / 2))
    offset = torch.tensor([[a - b for a, b in zip(pixel, moved, strict=True)]], dtype=torch.float32)
    return (moved[0], moved[1]) if bool(holds(geometry, size, offset)) else pixel
