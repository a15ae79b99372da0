"""Exact searches: the k nearest neighbours, and the nearest within a radius."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_offsets

MAX_DIM = {"cpu": 8, "cuda": 3}


class PointIndex(NamedTuple):
    """Points with the spatial index of the searches, to search in several times. Made by :func:`point_index`."""

    coords: Tensor  # (N, D)
    offsets: Tensor  # (B + 1,)
    memory: Tensor  # (bytes,) uint8, for this device's kernels only


def point_index(
    coords: Tensor,  # (N, D) float32 or float64, D in 1..8 (1..3 on a GPU)
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
) -> PointIndex:
    """Index points once, for several calls of :func:`knn` and :func:`radius_search` that take it as ``support``.

    About 25 bytes a point on a CPU and 35 on a GPU. The coordinates must not change while the index is in use.

    Raises:
        ValueError, TypeError: as :func:`knn`.
    """
    offsets, _ = _check("point_index", coords, coords, offsets, offsets)
    return PointIndex(coords, offsets, call(torch.ops.pcseg.point_index, coords.detach(), offsets))


def knn(
    query: Tensor,  # (M, D) float32 or float64, D in 1..8 (1..3 on a GPU)
    support: Tensor | PointIndex,  # (N, D) dtype of query
    k: int,
    *,
    query_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud, or support's where they are one tensor
    support_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud, or those of the index
) -> tuple[Tensor, Tensor]:  # (M, k) int64, (M, k)
    """The ``k`` nearest support points of each query, within the query's cloud.

    Exact and deterministic: nearest first, ties to the lower row of ``support``, the same bits for every number of
    threads and device. Squared distances are ``((dx * dx + dy * dy) + dz * dz)`` in the dtype of the coordinates; where
    one is not finite the two are not neighbours, so a point with a NaN or infinite coordinate is nobody's neighbour and
    has none. Passing one tensor as ``query`` and ``support`` is faster than passing two; a :class:`PointIndex` as
    ``support`` saves building it again, with the same result.

    Returns:
        index: (M, k) int64 rows of ``support``, N where there are fewer than ``k``.
        sq_dist: (M, k) squared distances in the unit of the coordinates, infinity where there is no neighbour. Neither
        result carries a gradient.

    Raises:
        ValueError, TypeError: shapes, dtypes (half precision: cast to float32 first), devices, ``k < 1``, on the CPU
            offsets that do not ascend from 0 to the number of rows (a GPU does not wait to look at them).
    """
    op = "knn"
    _check_count(op, "k", k)
    support, support_offsets, index = _open(op, support, support_offsets)
    offsets = _check(op, query, support, query_offsets, support_offsets)
    return call(torch.ops.pcseg.knn, query.detach(), support.detach(), k, *offsets, index)


def radius_search(
    query: Tensor,  # (M, D) float32 or float64, D in 1..8 (1..3 on a GPU)
    support: Tensor | PointIndex,  # (N, D) dtype of query
    radius: float,
    max_neighbors: int,
    *,
    query_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud, or support's where they are one tensor
    support_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud, or those of the index
) -> Tensor:  # (M, max_neighbors) int64
    """The nearest ``max_neighbors`` support points within ``radius`` of each query, within the query's cloud.

    As :func:`knn`, among the points with ``sq_dist <= radius * radius``, all in the dtype of the coordinates.

    Args:
        radius: positive, in the unit of the coordinates; infinity is allowed.

    Returns:
        (M, max_neighbors) int64 rows of ``support``, nearest first, N in the places left over.

    Raises:
        ValueError, TypeError: as :func:`knn`; a radius that is not positive.
    """
    op = "radius_search"
    _check_count(op, "max_neighbors", max_neighbors)
    if not radius > 0:
        raise ValueError(f"{op}: radius must be positive, got {radius}")
    support, support_offsets, index = _open(op, support, support_offsets)
    offsets = _check(op, query, support, query_offsets, support_offsets)
    inputs = query.detach(), support.detach(), float(radius), max_neighbors
    return call(torch.ops.pcseg.radius_search, *inputs, *offsets, index)


def _check_count(op: str, name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {count}")


def _open(op: str, support: Tensor | PointIndex, offsets: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Coordinates, offsets, and the index if there is one."""
    if isinstance(support, Tensor):
        return support, offsets, None
    if offsets is not None:
        raise ValueError(f"{op}: support_offsets must be None where support is a PointIndex, which has its own")
    return support


def _check(
    op: str, query: Tensor, support: Tensor, query_offsets: Tensor | None, support_offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Checks the clouds; returns their offsets."""
    for name, coords in (("query", query), ("support", support)):
        most = MAX_DIM.get(coords.device.type, 8)
        if coords.ndim != 2 or not 1 <= coords.shape[1] <= most:
            rows = "M" if name == "query" else "N"
            raise ValueError(
                f"{op}: {name} must be ({rows}, D) with D in 1..{most} on {coords.device.type}, "
                f"got {tuple(coords.shape)}"
            )
        if coords.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"{op}: {name} is {coords.dtype}, too coarse for coordinates; cast to float32 ({name}.float())"
            )
        if coords.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{op}: {name} must be float32 or float64, got {coords.dtype}")
    if query.shape[1] != support.shape[1]:
        raise ValueError(f"{op}: query and support must have one D, got {query.shape[1]} and {support.shape[1]}")
    if query.dtype != support.dtype:
        raise TypeError(f"{op}: query and support must have one dtype, got {query.dtype} and {support.dtype}")
    support_offsets = _one_cloud(support) if support_offsets is None else support_offsets
    if query_offsets is None:
        query_offsets = support_offsets if query is support else _one_cloud(query)
    check_offsets(op, "query_offsets", query_offsets)
    check_offsets(op, "support_offsets", support_offsets)
    if query_offsets.shape != support_offsets.shape:
        raise ValueError(
            f"{op}: query_offsets and support_offsets must have one length (B + 1), "
            f"got {query_offsets.shape[0]} and {support_offsets.shape[0]}"
        )
    check_device(op, query=query, support=support, query_offsets=query_offsets, support_offsets=support_offsets)
    return query_offsets, support_offsets


def _one_cloud(coords: Tensor) -> Tensor:  # (2,) int64
    return torch.tensor([0, coords.shape[0]], device=coords.device)


@torch.library.register_fake("pcseg::point_index")
def _(coords: Tensor, offsets: Tensor) -> Tensor:
    return coords.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)


@torch.library.register_fake("pcseg::knn")
def _(
    query: Tensor,
    support: Tensor,
    k: int,
    query_offsets: Tensor,
    support_offsets: Tensor,
    support_index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape[0], k, dtype=torch.int64), query.new_empty(query.shape[0], k)


@torch.library.register_fake("pcseg::radius_search")
def _(
    query: Tensor,
    support: Tensor,
    radius: float,
    max_neighbors: int,
    query_offsets: Tensor,
    support_offsets: Tensor,
    support_index: Tensor | None = None,
) -> Tensor:
    return query.new_empty(query.shape[0], max_neighbors, dtype=torch.int64)
