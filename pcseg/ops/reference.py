"""The ops in plain PyTorch: any device, any float dtype, differentiable by autograd. Readable, not fast."""

from __future__ import annotations

import torch
from torch import Tensor


def kpconv(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
    feats: Tensor,  # (N, C)
    weights: Tensor,  # (K, C, O)
    kernel_points: Tensor,  # (K, D)
    sigma: float,
    *,
    kernel_offsets: Tensor | None = None,  # (M, K, D)
    modulations: Tensor | None = None,  # (M, K)
) -> Tensor:  # (M, O)
    """``pcseg.ops.kpconv``."""
    missing = neighbors == support.shape[0]
    relative = torch.cat([support, support.new_zeros(1, support.shape[1])])[neighbors] - query.unsqueeze(1)  # (M, H, D)
    points = kernel_points if kernel_offsets is None else (kernel_points + kernel_offsets).unsqueeze(1)
    distance = torch.linalg.vector_norm(relative.unsqueeze(2) - points, dim=-1)  # (M, H, K)
    influence = (1 - distance / sigma).clamp(min=0).masked_fill(missing.unsqueeze(-1), 0)
    gathered = torch.cat([feats, feats.new_zeros(1, feats.shape[1])])[neighbors]  # (M, H, C)
    weighted = torch.einsum("mhk,mhc->mkc", influence, gathered)
    if modulations is not None:
        weighted = weighted * modulations.unsqueeze(-1)
    return torch.einsum("mkc,kco->mo", weighted, weights)


def kpconv_fitting_distance(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
    kernel_points: Tensor,  # (K, D)
    sigma: float,
    kernel_offsets: Tensor,  # (M, K, D)
) -> Tensor:  # (M, K)
    """``pcseg.ops.kpconv_fitting_distance``."""
    missing = neighbors == support.shape[0]
    relative = torch.cat([support, support.new_zeros(1, support.shape[1])])[neighbors] - query.unsqueeze(1)  # (M, H, D)
    sq_dist = (relative.unsqueeze(2) - kernel_points - kernel_offsets.unsqueeze(1)).square().sum(-1)  # (M, H, K)
    nearest = sq_dist.masked_fill(missing.unsqueeze(-1), torch.inf).amin(1) / sigma**2
    return torch.where(missing.all(1, keepdim=True), 0, nearest)


def neighbor_max(
    values: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
) -> Tensor:  # (M, C)
    """``pcseg.ops.neighbor_max``."""
    if neighbors.shape[1] == 0:
        return values.new_zeros(neighbors.shape[0], values.shape[1]) + 0 * values.sum()
    missing = neighbors == values.shape[0]
    gathered = torch.cat([values, values.new_zeros(1, values.shape[1])])[neighbors]  # (M, H, C)
    # torch.max along an axis sends the gradient to one index, amax splits it among equals.
    largest = gathered.masked_fill(missing.unsqueeze(-1), -torch.inf).max(1).values
    return largest.masked_fill(missing.all(1, keepdim=True), 0)
