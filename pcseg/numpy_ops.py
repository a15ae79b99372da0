"""Searches, subsampling and text on NumPy arrays: kernels without torch, for workers that prepare data.

The compiled module is bound to one Python version and so may be missing where the rest of pcseg works; ``available()``
tells. What ``pcseg.ops`` has too gives bit for bit the same. Other threads of Python run during a call.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Coords = NDArray[np.floating]
MAX_DIM = 8


class VoxelGrid(NamedTuple):
    """As ``pcseg.ops.VoxelGrid``, in arrays."""

    voxel_of_point: Index  # (N,)
    order: Index  # (N,) sorts the points by voxel, stable
    point_offsets: Index  # (V + 1,) points of voxel v: order[point_offsets[v]:point_offsets[v + 1]]
    voxel_offsets: Index  # (B + 1,) voxels of cloud b: voxel_offsets[b] to voxel_offsets[b + 1]


def available() -> bool:
    """Whether this installation has the compiled module for this Python."""
    try:
        _kernels()
    except ImportError:
        return False
    return True


def knn(
    query: Coords,  # (M, D) float32 or float64, D in 1..8
    support: Coords,  # (N, D) dtype of query
    k: int,
    *,
    query_offsets: Index | None = None,  # (B + 1,) int64; None: one cloud
    support_offsets: Index | None = None,  # (B + 1,) int64; None: one cloud
    threads: int | None = None,  # None: one a processor
) -> tuple[Index, Coords]:  # (M, k) int64, (M, k)
    """``pcseg.ops.knn``: rows of ``support`` (N where there is none), and squared distances (infinity there).

    Raises:
        ValueError, TypeError: as ``pcseg.ops.knn``.
        ImportError: the compiled module is missing for this Python.
    """
    op = "knn"
    _check_count(op, "k", k)
    clouds = _clouds(op, query, support, query_offsets, support_offsets)
    query, support, query_offsets, support_offsets = clouds
    return _kernels().knn(query, support, k, query_offsets, support_offsets, _threads(op, threads))


def radius_search(
    query: Coords,  # (M, D) float32 or float64, D in 1..8
    support: Coords,  # (N, D) dtype of query
    radius: float,
    max_neighbors: int,
    *,
    query_offsets: Index | None = None,  # (B + 1,) int64; None: one cloud
    support_offsets: Index | None = None,  # (B + 1,) int64; None: one cloud
    threads: int | None = None,  # None: one a processor
) -> Index:  # (M, max_neighbors) int64
    """``pcseg.ops.radius_search``: the nearest rows of ``support`` within the radius, N in the places left over.

    Raises:
        ValueError, TypeError: as ``pcseg.ops.radius_search``.
        ImportError: the compiled module is missing for this Python.
    """
    op = "radius_search"
    _check_count(op, "max_neighbors", max_neighbors)
    if not radius > 0:
        raise ValueError(f"{op}: radius must be positive, got {radius}")
    query, support, *offsets = _clouds(op, query, support, query_offsets, support_offsets)
    return _kernels().radius_search(query, support, radius, max_neighbors, *offsets, _threads(op, threads))


def grid_subsample(
    coords: Coords,  # (N, D) float32 or float64, D in 1..8
    voxel_size: float,
    *,
    offsets: Index | None = None,  # (B + 1,) int64; None: one cloud
    threads: int | None = None,  # None: one a processor
) -> VoxelGrid:
    """``pcseg.ops.grid_subsample``: points grouped by cells ``floor(coords / voxel_size)``.

    Raises:
        ValueError, TypeError: as ``pcseg.ops.grid_subsample``.
        ImportError: the compiled module is missing for this Python.
    """
    op = "grid_subsample"
    coords = _coords(op, "coords", coords)
    if not (math.isfinite(voxel_size) and voxel_size > np.finfo(coords.dtype).tiny):
        raise ValueError(f"{op}: voxel_size must be positive and finite, got {voxel_size}")
    offsets = _offsets(op, "offsets", offsets, coords)
    return VoxelGrid(*_kernels().grid_subsample(coords, voxel_size, offsets, _threads(op, threads)))


def text_numbers(
    text: bytes,
    num_columns: int,
    *,
    delimiter: str = " ",
    threads: int | None = None,  # None: one a processor
) -> NDArray[np.float64] | None:  # (num_columns, N)
    """Lines of ``num_columns`` numbers as columns; None where a line is something else.

    Each number has the value of Python's ``float()``, bit for bit. A line ends with a newline, a carriage return before
    it or not; blanks and tabs around numbers do not count, and empty lines are left out.

    Args:
        delimiter: one character; a blank or a tab stands for any run of both.

    Raises:
        ValueError: a number of columns or threads below 1; a delimiter that is part of numbers or of line ends.
        ImportError: the compiled module is missing for this Python.
    """
    op = "text_numbers"
    _check_count(op, "num_columns", num_columns)
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum() or delimiter in "+-.\r\n\0":
        raise ValueError(f"{op}: delimiter must be one character that no number has, got {delimiter!r}")
    return _kernels().text_numbers(text, num_columns, delimiter, _threads(op, threads))


def _kernels() -> ModuleType:
    try:
        return importlib.import_module("pcseg._numpy")
    except ImportError as error:
        version = ".".join(map(str, sys.version_info[:2]))
        raise ImportError(
            f"pcseg._numpy is not built for Python {version}: run `pip install .` with this Python in a checkout of "
            "pcseg, or use pcseg.ops"
        ) from error


def _check_count(op: str, name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {count}")


def _threads(op: str, threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _check_count(op, "threads", threads)
    return threads


def _coords(op: str, name: str, coords: Coords) -> Coords:
    """Dense, of a dtype and shape that the kernels take."""
    if coords.ndim != 2 or not 1 <= coords.shape[1] <= MAX_DIM:
        raise ValueError(f"{op}: {name} must be (rows, D) with D in 1..{MAX_DIM}, got {coords.shape}")
    if coords.dtype == np.float16:
        raise TypeError(f"{op}: {name} is float16, too coarse for coordinates; cast to float32")
    if coords.dtype not in (np.float32, np.float64):
        raise TypeError(f"{op}: {name} must be float32 or float64, got {coords.dtype}")
    return np.ascontiguousarray(coords)


def _offsets(op: str, name: str, offsets: Index | None, coords: Coords) -> Index:
    if offsets is None:
        return np.array([0, len(coords)], np.int64)
    if offsets.ndim != 1 or len(offsets) < 1:
        raise ValueError(f"{op}: {name} must be (B + 1,), got {offsets.shape}")
    if offsets.dtype != np.int64:
        raise TypeError(f"{op}: {name} must be int64, got {offsets.dtype}")
    return np.ascontiguousarray(offsets)


def _clouds(
    op: str, query: Coords, support: Coords, query_offsets: Index | None, support_offsets: Index | None
) -> tuple[Coords, Coords, Index, Index]:
    same = query is support
    support = _coords(op, "support", support)
    query = support if same else _coords(op, "query", query)
    if query.shape[1] != support.shape[1]:
        raise ValueError(f"{op}: query and support must have one D, got {query.shape[1]} and {support.shape[1]}")
    if query.dtype != support.dtype:
        raise TypeError(f"{op}: query and support must have one dtype, got {query.dtype} and {support.dtype}")
    query_offsets = _offsets(op, "query_offsets", query_offsets, query)
    support_offsets = _offsets(op, "support_offsets", support_offsets, support)
    if len(query_offsets) != len(support_offsets):
        raise ValueError(
            f"{op}: query_offsets and support_offsets must have one length (B + 1), "
            f"got {len(query_offsets)} and {len(support_offsets)}"
        )
    return query, support, query_offsets, support_offsets
