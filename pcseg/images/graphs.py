"""Neighbour lists with contrast weights of packed batches of images and volumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pcseg import ops
from pcseg.images.grid import bounds, check_spacing, to_planes, to_volumes
from pcseg.ops import GridEdges

_REACH = {6: 1, 18: 2, 26: 3}  # axes along which a step of a connectivity may go at once


def image_edges(
    colors: Tensor,  # (N, C) float, or uint8, rows of B whole images
    image_sizes: Tensor,  # (B, 2) int64 (height, width)
    connectivity: Literal[4, 8] = 8,
    sigma: float | Literal["adaptive"] = 9.0,
) -> GridEdges:
    """:func:`pcseg.ops.image_grid_edges` of every image of a batch; ``"adaptive"`` looks at each image by itself.

    Differentiable in float ``colors``.

    Args:
        sigma: in the unit of ``colors``, > 0; the default is meant for 0 to 255.

    Returns:
        neighbors (N, connectivity) int64 rows of the batch, N where there is none; edge_weight of that shape.

    Raises:
        ValueError: shapes, connectivity or sigma that do not fit.
    """
    parts = [ops.image_grid_edges(image, connectivity, sigma) for image in to_planes(colors, image_sizes)]
    return _packed(parts, colors.shape[0], connectivity, colors)


def volume_edges(
    signal: Tensor,  # (N, C) float, or uint8, rows of B whole volumes
    shapes: Sequence[tuple[int, ...]],  # B of (D, H, W)
    spacings: Sequence[Sequence[float]],  # B of (x, y, z), millimetres
    connectivity: Literal[6, 18, 26] = 6,
    sigma: float | Literal["adaptive"] = "adaptive",
) -> GridEdges:
    """The voxels next to each voxel: those that share a face (6), an edge too (18), or a corner too (26).

    Weights are those of :func:`image_edges`, with distances in units of the volume's smallest spacing: where voxels are
    cubes a face weighs 1 / 2, an edge 1 / (2 sqrt(2)), before contrast; thick slices are tied less. Slots are ordered
    by distance, then by row. Differentiable in float ``signal``.

    Args:
        sigma: in the unit of ``signal``, > 0; ``"adaptive"``: the root of the mean of |dI|^2 over the volume's pairs.

    Returns:
        neighbors (N, connectivity) int64 rows of the batch, N where there is none; edge_weight of that shape.

    Raises:
        ValueError: shapes, spacings, connectivity or sigma that do not fit.
    """
    if connectivity not in _REACH:
        raise ValueError(f"volume_edges: connectivity must be 6, 18 or 26, got {connectivity}")
    if sigma != "adaptive" and (isinstance(sigma, str) or not sigma > 0):
        raise ValueError(f'volume_edges: sigma must be positive or "adaptive", got {sigma!r}')
    if len(spacings) != len(shapes):
        raise ValueError(f"volume_edges: {len(shapes)} volumes need as many spacings, got {len(spacings)}")
    parts = []
    for volume, spacing in zip(to_volumes(signal, shapes), spacings, strict=True):
        check_spacing("volume_edges", spacing)
        if volume.ndim != 4:
            raise ValueError(f"volume_edges: signal must be (N, C), got {tuple(signal.shape)}")
        volume = volume if volume.is_floating_point() else volume.float()
        parts.append(_volume_grid_edges(volume, spacing, connectivity, sigma))
    return _packed(parts, signal.shape[0], connectivity, signal)


def color_edges(
    coords: Tensor,  # (N, D) float32
    colors: Tensor,  # (N, C) dtype of coords
    k: int,
    *,
    color_scale: float,
    offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
) -> GridEdges:
    """The ``k`` rows nearest in place and colour together, at the distances of (coords, colors * color_scale).

    A pair weighs ``exp(-|dI|^2 color_scale^2 / 2)``: 1 over ``color_scale`` is both the difference of colour that is as
    far as one pixel and the bandwidth of the contrast. Each row lists its own neighbours, so a pair that is close for
    both ends is listed twice; every entry has half the weight. No row lists itself.

    On a GPU the search takes D + C up to 3: build the lists of colour images on the CPU, or of one channel.
    The lists carry no gradient; the weights do, in ``colors``.

    Returns:
        neighbors (N, k) int64, N where a cloud has fewer others; edge_weight of that shape.

    Raises:
        ValueError, TypeError: as :func:`pcseg.ops.knn`; a ``color_scale`` that is not positive.
    """
    if not color_scale > 0:
        raise ValueError(f"color_edges: color_scale must be positive, got {color_scale}")
    if k < 1:
        raise ValueError(f"color_edges: k must be at least 1, got {k}")
    scaled = colors * color_scale
    joined = torch.cat([coords, scaled], 1)
    neighbors, _ = ops.nearest_others(joined, k, offsets=offsets)
    there = ops.gather_neighbors(scaled, neighbors)  # (N, k, C)
    contrast = (there - scaled.unsqueeze(1)).square().sum(-1)
    edge_weight = torch.exp(contrast * -0.5) * 0.5 * (neighbors < len(scaled))
    return GridEdges(neighbors, edge_weight)


def _packed(parts: list[GridEdges], num_rows: int, connectivity: int, like: Tensor) -> GridEdges:
    """Lists of several clouds as lists of their batch; the index for "none" becomes the batch's."""
    if len(parts) == 1:
        return parts[0]
    ranges = bounds([len(part.neighbors) for part in parts])
    neighbors = torch.full((num_rows, connectivity), num_rows, device=like.device)
    for part, (start, end) in zip(parts, ranges, strict=True):
        moved = torch.add(part.neighbors, start, out=neighbors[start:end])
        moved.masked_fill_(moved == end, num_rows)
    dtype = like.dtype if like.is_floating_point() else torch.float32
    weights = [part.edge_weight for part in parts] or [torch.zeros(0, connectivity, dtype=dtype, device=like.device)]
    return GridEdges(neighbors, torch.cat(weights))


