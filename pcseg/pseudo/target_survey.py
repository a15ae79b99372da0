"""What a run's clicks amount to once scenes are cropped and brought to voxels: told before the training begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pcseg.batch import IGNORE
from pcseg.datasets.scene_part import ScenePart
from pcseg.datasets.views import CropDataset
from pcseg.datasets.windows import WindowDataset

SAMPLES = 16
"""Items that are looked at: others than those of the run, and like them."""
_SHOWN = 3


def survey_targets(
    parts: Sequence[ScenePart],
    items: CropDataset | WindowDataset,
    is_thing: Sequence[bool],
    class_names: Sequence[str],
    *,
    presence: bool,
) -> list[str]:
    """What of the labelled things and stuff teaches nothing, and why; one line a reason, none where all is well.

    - No target in a scene: nothing but its neighbours' classes is learnt there. One alone: it is everywhere that its
      class is, and its distance is not learnt.
    - A target whose labelled rows all share their voxels with more rows of another: it is none of the scene's.
    - A target of which an item has no labelled row, since it was cropped away: there its rows count as unlabelled.

    Args:
        parts: that ``items`` are cropped from, in the same order.
        presence: pseudo-labels take the classes with a target for the only ones of an item.
    """
    things = np.asarray(is_thing, bool)
    clicked = [_targets(part.labels, part.instances, things) for part in parts]
    lines = []
    names = [part.name for part in parts]
    for count, told in ((0, "no target, and teach no distance"), (1, "one target alone, and teach no distance")):
        few = [name for name, targets in zip(names, clicked, strict=True) if len(targets) == count]
        if few:
            lines.append(f"{len(few)} of {len(parts)} scenes have {told}: {_listed(few)}")
    if isinstance(items, CropDataset):
        lost = [
            f"{class_names[kind]}{'' if number == IGNORE else f' {number}'} in {name}"
            for name, targets, scene in zip(names, clicked, items.scenes, strict=True)
            for kind, number in sorted(targets - _targets(scene.labels, scene.instances, things))
        ]
        if lost:
            lines.append(
                f"{len(lost)} of {sum(map(len, clicked))} targets lost, their voxels have more labels of others; "
                f"a smaller model.voxel_size keeps them apart: {_listed(lost)}"
            )
    lines += _cropped(clicked, items, things, presence=presence)
    return lines


def _cropped(
    clicked: Sequence[set[tuple[int, int]]],
    items: CropDataset | WindowDataset,
    things: np.ndarray,
    *,
    presence: bool,
) -> list[str]:
    """What sampled items hold of the targets of their scenes."""
    held, there, few, count = 0, 0, 0, 0
    for number in range(SAMPLES):
        batch = items[2**40 + number]
        assert batch.rows is not None
        if not batch.num_rows:
            continue
        scene = int(torch.searchsorted(items.scene_starts, batch.rows[0], right=True)) - 1
        kept = len(_targets(batch.labels, batch.instances, things))
        if len(clicked[scene]) > 1:
            held, there, few, count = held + kept, there + len(clicked[scene]), few + (kept < 2), count + 1
    if held == there:
        return []
    text = (
        f"{count} sampled items hold {held / there:.0%} of their scenes' targets, what belongs to the others there has "
        f"no label; {few} hold less than two and teach no distance; a larger data.crop holds more"
    )
    return [text + (", and method.presence should be false" if presence else "")]


def _targets(labels: object, instances: object, things: np.ndarray) -> set[tuple[int, int]]:
    """(class, instance or IGNORE) of each target of a scene."""
    if labels is None:
        return set()
    classes = np.asarray(labels, np.int64)
    numbers = np.full(len(classes), IGNORE) if instances is None else np.asarray(instances, np.int64)
    thing = things[classes.clip(0)]
    rows = np.flatnonzero((classes != IGNORE) & (~thing | (numbers != IGNORE)))
    pairs = np.stack([classes, np.where(thing, numbers, IGNORE)], 1)[rows]
    return {(int(kind), int(number)) for kind, number in np.unique(pairs, axis=0)}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
