"""From proposals to segments: a whole scene, cloud or image at once, and its panoptic scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcseg import ops
from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.config import PanopticConfig
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError
from pcseg.images import image_batch
from pcseg.metrics.instances import InstanceMatches, InstanceScores, average_precision, instance_matches
from pcseg.metrics.panoptic import PanopticCounts, PanopticScores, Quality, panoptic_counts, panoptic_scores
from pcseg.models.heads import Proposals, SegOutput
from pcseg.models.modes import evaluating
from pcseg.predictor import PartSource, Predictor
from pcseg.segments import Segments


@dataclass(frozen=True, slots=True)
class Instances:
    """Proposed things, each by itself; they may overlap. What average precision looks at."""

    masks: np.ndarray  # (P, N) bool
    classes: np.ndarray  # (P,) int64
    scores: np.ndarray  # (P,) float


@torch.no_grad()
def merge_proposals(
    proposals: Proposals,  # of one cloud: class_logits (1, Q, K + 1), mask_logits (n, Q)
    is_thing: Sequence[bool],  # (K,)
    *,
    min_score: float,
    min_overlap: float,
) -> Segments:
    """Things take the rows of their masks, surest first, then stuff takes what is left.

    Sure is who has the larger score times mean of the mask. A thing of whose mask others have left less than
    ``min_overlap``, a copy for instance, is dropped, as are proposals of "nothing" and those whose score is below
    ``min_score``. Masks of one stuff class become one segment, whose score is the largest. Rows in no mask are void.

    Source: Kirillov et al. 2019, Panoptic Segmentation, section 7 (things before stuff, by score).
    """
    scores, classes = proposals.class_logits[0].float().softmax(1).max(1)
    masks = proposals.mask_logits.float().sigmoid()
    inside = masks >= 0.5
    areas = inside.sum(0)
    sure = scores * (masks * inside).sum(0) / areas.clamp(min=1)
    kept = (classes < len(is_thing)) & (scores >= min_score) & (areas > 0)
    order = [number for number in torch.argsort(sure, descending=True, stable=True).tolist() if kept[number]]
    named = classes.tolist()
    ids = torch.full((len(masks),), IGNORE, device=scores.device)
    found: list[int] = []  # the proposal of each segment
    stuff: dict[int, int] = {}
    for number in sorted(order, key=lambda number: not is_thing[named[number]]):  # keeps the order within both
        free = inside[:, number] & (ids == IGNORE)
        left = int(free.sum())
        if not left or (is_thing[named[number]] and left < min_overlap * int(areas[number])):
            continue
        segment = len(found) if is_thing[named[number]] else stuff.setdefault(named[number], len(found))
        if segment == len(found):
            found.append(number)
        ids[free] = segment
    return Segments(
        ids=ids.cpu().numpy(),
        classes=np.array([named[number] for number in found], np.int64),
        crowd=np.zeros(len(found), bool),
        scores=scores[found].double().cpu().numpy(),
    )


def _without_copies(masks: Tensor, sure: Tensor, max_copy: float) -> Tensor:  # (n, P), (P,) -> (M,)
    """Numbers of the things that overlap no surer one too much, surest first."""
    inside = (masks >= 0.5).float()
    areas, shared = inside.sum(0), inside.T @ inside
    iou = shared / (areas[:, None] + areas - shared).clamp(min=1)
    kept: list[int] = []
    for number in torch.argsort(sure, descending=True, stable=True).tolist():
        if not kept or float(iou[number, kept].max()) <= max_copy:
            kept.append(number)
    return torch.tensor(kept, dtype=torch.int64, device=masks.device)


@torch.no_grad()
def proposed_things(proposals: Proposals, is_thing: Sequence[bool], *, max_copy: float = 1.0) -> Instances:
    """The proposals whose likeliest class but "nothing" is a thing; score: its probability times the mask's mean.

    Those whose IoU with a surer one is above ``max_copy`` are left out.
    """
    scores, classes = proposals.class_logits[0].float().softmax(1)[:, :-1].max(1)
    things = torch.tensor(is_thing, device=classes.device)
    masks = proposals.mask_logits.float().sigmoid()
    inside = masks >= 0.5
    kept = torch.nonzero(things[classes] & inside.any(0))[:, 0]
    sure = scores[kept] * (masks * inside).sum(0)[kept] / inside.sum(0)[kept]
    first = _without_copies(masks[:, kept], sure, max_copy)
    chosen = kept[first]
    return Instances(inside[:, chosen].T.cpu().numpy(), classes[chosen].cpu().numpy(), sure[first].cpu().numpy())


@dataclass(frozen=True, slots=True)
class SeenPart:
    """A scene as the network sees it, and which of its rows each of the scene's is."""

    batch: PointBatch
    row_of: np.ndarray  # (N,) int64