def _volume_grid_edges(
    volume: Tensor,  # (D, H, W, C) float
    spacing: Sequence[float],  # (x, y, z)
    connectivity: int,
    sigma: float | Literal["adaptive"],
) -> GridEdges:
    shape = tuple(volume.shape[:3])
    planes = volume.movedim(-1, 0).contiguous()
    units = [step / min(spacing) for step in reversed(list(spacing))]  # along z, y, x
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, s)) <= _REACH[connectivity]]
    lengths = {s: math.sqrt(sum((d * u) ** 2 for d, u in zip(s, units, strict=True))) for s in steps}
    slots = {s: slot for slot, s in enumerate(sorted(steps, key=lambda s: (round(lengths[s], 9), s)))}
    forward = [s for s in steps if s > (0, 0, 0)]  # one of each pair of directions
    contrasts = []
    for step in forward:
        here, there = _ends(planes, step)
        contrasts.append((there - here).square().sum(0))
    if sigma == "adaptive":
        pairs = max(1, sum(contrast.numel() for contrast in contrasts))
        total = torch.stack([contrast.sum() for contrast in contrasts]).sum()
        # Without any contrast every weight is 1 over the distance.
        variance = (total / pairs).clamp(min=torch.finfo(volume.dtype).tiny)
    else:
        variance = sigma**2
    index = torch.arange(math.prod(shape), device=volume.device).view(shape)
    neighbors = index.new_full((*shape, connectivity), index.numel())
    edge_weight = volume.new_zeros(*shape, connectivity)
    for step, contrast in zip(forward, contrasts, strict=True):
        weight = torch.exp(contrast / (-2 * variance)) * (0.5 / lengths[step])
        back = (-step[0], -step[1], -step[2])
        for end, slot in ((0, slots[step]), (1, slots[back])):
            _ends(neighbors[..., slot], step)[end].copy_(_ends(index, step)[1 - end])
            _ends(edge_weight[..., slot], step)[end].copy_(weight)
    return GridEdges(neighbors.view(-1, connectivity), edge_weight.view(-1, connectivity))


def _ends(
    plane: Tensor,  # (..., D, H, W)
    step: tuple[int, ...],  # (z, y, x), each -1, 0 or 1
) -> tuple[Tensor, Tensor]:
    """Both ends of all steps that stay in the volume."""
    here = there = plane
    for axis, move in zip((-3, -2, -1), step, strict=True):
        length = max(0, plane.shape[axis] - abs(move))
        here = here.narrow(axis, min(max(0, -move), plane.shape[axis]), length)
        there = there.narrow(axis, min(max(0, move), plane.shape[axis]), length)
    return here, there
