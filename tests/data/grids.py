"""Images and volumes in memory, as any source of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pcseg.datasets.feature_contract import FeatureContract
from pcseg.errors import InputError


@dataclass
class Grid:
    """Rows in C order; coords (x, y) or (x, y, z) are the indices of a row's cell, times ``spacing``."""

    grid_shape: tuple[int, ...]
    columns: dict[str, np.ndarray]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ("a", "b")
    name: str = "grid"
    spacing: float = 1.0
    reads: list[str] = field(default_factory=list)
    instances: np.ndarray | None = None

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def num_points(self) -> int:
        return int(np.prod(self.grid_shape))

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @property
    def coords(self) -> np.ndarray:
        cells = np.indices(self.grid_shape).reshape(len(self.grid_shape), -1).T
        return cells[:, ::-1].astype(np.float32) * np.float32(self.spacing)

    def column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise InputError(f"{self.name}: has no column '{name}'")
        self.reads.append(name)
        return self.columns[name]


def noise_image(height: int, width: int, seed: int = 0, *, labels: np.ndarray | None = None, **kwargs) -> Grid:
    color = np.random.default_rng(seed).integers(0, 256, (height * width, 3), dtype=np.uint8)
    return Grid((height, width), {"color": color}, labels, **kwargs)


def unit_contract(name: str = "color", mean: float = 0.0, std: float = 1.0) -> FeatureContract:
    """Colours in [0, 1], on a scale that is easy to undo."""
    channels = [{"name": f"{name}_{c}", "low": 0.0, "high": 1.0, "mean": mean, "std": std} for c in "rgb"]
    return FeatureContract.model_validate({"features": [{"name": name, "transform": "unit", "channels": channels}]})