def see_part(predictor: Predictor, part: ScenePart) -> SeenPart:
    """A whole scene or image in one batch: instances do not end at the border of a tile. Memory goes by the scene."""
    if predictor.on_grid:
        height, width = part.scene.grid_shape[:2]  # pyright: ignore[reportOptionalSubscript]
        feats = torch.from_numpy(np.ascontiguousarray(predictor.contract.feats(part.scene, None), np.float32))
        batch = image_batch(feats.view(height, width, -1))
        rows = np.arange(height * width) if part.chosen is None else part.chosen
        return SeenPart(batch.to(predictor.device), rows)
    source = PartSource(part, predictor.contract, part.coords)
    coords = torch.from_numpy(np.array(source.coords, np.float32))
    feats = torch.from_numpy(np.ascontiguousarray(source.feats(np.arange(part.num_points)), np.float32))
    grid = ops.grid_subsample(coords, predictor.card.config.model.voxel_size)
    voxels = ops.voxel_features(grid, coords, feats)
    assert voxels.feats is not None
    batch = PointBatch(coords=voxels.coords, feats=voxels.feats, offsets=offsets_of([len(voxels.coords)]))
    return SeenPart(batch.to(predictor.device), grid.voxel_of_point.numpy())


@torch.no_grad()
def look(predictor: Predictor, batch: PointBatch) -> SegOutput:
    """What the network makes of a batch, in evaluation mode."""
    with evaluating(predictor.model):
        return predictor.model(batch, predictor.model.levels(batch))  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def segment_part(predictor: Predictor, part: ScenePart) -> tuple[Segments, Instances]:
    """The segments of every row of a scene, and its proposed things.

    Raises:
        InputError: the network has no panoptic branch.
    """
    branch = branch_of(predictor)
    seen = see_part(predictor, part)
    with evaluating(predictor.model):
        output = look(predictor, seen.batch)
        last = predictor.model.panoptic(seen.batch, output).last  # pyright: ignore[reportCallIssue]
    things = predictor.card.config.data.is_thing
    merged = merge_proposals(last, things, min_score=branch.min_score, min_overlap=branch.min_overlap)
    proposed = proposed_things(last, things, max_copy=branch.max_copy)
    return spread_segments(merged, seen.row_of), Instances(
        proposed.masks[:, seen.row_of], proposed.classes, proposed.scores
    )


def branch_of(predictor: Predictor) -> PanopticConfig:
    """Settings of the panoptic branch.

    Raises:
        InputError: there is none.
    """
    branch = predictor.card.config.panoptic
    if branch is None:
        raise InputError("the network names classes only; train one with `panoptic` in its config")
    return branch


def spread_segments(
    segments: Segments,  # of n rows
    row_of: np.ndarray,  # (N,) int64 in [0, n)
) -> Segments:  # of N rows
    return Segments(ids=segments.ids[row_of], classes=segments.classes, crowd=segments.crowd, scores=segments.scores)


def true_segments(
    scene: RowSource,
    is_thing: Sequence[bool],
    chosen: np.ndarray | None = None,  # (n,) int64; None: all rows
) -> Segments:
    """What a scene's labels and instances say, crowds included.

    Raises:
        InputError: no labels or no instances, or an instance of two classes.
    """
    labels, instances = scene.labels, scene.instances
    if labels is None or instances is None:
        raise InputError(f"{scene.path}: has no {'labels' if labels is None else 'instances'} to compare with")
    rows = slice(None) if chosen is None else chosen
    try:
        return Segments.from_rows(np.asarray(labels)[rows], np.asarray(instances)[rows], is_thing)
    except ValueError as error:
        raise InputError(f"{scene.path}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticEvaluation:
    """Panoptic scores on some scenes, every row of them."""

    class_names: tuple[str, ...]
    is_thing: tuple[bool, ...]
    counts: PanopticCounts
    matches: InstanceMatches | None  # None: segments without proposals, such as pseudo-labels

    @property
    def scores(self) -> PanopticScores:
        return panoptic_scores(self.counts, self.is_thing)

    @property
    def instances(self) -> InstanceScores | None:
        return None if self.matches is None else average_precision(self.matches)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; None for what does not occur."""
        found, things = self.scores, self.instances
        parts = {"overall": found.overall, "things": found.things, "stuff": found.stuff}
        of_class = {name: _number(value) for name, value in zip(self.class_names, found.pq.tolist(), strict=True)}
        result: dict[str, Any] = {name: _quality(value) for name, value in parts.items()} | {"pq": of_class}
        if things is not None:
            result |= {"ap": _number(things.ap), "ap50": _number(things.ap50), "ap75": _number(things.ap75)}
        return result


def evaluate_panoptic(
    predictor: Predictor,
    parts: Sequence[ScenePart],
    *,
    advance: Callable[[int], None] = lambda rows: None,
) -> PanopticEvaluation:
    """Compare the network's segments with the truth, at every row.

    Raises:
        InputError: a scene without labels or instances, or a network without panoptic branch.
    """
    data = predictor.card.config.data
    classes, things = len(data.class_names), data.is_thing
    counts, matches = PanopticCounts.none(classes), InstanceMatches.none(classes)
    for part in parts:
        truth = true_segments(part.scene, things, part.chosen)
        segments, proposed = segment_part(predictor, part)
        counts += panoptic_counts(segments, truth, classes)
        matches += instance_matches(proposed.masks, proposed.classes, proposed.scores, truth, things)
        advance(part.num_points)
    return PanopticEvaluation(class_names=data.class_names, is_thing=things, counts=counts, matches=matches)


def _quality(value: Quality) -> dict[str, Any]:
    return {"pq": _number(value.pq), "sq": _number(value.sq), "rq": _number(value.rq), "classes": value.num_classes}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
