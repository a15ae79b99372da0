"""Points in a NumPy file: a structured array, or a table whose number of columns says what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pcseg.errors import InputError
from pcseg.io.scan import ScanChunk, ScanHeader, check_columns, check_file, label_column
from pcseg.io.text_scan import BY_NUMBER

TABLES = BY_NUMBER | {7: ("x", "y", "z", "red", "green", "blue", "class")}
"""Names of the columns of a plain table; with seven it has the layout in which rooms are commonly kept."""


def read_header(path: Path) -> ScanHeader:
    """Check the array; see :func:`pcseg.io.scan.read_header`."""
    points, names = _open(path)
    columns = {name: _type(points, name) for name in names if name not in ("x", "y", "z")}
    return ScanHeader(
        path=path,
        format="npy",
        num_points=len(points),
        columns=columns,
        crs=None,
        label_column=label_column(columns),
    )


def read_chunks(path: Path, columns: Sequence[str] | None = None, *, chunk_size: int) -> Iterator[ScanChunk]:
    """Points in file order; see :func:`pcseg.io.scan.read_chunks`."""
    points, names = _open(path)
    attributes = [name for name in names if name not in ("x", "y", "z")]
    wanted = attributes if columns is None else list(columns)
    check_columns(path, wanted, attributes)
    for start in range(0, len(points), chunk_size):
        part = points[start : start + chunk_size]
        yield ScanChunk(
            start=start,
            coords=np.stack([_column(part, names, axis).astype(np.float64) for axis in "xyz"], axis=1),
            columns={name: np.ascontiguousarray(_column(part, names, name)) for name in wanted},
        )


def _open(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    check_file(path, ".npy")
    try:
        points = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: no whole array file ({error}); write it again") from error
    if points.dtype.names is not None and points.ndim == 1:
        names = points.dtype.names
        plain = all(points.dtype[name].base.kind in "iufb" for name in names)
    else:
        names = TABLES.get(points.shape[1] if points.ndim == 2 else 0, ())
        plain = points.dtype.kind in "iuf"
    if not {"x", "y", "z"} <= set(names) or not plain:
        raise InputError(
            f"{path}: is {points.dtype} {points.shape}; give a structured array with x, y and z, or a table of "
            f"{', '.join(map(str, TABLES))} columns"
        )
    if len(points) == 0:
        raise InputError(f"{path}: holds no points; nothing to do with this file")
    return points, names


def _type(points: np.ndarray, name: str) -> np.dtype:
    return points.dtype[name] if points.dtype.names is not None else points.dtype


def _column(points: np.ndarray, names: tuple[str, ...], name: str) -> np.ndarray:
    return points[name] if points.dtype.names is not None else points[:, names.index(name)]
