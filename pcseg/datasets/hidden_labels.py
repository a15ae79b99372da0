"""A data set's scene of which only some labels may be seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_folder import INSTANCES
from pcseg.ignore import IGNORE


@dataclass(frozen=True, slots=True)
class HiddenLabels:
    """A scene as it is, but for its labels: whoever reads it gets those of ``rows``, and IGNORE everywhere else.

    A scene that has no labels at all can hide them, too.
    """

    source: RowSource
    rows: np.ndarray = field(repr=False)  # (n,) int64, whose labels may be seen

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def num_points(self) -> int:
        return self.source.num_points

    @property
    def grid_shape(self) -> tuple[int, ...] | None:
        return self.source.grid_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def column_names(self) -> tuple[str, ...]:
        return self.source.column_names

    @property
    def coords(self) -> np.ndarray:  # (N, D) float32
        return self.source.coords

    @property
    def labels(self) -> np.ndarray:  # (N,) int16, class index or IGNORE
        labels = self.source.labels
        return self._shown(np.zeros(0) if labels is None else labels, np.dtype(np.int16))

    @property
    def instances(self) -> np.ndarray | None:  # (N,) int64, id of the thing or IGNORE
        instances = self.source.instances
        return None if instances is None else self._shown(instances, np.dtype(np.int64))

    @property
    def visible(self) -> np.ndarray:  # (N,) bool
        mask = np.zeros(self.num_points, bool)
        mask[self.rows] = True
        return mask

    def column(self, name: str) -> np.ndarray:  # (N,) or (N, k)
        """An attribute by name; instance ids of other rows are IGNORE.

        Raises:
            InputError: there is none of that name.
        """
        values = self.source.column(name)
        return self._shown(values, np.dtype(np.int64)) if name == INSTANCES else values

    def _shown(self, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        shown = np.full(self.num_points, IGNORE, dtype)
        shown[self.rows] = values[self.rows]
        return shown
