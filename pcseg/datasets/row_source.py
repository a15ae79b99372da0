"""What all data are to the rest: rows with coordinates, columns and labels, whatever they were on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np


class RowSource(Protocol):
    """A scene folder, an image or a volume. Arrays are read on access, and may be memory-mapped."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str: ...

    @property
    def num_points(self) -> int:
        """N rows: points, pixels or voxels."""
        ...

    @property
    def grid_shape(self) -> tuple[int, ...] | None:
        """(height, width) of an image, (depth, height, width) of a volume, whose rows are in C order; None: no grid."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def column_names(self) -> tuple[str, ...]: ...

    @property
    def coords(self) -> np.ndarray:  # (N, D) float32: metres; pixels (x, y); millimetres
        ...

    @property
    def labels(self) -> np.ndarray | None:  # (N,) int16, class index or IGNORE
        ...

    @property
    def instances(self) -> np.ndarray | None:  # (N,) int32 or int64, id of the thing, IGNORE for stuff; None: unknown
        """Ids are unique within a source. Rows of a thing's class without one are a crowd."""
        ...

    def column(self, name: str) -> np.ndarray:  # (N,) or (N, k)
        """An attribute by name.

        Raises:
            InputError: there is none of that name.
        """
        ...
