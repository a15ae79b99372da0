"""The nearest rows of each row, itself left out."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops.neighbor_search import knn


def nearest_others(
    points: Tensor,  # (N, D) float32 or float64
    k: int,
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
) -> tuple[Tensor, Tensor]:  # (N, k) int64, (N, k)
    """The ``k`` nearest other rows of each row's cloud, nearest first, and their squared distances.

    As :func:`pcseg.ops.knn` of the points in themselves, with each row's own entry taken out, also where the row equals
    others and does not stand first. Where a cloud has fewer others the index is N and the distance inf.

    Raises:
        ValueError, TypeError: as ``knn``; k < 1.
    """
    if k < 1:
        raise ValueError(f"nearest_others: k must be at least 1, got {k}")
    found, sq_dist = knn(points, points, k + 1, query_offsets=offsets, support_offsets=offsets)
    own = found == torch.arange(len(found), device=found.device).unsqueeze(1)
    # A row with more than k twins may not be in its own list: then the last entry goes.
    place = torch.where(own.any(1), own.to(torch.uint8).argmax(1), k).unsqueeze(1)
    slots = torch.arange(k, device=found.device)
    kept = slots + (slots >= place).long()
    return found.gather(1, kept), sq_dist.gather(1, kept)
