"""Panoptic quality: how well things and stuff are found and outlined, by the COCO definition, on rows of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcseg.batch import IGNORE
from pcseg.segments import Segments


@dataclass(frozen=True, slots=True, eq=False)
class PanopticCounts:
    """What the panoptic quality is made of, by class. Counts of scenes add up: ``total += panoptic_counts(...)``."""

    iou: np.ndarray  # (K,) float64, summed over the matched pairs
    matched: np.ndarray  # (K,) int64, true positives
    unmatched: np.ndarray  # (K,) int64, false positives: predicted segments that match nothing
    missed: np.ndarray  # (K,) int64, false negatives: true segments that nothing matches

    @classmethod
    def none(cls, num_classes: int) -> PanopticCounts:
        """Of no scene at all."""
        counts = np.zeros(num_classes, np.int64)
        return cls(np.zeros(num_classes), counts, counts, counts)

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.iou + other.iou,
            self.matched + other.matched,
            self.unmatched + other.unmatched,
            self.missed + other.missed,
        )


class Quality(NamedTuple):
    """Means over the classes that occur in the truth or in the prediction, in [0, 1]; nan where none does."""

    pq: float  # panoptic quality, SQ * RQ class by class
    sq: float  # segmentation quality, mean IoU of the matched pairs
    rq: float  # recognition quality, F1 of the matching
    num_classes: int  # that occur


class PanopticScores(NamedTuple):
    overall: Quality
    things: Quality
    stuff: Quality
    pq: np.ndarray  # (K,) float64, nan for a class that occurs neither in the truth nor in the prediction
    sq: np.ndarray  # (K,) float64, likewise; 0 where nothing matched
    rq: np.ndarray  # (K,) float64, likewise


def panoptic_counts(predicted: Segments, truth: Segments, num_classes: int) -> PanopticCounts:
    """Match the segments of one scene.

    A predicted and a true segment match where they have one class and an IoU above 0.5, which at most one partner can
    have. Rows that are void in the truth do not enlarge the union. A predicted segment that matches nothing is no false
    positive where more than half of its rows are void or crowd of its class; a crowd is never matched and never missed.
    Rows that are void in the prediction belong to no predicted segment.

    Raises:
        ValueError: numbers of rows that differ, or a class outside [0, num_classes).

    Source: Kirillov et al. 2019, Panoptic Segmentation, section 4; crowd and void as in COCO's evaluation.
    """
    if predicted.ids.shape != truth.ids.shape:
        raise ValueError(f"panoptic_counts: {len(predicted.ids)} rows are predicted, the truth has {len(truth.ids)}")
    for name, segments in (("predicted", predicted), ("truth", truth)):
        low, high = (segments.classes.min(initial=0), segments.classes.max(initial=0))
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            raise ValueError(f"panoptic_counts: {name}: classes must be in [0, {num_classes}), got {wrong}")
    shared = overlaps(predicted, truth)
    void = shared[:-1, -1]
    shared = shared[:-1, :-1]
    areas, true_areas = predicted.areas, truth.areas
    row, column = np.nonzero(shared)
    common = shared[row, column]
    iou = common / (areas[row] + true_areas[column] - common - void[row])
    fits = (predicted.classes[row] == truth.classes[column]) & ~truth.crowd[column] & (iou > 0.5)
    row, column, iou = row[fits], column[fits], iou[fits]
    of_class = truth.classes[column]

    excused = void.copy()
    if truth.crowd.any():
        same = predicted.classes[:, None] == truth.classes[truth.crowd]
        excused += (shared[:, truth.crowd] * same).sum(1)
    wrong = np.ones(len(predicted), bool)
    wrong[row] = False
    wrong &= ~(2 * excused > areas)
    missed = ~truth.crowd
    missed[column] = False
    return PanopticCounts(
        np.bincount(of_class, iou, num_classes),
        np.bincount(of_class, minlength=num_classes),
        np.bincount(predicted.classes[wrong], minlength=num_classes),
        np.bincount(truth.classes[missed], minlength=num_classes),
    )


def panoptic_scores(
    counts: PanopticCounts,
    is_thing: Sequence[bool] | np.ndarray,  # (K,)
) -> PanopticScores:
    """PQ, SQ and RQ from the counts of all scenes: overall, of things, of stuff and of each class.

    Raises:
        ValueError: an ``is_thing`` of another length.
    """
    things = np.asarray(is_thing, bool)
    if things.shape != counts.matched.shape:
        raise ValueError(f"panoptic_scores: is_thing must be {counts.matched.shape}, got {things.shape}")
    found = counts.matched + (counts.unmatched + counts.missed) / 2
    occurs = found > 0
    empty = np.full(len(things), np.nan)
    pq = np.divide(counts.iou, found, out=empty.copy(), where=occurs)
    rq = np.divide(counts.matched, found, out=empty.copy(), where=occurs)
    sq = np.divide(counts.iou, counts.matched, out=np.where(occurs, 0.0, np.nan), where=counts.matched > 0)

    def quality(chosen: np.ndarray) -> Quality:
        kept = chosen & occurs
        if not kept.any():
            return Quality(np.nan, np.nan, np.nan, 0)
        return Quality(float(pq[kept].mean()), float(sq[kept].mean()), float(rq[kept].mean()), int(kept.sum()))

    return PanopticScores(quality(np.ones_like(things)), quality(things), quality(~things), pq, sq, rq)


def overlaps(predicted: Segments, truth: Segments) -> np.ndarray:  # (P + 1, T + 1) int64
    """Rows that a predicted and a true segment have in common; the last of each axis stands for void."""
    shape = (len(predicted) + 1, len(truth) + 1)
    # Casting first: unsigned ids times a width must not wrap.
    rows = np.where(predicted.ids == IGNORE, len(predicted), predicted.ids).astype(np.int64)
    columns = np.where(truth.ids == IGNORE, len(truth), truth.ids).astype(np.int64)
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
