"""A panoptic labelling of rows: every row belongs to one segment or to none, every segment has a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pcseg.batch import IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The segments of a scene, an image or a volume: one for each thing, one for each stuff class that is there.

    A segment without rows is allowed, and counts as a prediction or a truth of size 0.

    Raises:
        ValueError: shapes, dtypes or segment ids that do not fit together.
    """

    ids: np.ndarray  # (N,) integer in [0, S) or IGNORE: void
    classes: np.ndarray  # (S,) int64, class index of each segment
    crowd: np.ndarray  # (S,) bool, many things of one class that nobody told apart
    scores: np.ndarray | None = None  # (S,) float, confidence of predicted segments

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise ValueError(f"Segments: ids must be (N,) integers, got {self.ids.shape} {self.ids.dtype}")
        if self.classes.shape != (count,) or self.classes.dtype.kind not in "iu" or self.crowd.shape != (count,):
            raise ValueError(
                f"Segments: classes (S,) integer and crowd (S,) bool expected, got {self.classes.shape} "
                f"{self.classes.dtype} and {self.crowd.shape}"
            )
        if self.scores is not None and self.scores.shape != (count,):
            raise ValueError(f"Segments: scores must be ({count},), one a segment, got {self.scores.shape}")
        low, high = (int(self.ids.min()), int(self.ids.max())) if self.ids.size else (IGNORE, IGNORE)
        if low < IGNORE or high >= count:
            wrong = low if low < IGNORE else high
            raise ValueError(f"Segments: ids must be in [0, {count}) or {IGNORE} (void), got {wrong}")

    @classmethod
    def from_rows(
        cls,
        labels: np.ndarray,  # (N,) integer, class index or IGNORE
        instances: np.ndarray,  # (N,) integer, id of the thing, or IGNORE
        is_thing: Sequence[bool] | np.ndarray,  # (K,)
    ) -> Segments:
        """Segments of labelled rows, in the order of (class, id).

        A stuff class is one segment, whatever its rows' ``instances`` say. Rows of a thing class without an instance
        are a crowd: the class is known, and which thing they belong to is not. Rows without a label are void.

        Raises:
            ValueError: lengths that differ, a label outside ``is_thing``, an instance with rows of two classes.
        """
        labels, instances = np.asarray(labels), np.asarray(instances)
        things = np.asarray(is_thing, bool)
        if labels.ndim != 1 or labels.shape != instances.shape:
            raise ValueError(f"Segments: labels and instances must be (N,), got {labels.shape} and {instances.shape}")
        if labels.size and not IGNORE <= int(labels.min()) <= int(labels.max()) < len(things):
            raise ValueError(f"Segments: labels must be in [0, {len(things)}) or {IGNORE}, got {np.unique(labels)}")
        known = np.flatnonzero(labels != IGNORE)
        of_class = labels[known].astype(np.int64)
        of_thing = np.where(things[of_class], instances[known].astype(np.int64), IGNORE)
        pairs, place = np.unique(np.stack([of_class, of_thing], 1), axis=0, return_inverse=True)
        named = pairs[pairs[:, 1] != IGNORE]
        numbers, uses = np.unique(named[:, 1], return_counts=True)
        if (uses > 1).any():
            twice = int(numbers[uses > 1][0])
            classes = named[named[:, 1] == twice, 0].tolist()
            raise ValueError(f"Segments: the instance {twice} has rows of the classes {classes}; it must have one")
        ids = np.full(len(labels), IGNORE, np.int64)
        ids[known] = place.reshape(-1)
        return cls(ids=ids, classes=pairs[:, 0], crowd=things[pairs[:, 0]] & (pairs[:, 1] == IGNORE))

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def areas(self) -> np.ndarray:  # (S,) int64
        """Rows of each segment."""
        return np.bincount(self.ids[self.ids != IGNORE], minlength=len(self))

    @property
    def labels(self) -> np.ndarray:  # (N,) int64
        """Class of each row, or IGNORE."""
        return np.append(self.classes, IGNORE)[self.ids].astype(np.int64)

    def instances(
        self,
        is_thing: Sequence[bool] | np.ndarray,  # (K,)
    ) -> np.ndarray:  # (N,) int64
        """The segment of each row where that is a thing; IGNORE for stuff, crowd and void."""
        own = np.asarray(is_thing, bool)[self.classes] & ~self.crowd
        return np.append(np.where(own, np.arange(len(self)), IGNORE), IGNORE)[self.ids]
