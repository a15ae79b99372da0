"""What every reader of scans gives: a checked header, then chunks of points with named columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from pcseg.errors import InputError

CHUNK_SIZE = 1_000_000
"""Points read at a time: some 100 MB with every attribute."""
RESULTS = ("pred_class", "confidence", "pred_instance")
"""Attributes that a copy with predictions gets; those of an earlier prediction are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanHeader:
    """What a file promises, checked against its size before anything is allocated."""

    path: Path
    format: Literal["las", "ply", "pcd", "e57", "text", "npy"]
    num_points: int
    columns: dict[str, np.dtype]
    """Attributes by name, coordinates left out; a sub-array type where an attribute has several values a point."""
    crs: str | None
    """Coordinate reference system: WKT, ``EPSG:code``, or None where the file names none."""
    label_column: str | None
    """The attribute that holds class codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanChunk:
    """Consecutive points of a file."""

    start: int
    coords: np.ndarray  # (n, 3) float64, in the file's own frame; a value may be NaN or infinite
    columns: dict[str, np.ndarray]  # each (n,) or (n, k)

    def __len__(self) -> int:
        return self.coords.shape[0]


SUFFIXES = (".las", ".laz", ".ply", ".pcd", ".e57", ".xyz", ".txt", ".asc", ".csv", ".pts", ".npy")
"""Of the files that can be read; ``.copc.laz`` is a ``.laz``."""
LABEL_NAMES = ("class", "label", "classification", "scalar_classification", "scalar_label", "semantic", "sem_class")
"""Names of attributes that hold class codes, whatever their case; earlier ones come first."""


def _format(path: Path) -> ModuleType:
    suffix = path.suffix.lower()
    if suffix in (".las", ".laz"):
        from pcseg.io import las as module
    elif suffix == ".ply":
        from pcseg.io import ply as module
    elif suffix == ".pcd":
        from pcseg.io import pcd as module
    elif suffix == ".e57":
        from pcseg.io import e57 as module
    elif suffix == ".npy":
        from pcseg.io import npy_scan as module
    elif suffix in SUFFIXES:
        from pcseg.io import text_scan as module
    else:
        raise InputError(f"{path}: cannot read '{suffix or path.name}' files; give one of {', '.join(SUFFIXES)}")
    return module


def read_header(path: Path | str) -> ScanHeader:
    """Check a scan's header; the format goes by the file's suffix.

    Raises:
        InputError: missing, truncated, of another format than its name says, or without points.
    """
    return _format(Path(path)).read_header(Path(path))


def read_chunks(
    path: Path | str, columns: Sequence[str] | None = None, *, chunk_size: int = CHUNK_SIZE
) -> Iterator[ScanChunk]:
    """The points of a scan in file order, ``chunk_size`` at a time.

    Args:
        columns: attributes to deliver; None: all of them.

    Raises:
        InputError: as :func:`read_header`; a column the file does not have; damage found on the way.
    """
    return _format(Path(path)).read_chunks(Path(path), columns, chunk_size=chunk_size)


def write_predictions(
    source: Path | str,
    target: Path | str,
    pred_class: np.ndarray,  # (N,) integer, class index; -1: not predicted
    confidence: np.ndarray,  # (N,) float
    *,
    instances: np.ndarray | None = None,  # (N,) integer, number of the thing; -1: none
    codes: Sequence[int] | None = None,
    overwrite_classification: bool = False,
    chunk_size: int = CHUNK_SIZE,
) -> None:
    """Copy a scan with more attributes: ``pred_class`` (uint8 or uint16), ``confidence`` (float32) and, where things
    are told apart, ``pred_instance`` (int32, -1 for none).

    Every original attribute, the point order, scale, offset and CRS are kept. A point that was not predicted has the
    largest value of its type as ``pred_class``. Bounded memory; the target appears whole or not at all.

    Args:
        source, target: of the same family (LAS and LAZ, or PLY).
        codes: code of each class, needed to overwrite the classification.
        overwrite_classification: write the codes into the file's own class attribute; the old values are kept as
            ``orig_class``.

    Raises:
        InputError: what :func:`read_chunks` refuses, a number of predictions other than that of points, or a code that
            the format cannot hold.
        OSError: the target cannot be written.
    """
    source, target = Path(source), Path(target)
    module = _format(source)
    if not hasattr(module, "write_predictions"):
        raise InputError(f"{source}: predictions can be written into .las, .laz and .ply files; convert it first")
    if _format(target) is not module:
        raise InputError(f"{target}: a {source.suffix} file can only be copied to the same format")
    header = module.read_header(source)
    results = {"pred_class": pred_class, "confidence": confidence, "pred_instance": instances}
    for name, values in results.items():
        if values is not None and values.shape != (header.num_points,):
            raise InputError(f"{source}: has {header.num_points} points, got {name} of shape {values.shape}")
    if overwrite_classification and codes is None:
        raise InputError(f"{source}: the codes of the classes are needed to overwrite the classification")
    module.write_predictions(
        source,
        target,
        pred_class,
        confidence,
        instances=instances,
        codes=None if codes is None or not overwrite_classification else np.asarray(codes, np.int64),
        chunk_size=chunk_size,
    )


def class_type(num_classes: int) -> np.dtype:
    """Smallest type of ``pred_class`` that leaves its largest value free for "not predicted"."""
    return np.dtype(np.uint8 if num_classes <= 255 else np.uint16)


def check_columns(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    """Refuse an unknown column by name."""
    for name in wanted:
        if name not in present:
            raise InputError(f"{path}: has no column '{name}'; it has {', '.join(sorted(present)) or 'none'}")


def label_column(columns: Iterable[str]) -> str | None:
    """The attribute that holds class codes, by its name."""
    by_name = {name.lower(): name for name in columns}
    return next((by_name[name] for name in LABEL_NAMES if name in by_name), None)


def check_file(path: Path, kind: str) -> None:
    """Refuse what is no file.

    Raises:
        InputError: missing, a folder, or empty.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a {kind} file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty; copy it again")
