"""Grids to rows and back: images, volumes, and boxes cut from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcseg.batch import PointBatch


def image_batch(
    image: Tensor,  # (H, W, C) any real type
    labels: Tensor | None = None,  # (H, W) integer, class or IGNORE
    instances: Tensor | None = None,  # (H, W) integer, id or IGNORE
) -> PointBatch:
    """The cloud of an image: pixel (x, y) has the coordinates (x, y), and its channels as features, unscaled.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if image.ndim != 3:
        raise ValueError(f"image_batch: image must be (H, W, C), got {tuple(image.shape)}")
    height, width = image.shape[:2]
    return PointBatch(
        coords=_coords((height, width), (1.0, 1.0), image.device),
        feats=image.reshape(height * width, -1).float(),
        offsets=torch.tensor([0, height * width], device=image.device),
        labels=_flat("image_batch", "labels", labels, (height, width)),
        instances=_flat("image_batch", "instances", instances, (height, width)),
        rows=torch.arange(height * width, device=image.device),
        image_sizes=torch.tensor([[height, width]], device=image.device),
    )


def volume_batch(
    volume: Tensor,  # (D, H, W) or (D, H, W, C) any real type
    spacing: Sequence[float],  # (x, y, z) millimetres between voxels
    labels: Tensor | None = None,  # (D, H, W) integer, class or IGNORE
    instances: Tensor | None = None,  # (D, H, W) integer, id or IGNORE
) -> PointBatch:
    """The cloud of a volume: voxel (z, y, x) of the array has the coordinates (x, y, z) times ``spacing``.

    Raises:
        ValueError: shapes that do not fit together, or a spacing that is not positive.
    """
    if volume.ndim not in (3, 4):
        raise ValueError(f"volume_batch: volume must be (D, H, W) or (D, H, W, C), got {tuple(volume.shape)}")
    check_spacing("volume_batch", spacing)
    shape = tuple(volume.shape[:3])
    count = math.prod(shape)
    return PointBatch(
        coords=_coords(shape, spacing, volume.device),
        feats=volume.reshape(count, volume.shape[3] if volume.ndim == 4 else 1).float(),
        offsets=torch.tensor([0, count], device=volume.device),
        labels=_flat("volume_batch", "labels", labels, shape),
        instances=_flat("volume_batch", "instances", instances, shape),
        rows=torch.arange(count, device=volume.device),
    )


def to_planes(
    values: Tensor,  # (N,) or (N, K), rows of B images
    image_sizes: Tensor,  # (B, 2) int64 (height, width)
) -> list[Tensor]:  # B of (H, W) or (H, W, K), views of ``values``
    """Rows of a packed batch of whole images as images; the inverse of :func:`image_batch`.

    Raises:
        ValueError: another number of rows than the sizes have pixels.
    """
    return to_volumes(values, [tuple(size) for size in image_sizes.tolist()])


def to_volumes(
    values: Tensor,  # (N,) or (N, K), rows of B volumes
    shapes: Sequence[tuple[int, ...]],  # B of (D, H, W)
) -> list[Tensor]:  # B of (D, H, W) or (D, H, W, K), views of ``values``
    """Rows of a packed batch of whole volumes as volumes; the inverse of :func:`volume_batch`.

    Raises:
        ValueError: another number of rows than the shapes have voxels.
    """
    counts = [math.prod(shape) for shape in shapes]
    if sum(counts) != values.shape[0]:
        raise ValueError(f"the sizes {list(shapes)} have {sum(counts)} rows in all, got {values.shape[0]}")
    return [part.view(*shape, *values.shape[1:]) for part, shape in zip(values.split(counts), shapes, strict=True)]


def box_rows(
    shape: Sequence[int],  # (H, W) or (D, H, W)
    start: Sequence[int],  # first row, column, ... of the box
    size: Sequence[int],  # extent of the box
) -> Tensor:  # (n,) int64
    """Rows of a box of an image or a volume, in the box's own order.

    Raises:
        ValueError: a box that is not inside.
    """
    inside = all(min(low, extent) >= 0 and low + extent <= full for full, low, extent in zip(shape, start, size))
    if not len(shape) == len(start) == len(size) or not inside:
        raise ValueError(f"box_rows: a box of {tuple(size)} at {tuple(start)} does not lie inside {tuple(shape)}")
    rows = torch.zeros((), dtype=torch.int64)
    for full, low, extent in zip(shape, start, size, strict=True):
        rows = rows.unsqueeze(-1) * full + torch.arange(low, low + extent)
    return rows.reshape(-1)


def crop(
    batch: PointBatch,  # of one image
    start: tuple[int, int],  # (y, x) of the first pixel
    size: tuple[int, int],  # (height, width)
) -> PointBatch:
    """A window of an image, its coordinates counted from its own corner; ``rows`` still name the whole image's.

    Raises:
        ValueError: a batch of other than one image, or a window that is not inside.
    """
    if batch.image_sizes is None or len(batch) != 1:
        raise ValueError(f"crop: one image is needed, got a batch of {len(batch)} clouds")
    height, width = batch.image_sizes[0].tolist()
    if height * width != batch.num_rows:
        raise ValueError(f"crop: the image of {height} x {width} pixels has {batch.num_rows} rows")
    device = batch.coords.device
    rows = box_rows((height, width), start, size).to(device)
    return PointBatch(
        coords=_coords(size, (1.0, 1.0), device),
        feats=batch.feats[rows],
        offsets=torch.tensor([0, len(rows)], device=device),
        labels=None if batch.labels is None else batch.labels[rows],
        instances=None if batch.instances is None else batch.instances[rows],
        rows=None if batch.rows is None else batch.rows[rows],
        image_sizes=torch.tensor([list(size)], device=device),
    )


def check_spacing(op: str, spacing: Sequence[float]) -> None:
    """Three positive lengths."""
    if len(spacing) != 3 or not all(step > 0 and math.isfinite(step) for step in spacing):
        raise ValueError(f"{op}: spacing must be three positive lengths (x, y, z), got {tuple(spacing)}")


def _coords(
    shape: Sequence[int],  # slowest axis first
    spacing: Sequence[float],  # fastest axis first, as the coordinates
    device: torch.device,
) -> Tensor:  # (N, D) float32
    axes = [torch.arange(extent, device=device, dtype=torch.float32) for extent in shape]
    steps = [axis * step for axis, step in zip(axes, reversed(list(spacing)), strict=True)]
    return torch.stack(torch.meshgrid(*steps, indexing="ij")[::-1], dim=-1).view(-1, len(shape))


def _flat(op: str, name: str, values: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    if values is None:
        return None
    if tuple(values.shape) != shape:
        raise ValueError(f"{op}: {name} must be {shape}, got {tuple(values.shape)}")
    return values.reshape(-1).long()


def bounds(counts: Sequence[int]) -> list[tuple[int, int]]:
    """First row and end of each cloud."""
    return list(itertools.pairwise([0, *itertools.accumulate(counts)]))
