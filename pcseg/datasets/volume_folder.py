"""NIfTI volumes on disk: ``images/NAME.nii.gz`` with, where there are labels, ``labels/NAME.nii.gz``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pcseg.datasets.array_cache import ArrayCache
from pcseg.datasets.paired_files import class_indices, grid_coords, pairs_of
from pcseg.errors import InputError
from pcseg.io.volumes import SUFFIXES, VolumeHeader, read_label_volume, read_volume, read_volume_header

_TAIL = 0.005  # share at either end of a volume's signal that sets no scale


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeScene:
    """A volume as a row source: one row a voxel, in C order of (D, H, W). Decoded on access, and kept in the cache."""

    path: Path
    name: str
    header: VolumeHeader
    class_names: tuple[str, ...]
    label_path: Path | None = None  # None: no labels
    label_map: Mapping[int, int] = field(default_factory=dict)  # index, or IGNORE, of each code
    cache: ArrayCache = field(default_factory=ArrayCache, repr=False, compare=False)

    @property
    def grid_shape(self) -> tuple[int, int, int]:  # (D, H, W)
        return self.header.shape

    @property
    def num_points(self) -> int:
        depth, height, width = self.grid_shape
        return depth * height * width

    @property
    def column_names(self) -> tuple[str, ...]:
        return ("signal", "signal_normalized")

    @property
    def coords(self) -> np.ndarray:  # (N, 3) float32, millimetres (x, y, z) from the first voxel
        return grid_coords(self.grid_shape, self.header.spacing)

    @property
    def labels(self) -> np.ndarray | None:  # (N,) int16, class index or IGNORE
        """Raises:
        InputError: a label volume that cannot be read, of another size, or with a code of no class.
        """
        return None if self.label_path is None else self.cache.get(("labels", self.path), self._read_labels)

    @property
    def instances(self) -> None:
        return None

    def column(self, name: str) -> np.ndarray:  # (N,) float32
        """``signal``, as the file has it; ``signal_normalized``, on a scale that volumes share.

        Raises:
            InputError: another name; a volume that cannot be read.
        """
        if name not in self.column_names:
            raise InputError(f"{self.path}: has no column '{name}'; volumes have {', '.join(self.column_names)}")
        if name == "signal":
            return self.cache.get(("signal", self.path), lambda: read_volume(self.path)[0].reshape(-1))
        return self.cache.get(("normalized", self.path), lambda: normalized(self.column("signal")))

    def _read_labels(self) -> np.ndarray:
        assert self.label_path is not None
        codes = read_label_volume(self.label_path, self.header)
        return class_indices(codes, self.label_map, where=self.label_path, unit="voxel")


def normalized(
    signal: np.ndarray,  # (N,) float32
) -> np.ndarray:  # (N,) float32
    """(signal - mean) / deviation of a volume: the strengths of magnetic resonance have no scale of their own.

    Mean and deviation are measured with the lowest and the highest 0.5 % clipped, so that a bright vessel or a frame of
    one value beyond all others changes little. A constant signal becomes 0; values that are not finite stay so.
    """
    finite = signal[np.isfinite(signal)].astype(np.float64)
    if not finite.size:
        return signal.copy()
    clipped = finite.clip(*np.quantile(finite, [_TAIL, 1 - _TAIL]))
    deviation = clipped.std()
    if deviation <= 1e-6 * max(1e-30, float(np.abs(clipped).max())):
        deviation = 1.0
    return ((signal - clipped.mean()) / deviation).astype(np.float32)


def find_volumes(
    root: Path | str,
    patterns: Sequence[str],
    class_names: Sequence[str],
    label_map: Mapping[int, int],
) -> list[VolumeScene]:
    """Volumes under ``root/images`` whose names (without ending) match, in the order of the patterns; each once.

    Headers are read, voxels are not.

    Args:
        class_names, label_map: of the run, as ``DataConfig`` has them.

    Raises:
        InputError: no folder ``images``, no volume in it, two of one name, a pattern that matches nothing, or a header
            that cannot be read.
    """
    found = pairs_of(
        Path(root), patterns, kind="volume", suffixes=SUFFIXES, label_folder="labels", label_suffixes=SUFFIXES
    )
    cache = ArrayCache()
    return [
        VolumeScene(
            path=path,
            name=name,
            header=read_volume_header(path),
            class_names=tuple(class_names),
            label_path=labels,
            label_map=dict(label_map),
            cache=cache,
        )
        for name, path, labels in found
    ]
