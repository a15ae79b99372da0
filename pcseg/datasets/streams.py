"""Items of training by stream: labelled crops, and views of crops without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from pcseg.batch import PointBatch, cat
from pcseg.config import AugmentConfig, ViewsConfig
from pcseg.datasets.augment import augmented
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.mix import draw_boxes, mix_boxes
from pcseg.datasets.views import CropDataset, item_generator
from pcseg.datasets.windows import WindowDataset

_VIEWS_SEED = 2**48  # far from the seeds of runs: crops of the unlabelled stream are drawn independently


class StreamDataset:
    """Item i of every stream of a run; it depends on the seed and i alone.

    Args:
        labelled: the crops with their labels.
        unlabelled: crops of the same scenes, not yet changed (of windows: nothing but their geometry); None: the run
            has no views.
        views: how the views differ.
        augment: what a view that ``views`` says nothing of is changed by.
        strong: number of strong views of an item.
    """

    def __init__(
        self,
        labelled: CropDataset | WindowDataset,
        *,
        unlabelled: CropDataset | WindowDataset | None = None,
        views: ViewsConfig | None = None,
        augment: AugmentConfig | None = None,
        contract: FeatureContract | None = None,
        strong: int = 1,
        seed: int = 0,
    ):
        self.labelled, self.unlabelled, self.views = labelled, unlabelled, views
        self.augment, self.contract, self.strong, self.seed = augment or AugmentConfig(), contract, strong, seed

    def __getitem__(self, index: int) -> dict[str, PointBatch]:
        streams = {"labelled": self.labelled[index]}
        if self.unlabelled is not None:
            streams |= self._views(index)
        return streams

    def _views(self, index: int) -> dict[str, PointBatch]:
        """One crop, or two of which the second goes into the strong views of the first."""
        views, contract = self.views, self.contract
        assert views is not None and contract is not None and self.unlabelled is not None
        generator = item_generator(self.seed + _VIEWS_SEED, index)
        mixed = views.mix != "none" and float(torch.rand((), generator=generator)) < views.mix_probability
        crops = [_bare(self.unlabelled[2 * index + number]) for number in range(1 + mixed)]
        weak_change, strong_change = views.weak or self.augment, views.strong or self.augment
        weak = cat([augmented(crop, weak_change, contract, generator) for crop in crops])
        streams = {"weak_view": replace(weak, rows=None)}
        for number in range(self.strong):
            changed = [augmented(crop, strong_change, contract, generator) for crop in crops]
            if mixed:
                # Of one cloud each: a box in the extent of the first, in its own frame.
                boxes = draw_boxes(changed[0], generator, in_plane=views.mix == "boxes")
                mix = mix_boxes(changed[0], changed[1], boxes)
                shown = replace(mix.batch, rows=mix.index + mix.source * changed[0].num_rows)
            else:
                shown = replace(changed[0], rows=torch.arange(changed[0].num_rows))
            streams["strong_view" if number == 0 else f"strong_view_{number + 1}"] = shown
        return streams


def collate(items: Sequence[Mapping[str, PointBatch]]) -> dict[str, PointBatch]:
    """Items of all streams, packed stream by stream; rows of strong views follow those of the weak view."""
    batch = {name: cat([item[name] for item in items]) for name in items[0]}
    if "weak_view" not in batch:
        return batch
    before = torch.tensor([0, *(item["weak_view"].num_rows for item in items[:-1])]).cumsum(0)
    for name in batch:
        if name.startswith("strong_view"):
            shift = before.repeat_interleave(torch.tensor([item[name].num_rows for item in items]))
            rows = batch[name].rows
            assert rows is not None
            batch[name] = replace(batch[name], rows=rows + shift)
    return batch


def _bare(item: PointBatch) -> PointBatch:
    """Without anything that an annotator has said."""
    return replace(item, labels=None, instances=None)
