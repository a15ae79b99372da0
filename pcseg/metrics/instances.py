"""Average precision of instances, as COCO scores masks, on rows of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcseg.batch import IGNORE
from pcseg.segments import Segments

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU that a match needs."""
RECALLS = np.linspace(0, 1, 101)
"""Where the curve of precision over recall is read off."""


@dataclass(frozen=True, slots=True, eq=False)
class InstanceMatches:
    """What happened to every predicted instance. Of several scenes: ``total += instance_matches(...)``."""

    classes: np.ndarray  # (P,) int64
    scores: np.ndarray  # (P,) float64
    hit: np.ndarray  # (P, T) bool, matched to a true instance at each threshold
    ignored: np.ndarray  # (P, T) bool, matched to a crowd
    true_counts: np.ndarray  # (K,) int64, true instances of each class, crowds left out

    @classmethod
    def none(cls, num_classes: int) -> InstanceMatches:
        """Of no scene at all."""
        flags = np.zeros((0, len(THRESHOLDS)), bool)
        return cls(np.zeros(0, np.int64), np.zeros(0), flags, flags, np.zeros(num_classes, np.int64))

    def __add__(self, other: InstanceMatches) -> InstanceMatches:
        return InstanceMatches(
            np.concatenate([self.classes, other.classes]),
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.hit, other.hit]),
            np.concatenate([self.ignored, other.ignored]),
            self.true_counts + other.true_counts,
        )


class InstanceScores(NamedTuple):
    """In [0, 1]; nan where there is no true instance."""

    ap: float  # mean over classes and thresholds
    ap50: float
    ap75: float
    of_class: np.ndarray  # (K,) float64, mean over thresholds; nan for a class without a true instance


def instance_matches(
    masks: np.ndarray,  # (P, N) bool, predicted instances; they may overlap
    classes: np.ndarray,  # (P,) integer
    scores: np.ndarray,  # (P,) float
    truth: Segments,
    is_thing: Sequence[bool] | np.ndarray,  # (K,)
    *,
    max_detections: int = 100,
) -> InstanceMatches:
    """Match the predicted instances of one scene to the true ones of their class, best score first.

    Each takes the free true instance with the largest IoU, if that reaches the threshold, the later one among equals.
    Else a crowd, which takes any number of them, if rows in common over rows predicted reach it; it then counts neither
    for nor against. Rows that are void in the truth are not looked at, and a prediction that has no others is left
    out: COCO's own truth for instances has no void.

    Args:
        max_detections: the best so many of each class.

    Raises:
        ValueError: shapes that do not fit, a class outside [0, K) or of stuff.

    Source: COCO detection evaluation (Lin et al. 2014).
    """
    things = np.asarray(is_thing, bool)
    if masks.ndim != 2 or masks.shape[1:] != truth.ids.shape or masks.dtype != bool:
        raise ValueError(f"instance_matches: masks must be (P, {len(truth.ids)}) bool, got {masks.shape} {masks.dtype}")
    if classes.shape != masks.shape[:1] or scores.shape != masks.shape[:1]:
        raise ValueError(
            f"instance_matches: {len(masks)} masks need as many classes and scores, got {classes.shape} "
            f"and {scores.shape}"
        )
    if classes.size and not (0 <= classes.min() <= classes.max() < len(things) and things[classes].all()):
        raise ValueError(f"instance_matches: classes must be those of things, got {np.unique(classes).tolist()}")
    known = truth.ids != IGNORE
    ids = truth.ids[known].astype(np.int64)
    shared = np.stack([np.bincount(ids[mask[known]], minlength=len(truth)) for mask in masks] or [np.zeros(0, int)])
    areas, true_areas = np.array([int(mask[known].sum()) for mask in masks], np.int64), truth.areas
    total = InstanceMatches.none(len(things))
    for index in np.flatnonzero(things):
        mine = np.flatnonzero((classes == index) & (areas > 0))
        mine = mine[np.argsort(-scores[mine], kind="stable")][:max_detections]
        theirs = np.flatnonzero(truth.classes == index)
        theirs = theirs[np.argsort(truth.crowd[theirs], kind="stable")]
        crowd = truth.crowd[theirs]
        common = shared[np.ix_(mine, theirs)] if len(mine) else np.zeros((0, len(theirs)))
        union = np.where(crowd, areas[mine][:, None], areas[mine][:, None] + true_areas[theirs] - common)
        hit, ignored = _match(common / np.maximum(union, 1), crowd)
        counts = np.zeros(len(things), np.int64)
        counts[index] = (~crowd).sum()
        total += InstanceMatches(classes[mine].astype(np.int64), scores[mine].astype(np.float64), hit, ignored, counts)
    return total


def segment_matches(
    predicted: Segments,
    truth: Segments,
    is_thing: Sequence[bool] | np.ndarray,  # (K,)
) -> InstanceMatches:
    """:func:`instance_matches` of the thing segments of a panoptic prediction.

    Raises:
        ValueError: what it refuses; a prediction without scores.
    """
    if predicted.scores is None:
        raise ValueError("segment_matches: the predicted segments have no scores")
    chosen = np.flatnonzero(np.asarray(is_thing, bool)[predicted.classes])
    masks = predicted.ids == chosen[:, None]
    return instance_matches(masks, predicted.classes[chosen], predicted.scores[chosen], truth, is_thing)


def average_precision(matches: InstanceMatches) -> InstanceScores:
    """AP over IoU 0.5 to 0.95, AP50 and AP75, and the AP of each class, from the matches of all scenes.

    The precision at a recall is the best one at that recall or a larger one; its mean over 101 recalls is the AP.
    """
    found = np.full((len(matches.true_counts), len(THRESHOLDS)), np.nan)
    for index in np.flatnonzero(matches.true_counts):
        mine = np.flatnonzero(matches.classes == index)
        mine = mine[np.argsort(-matches.scores[mine], kind="stable")]
        right = matches.hit[mine].cumsum(0)
        wrong = (~matches.hit[mine] & ~matches.ignored[mine]).cumsum(0)
        recall = right / matches.true_counts[index]
        precision = right / np.maximum(right + wrong, 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        for number in range(len(THRESHOLDS)):
            place = np.searchsorted(recall[:, number], RECALLS, side="left")
            found[index, number] = np.append(best[:, number], 0.0)[place].mean()
    occurs = matches.true_counts > 0
    if not occurs.any():
        return InstanceScores(np.nan, np.nan, np.nan, found[:, 0])
    of_class = found.mean(1)
    return InstanceScores(
        float(of_class[occurs].mean()), float(found[occurs, 0].mean()), float(found[occurs, 5].mean()), of_class
    )


def _match(
    iou: np.ndarray,  # (P, T) float, best score first; crowds last
    crowd: np.ndarray,  # (T,) bool
) -> tuple[np.ndarray, np.ndarray]:  # (P, 10) bool, (P, 10) bool
    """Which predictions hit a true instance at each threshold, and which fell into a crowd."""
    hit, ignored = np.zeros((2, len(iou), len(THRESHOLDS)), bool)
    if not iou.size:
        return hit, ignored
    for number, threshold in enumerate(THRESHOLDS):
        free = ~crowd
        for row, values in enumerate(iou):
            own = np.where(free, values, -1.0)
            # The last of the largest, as COCO's loop finds it.
            best = len(own) - 1 - int(own[::-1].argmax())
            if own[best] >= threshold:
                hit[row, number] = True
                free[best] = False
            elif (values[crowd] >= threshold).any():
                ignored[row, number] = True
    return hit, ignored
