"""Exact searches: the k nearest neighbours, and the nearest within a radius."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_offsets

MAX_DIM = {"cpu": 8, "cuda": 3}


def knn(
    query: Tensor,  # (M, D) float32 or float64, D in 1..8 (1..3 on a GPU)
    support: Tensor,  # (N, D) dtype of query
    k: int,
    *,
    query_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
    support_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
) -> tuple[Tensor, Tensor]:  # (M, k) int64, (M, k)
    """The ``k`` nearest support points of each query, within the query's cloud.

    Exact and deterministic: nearest first, ties to the lower row of ``support``, the same bits for every number of
    threads and device. Squared distances are ``((dx * dx + dy * dy) + dz * dz)`` in the dtype of the coordinates; where
    one is not finite the two are not neighbours, so a point with a NaN or infinite coordinate is nobody's neighbour and
    has none. Passing one tensor as ``query`` and ``support`` is faster than passing two.

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
    offsets = _check(op, query, support, query_offsets, support_offsets)
    return call(torch.ops.pcseg.knn, query.detach(), support.detach(), k, *offsets)


def radius_search(
    query: Tensor,  # (M, D) float32 or float64, D in 1..8 (1..3 on a GPU)
    support: Tensor,  # (N, D) dtype of query
    radius: float,
    max_neighbors: int,
    *,
    query_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
    support_offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
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
    offsets = _check(op, query, support, query_offsets, support_offsets)
    return call(torch.ops.pcseg.radius_search, query.detach(), support.detach(), float(radius), max_neighbors, *offsets)


def _check_count(op: str, name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {count}")


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
    if query_offsets is None and support_offsets is None and query is support:
        query_offsets = support_offsets = _one_cloud(query)
    query_offsets = _one_cloud(query) if query_offsets is None else query_offsets
    support_offsets = _one_cloud(support) if support_offsets is None else support_offsets
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


@torch.library.register_fake("pcseg::knn")
def _(query: Tensor, support: Tensor, k: int, query_offsets: Tensor, support_offsets: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape[0], k, dtype=torch.int64), query.new_empty(query.shape[0], k)


@torch.library.register_fake("pcseg::radius_search")
def _(
    query: Tensor, support: Tensor, radius: float, max_neighbors: int, query_offsets: Tensor, support_offsets: Tensor
) -> Tensor:
    return query.new_empty(query.shape[0], max_neighbors, dtype=torch.int64)
