"""What a cloud's labelled rows point at: its things, and the stuff classes that it has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcseg import ops
from pcseg.batch import IGNORE, PointBatch
from pcseg.ops import GridEdges


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """G targets of one cloud of n rows. A target is a thing, or all rows of a stuff class."""

    classes: Tensor  # (G,) int64
    is_thing: Tensor  # (G,) bool
    of_row: Tensor  # (n,) int64, target of each labelled row or IGNORE

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def masks(self) -> Tensor:  # (n, G) float32
        """1 at the rows of a target."""
        return torch.nn.functional.one_hot(self.of_row + 1, len(self) + 1)[:, 1:].float()


def targets_of(
    batch: PointBatch,
    is_thing: Sequence[bool] | Tensor,  # (K,)
) -> list[Targets]:  # B
    """The targets of each cloud, by class and then by instance.

    A labelled row of a thing's class without an instance (a crowd) is no target's. A target of which no row is left in
    the cloud, because it was cropped away or shares a voxel with another, is none of the cloud's. A cloud without
    labelled rows has none.

    Raises:
        ValueError: no labels, or a thing's class and no instances.
    """
    if batch.labels is None:
        raise ValueError("targets_of: the batch has no labels")
    things = torch.as_tensor(is_thing, device=batch.labels.device)
    if batch.instances is None and bool(things.any()):
        raise ValueError("targets_of: the batch has no instances, and there are classes of things")
    found = []
    bounds = batch.offsets.tolist()
    for start, end in itertools.pairwise(bounds):
        labels = batch.labels[start:end]
        instances = torch.full_like(labels, IGNORE) if batch.instances is None else batch.instances[start:end]
        thing = things[labels.clamp(min=0)]
        pointed = (labels != IGNORE) & (~thing | (instances != IGNORE))
        pairs = torch.stack([labels, torch.where(thing, instances, IGNORE)], 1)[pointed]
        unique, place = torch.unique(pairs, dim=0, return_inverse=True)
        of_row = torch.full_like(labels, IGNORE)
        of_row[pointed] = place
        found.append(Targets(classes=unique[:, 0], is_thing=things[unique[:, 0]], of_row=of_row))
    return found


def dilated(
    coords: Tensor,  # (n, D) float
    targets: Targets,
    radius: float,
    ties: GridEdges | None = None,  # of the cloud's rows, weight above 0: tied
) -> Targets:
    """The same targets with every row within ``radius`` of a labelled row labelled too, by the nearest one.

    Args:
        ties: a row must also be reached from the labelled one over tied pairs of such rows: labels near the foot of a
            thing then do not spread to the floor.

    Source: PSPS (Fan et al. 2022) spreads point labels over a window of 17 x 17 pixels. Ties: ours.
    """
    labelled = torch.nonzero(targets.of_row != IGNORE)[:, 0]
    if radius <= 0 or not len(labelled):
        return targets
    nearest, sq_dist = ops.knn(coords, coords[labelled].contiguous(), 1)
    source = torch.where(sq_dist[:, 0] <= radius**2, labelled[nearest[:, 0].clamp(max=len(labelled) - 1)], IGNORE)
    source[labelled] = labelled  # rows that lie together keep their own
    if ties is not None:
        source = _reached(source, labelled, ties)
    spread = torch.where(source != IGNORE, targets.of_row[source.clamp(min=0)], IGNORE)
    return Targets(classes=targets.classes, is_thing=targets.is_thing, of_row=spread)


def _reached(source: Tensor, labelled: Tensor, ties: GridEdges) -> Tensor:  # (n,) labelled rows or IGNORE
    """The rows that tied rows of the same source link to it; the others have none."""
    rows = len(source)
    there = ties.neighbors.clamp(max=rows - 1)
    linked = (ties.edge_weight > 0) & (ties.neighbors < rows) & (source[:, None] != IGNORE)
    linked &= source[there] == source[:, None]
    found = torch.zeros(rows, dtype=torch.bool, device=source.device)
    found[labelled] = True
    while True:
        more = found | (linked & found[there]).any(1)
        if torch.equal(more, found):
            return torch.where(found, source, IGNORE)
        found = more
