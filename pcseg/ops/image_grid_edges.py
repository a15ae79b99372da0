"""Neighbour lists of an image's pixels with contrast weights."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class GridEdges(NamedTuple):
    neighbors: Tensor  # (H * W, connectivity) int64, H * W where there is no neighbour
    edge_weight: Tensor  # (H * W, connectivity), 0 where there is no neighbour


def image_grid_edges(
    image: Tensor,  # (H, W, C) float, or uint8
    connectivity: Literal[4, 8] = 8,
    sigma: float | Literal["adaptive"] = 9.0,
) -> GridEdges:
    """The pixels next to each pixel, and how much a difference of labels there should cost.

    A pair weighs ``exp(-|dI|^2 / (2 sigma^2)) / d`` with dI the difference of all channels and d the distance,
    1 or sqrt(2). The list names each pair from both ends, each with half the weight: the sum of
    ``potts_energy(log_probs, *edges, ...)`` counts each pair once. Pixel (row y, column x) is row y * W + x. Slots are
    ordered as ``knn`` orders pixels: by distance, then by row.

    Differentiable in a float ``image``.

    Args:
        sigma: in the unit of ``image``, > 0; ``"adaptive"``: the root of the mean of |dI|^2 over the image's pairs.

    Returns:
        neighbors (H * W, connectivity) int64; edge_weight of the same shape, dtype of ``image`` (float32 for integers).

    Raises:
        ValueError: a shape, connectivity or sigma that does not fit.

    Source: Marin et al., Robust Trust Region for Weakly Supervised Segmentation, ICCV 2021, code (GridCRFLoss: adaptive
    sigma, weights over distance); halved weights are ours.
    """
    op = "image_grid_edges"
    if image.ndim != 3:
        raise ValueError(f"{op}: image must be (H, W, C), got {tuple(image.shape)}")
    if connectivity not in (4, 8):
        raise ValueError(f"{op}: connectivity must be 4 or 8, got {connectivity}")
    if sigma != "adaptive" and (isinstance(sigma, str) or not sigma > 0):
        raise ValueError(f'{op}: sigma must be positive or "adaptive", got {sigma!r}')
    if not image.is_floating_point():
        image = image.float()
    height, width = image.shape[:2]
    planes = image.movedim(-1, 0).contiguous()  # (C, H, W): channels are few
    # One of each pair of directions, by (dy, dx), and the two slots that it fills: here and at the other end.
    steps = {(0, 1): (2, 1), (1, 0): (3, 0)}
    if connectivity == 8:
        steps |= {(1, 1): (7, 4), (1, -1): (6, 5)}
    contrasts = []
    for dy, dx in steps:
        here, there = _ends(planes, dy, dx)
        contrasts.append((there - here).square().sum(0))  # (H - dy, W - |dx|)
    if sigma == "adaptive":
        pairs = max(1, sum(contrast.numel() for contrast in contrasts))
        # Without any contrast every weight is 1 over the distance.
        variance = torch.stack([contrast.sum() for contrast in contrasts]).sum() / pairs
        variance = variance.clamp(min=torch.finfo(image.dtype).tiny)
    else:
        variance = sigma**2
    index = torch.arange(height * width, device=image.device).view(height, width)
    neighbors = index.new_full((height, width, connectivity), height * width)
    edge_weight = image.new_zeros(height, width, connectivity)
    for ((dy, dx), slots), contrast in zip(steps.items(), contrasts):
        weight = torch.exp(contrast / (-2 * variance)) * (0.5 / math.hypot(dy, dx))
        for end, other, slot in zip((0, 1), (1, 0), slots):
            _ends(neighbors[..., slot], dy, dx)[end].copy_(_ends(index, dy, dx)[other])
            _ends(edge_weight[..., slot], dy, dx)[end].copy_(weight)
    return GridEdges(neighbors.view(-1, connectivity), edge_weight.view(-1, connectivity))


def _ends(
    plane: Tensor,  # (..., H, W)
    dy: int,
    dx: int,
) -> tuple[Tensor, Tensor]:
    """Both ends of all steps (dy, dx) that stay in the image; dy >= 0, |dx| <= 1."""
    height, width = plane.shape[-2:]
    first, last = max(0, -dx), max(max(0, -dx), width - max(0, dx))
    upper = plane[..., : max(0, height - dy), first:last]
    lower = plane[..., dy:, first + dx : last + dx]
    return upper, lower
