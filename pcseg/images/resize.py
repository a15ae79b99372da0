"""Images of another size: features are averaged or interpolated, labels scattered to cells and never sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcseg import ops
from pcseg.batch import PointBatch, cat, offsets_of, split
from pcseg.images.grid import image_batch, to_planes


def resize_labels(
    labels: Tensor,  # (H, W) int64 >= IGNORE, or (D, H, W)
    size: Sequence[int],  # (h, w), or (d, h, w)
) -> Tensor:  # (h, w) int64
    """Labels, or instance ids, on a coarser or finer grid.

    Along an axis that shrinks each pixel goes to the cell its centre lies in, and a cell gets the majority of its
    labelled pixels: IGNORE does not vote, ties fall to the lower class, and a cell with one labelled pixel has that
    pixel's label, however many others are IGNORE. Along an axis that grows each cell takes the pixel it lies in.

    Raises:
        ValueError: a size that is not positive, an image without pixels, a label below IGNORE.
    """
    _check("resize_labels", labels.shape, size)
    labels = labels.long()
    for axis, (before, after) in enumerate(zip(labels.shape, size, strict=True)):
        if after > before:
            labels = labels.index_select(axis, cell_of(after, before, labels.device))
    if tuple(labels.shape) == tuple(size):
        return labels
    cells = [cell_of(before, after, labels.device) for before, after in zip(labels.shape, size, strict=True)]
    coords = torch.stack(torch.meshgrid(*cells, indexing="ij"), -1).view(-1, len(cells)).float()
    grid = ops.grid_subsample(coords, 1.0)  # no cell is empty, so these are all cells in C order
    majority = ops.voxel_features(grid, coords, labels=labels.reshape(-1)).labels
    assert majority is not None
    return majority.view(*size)


def resize_features(
    image: Tensor,  # (H, W, C) float, or (D, H, W, C)
    size: Sequence[int],  # (h, w), or (d, h, w)
) -> Tensor:  # (h, w, C), dtype of image
    """Features, or probabilities, on a coarser or finer grid: along each axis the mean over the area of a cell where it
    shrinks (pixels that a cell's border cuts count by their share), linear between pixel centres where it grows.

    Differentiable in ``image``. Sums run in double precision, so the memory is about three times that of ``image``.

    Raises:
        ValueError: a size that is not positive, an image without pixels, an image that is not floating point.
    """
    _check("resize_features", image.shape[:-1], size)
    if not image.is_floating_point():
        raise ValueError(f"resize_features: image must be floating point, got {image.dtype}; use image.float()")
    for axis, (before, after) in enumerate(zip(image.shape[:-1], size, strict=True)):
        if after < before:
            image = _area_mean(image, axis, after)
        elif after > before:
            image = _interpolated(image, axis, after)
    return image


def resize(
    batch: PointBatch,  # of B images
    sizes: Sequence[tuple[int, int]],  # B of (height, width)
) -> PointBatch:
    """Images on other grids, by :func:`resize_features` and :func:`resize_labels`.

    ``rows`` is None where a size changes, since a cell is no single pixel of the source.

    Raises:
        ValueError: a batch that is not of images, or another number of sizes.
    """
    if batch.image_sizes is None or len(sizes) != len(batch):
        raise ValueError(f"resize: needs images and as many sizes, got {len(batch)} clouds and {len(sizes)} sizes")
    if not len(batch):
        return batch
    clouds, changed = [], False
    for cloud, size in zip(split(batch), sizes, strict=True):
        assert cloud.image_sizes is not None
        changed = changed or cloud.image_sizes[0].tolist() != list(size)
        planes = {}
        for name in ("labels", "instances"):
            values = getattr(cloud, name)
            planes[name] = None if values is None else resize_labels(to_planes(values, cloud.image_sizes)[0], size)
        clouds.append(image_batch(resize_features(to_planes(cloud.feats, cloud.image_sizes)[0], size), **planes))
    if not changed:
        return batch
    whole = cat(clouds)
    return PointBatch(
        coords=whole.coords,
        feats=whole.feats,
        offsets=offsets_of([math.prod(size) for size in sizes]).to(whole.coords.device),
        labels=whole.labels,
        instances=whole.instances,
        image_sizes=whole.image_sizes,
    )


def cell_of(before: int, after: int, device: torch.device | None = None) -> Tensor:  # (before,) int64 in [0, after)
    """The cell, of ``after`` along an axis, in which the centre of each of ``before`` pixels lies; in integers."""
    return torch.div((2 * torch.arange(before, device=device) + 1) * after, 2 * before, rounding_mode="floor")


def _area_mean(image: Tensor, axis: int, after: int) -> Tensor:
    """Differences of the integral along the axis, which is linear within a pixel."""
    before = image.shape[axis]
    total = image.double().cumsum(axis)
    total = torch.cat([torch.zeros_like(total.narrow(axis, 0, 1)), total], axis)  # at the borders 0, 1, ... before
    border = torch.arange(after + 1, device=image.device) * before  # times ``after``
    whole = torch.div(border, after, rounding_mode="floor")
    share = _along(axis, image.ndim, (border - whole * after).double() / after)
    following = total.index_select(axis, (whole + 1).clamp(max=before))
    at_border = torch.lerp(total.index_select(axis, whole), following, share)
    return (at_border.diff(dim=axis) * (after / before)).to(image.dtype)


def _interpolated(image: Tensor, axis: int, after: int) -> Tensor:
    before = image.shape[axis]
    place = (torch.arange(after, device=image.device, dtype=torch.float64) + 0.5) * (before / after) - 0.5
    place = place.clamp(0, before - 1)
    low = place.floor().long()
    share = _along(axis, image.ndim, place - low).to(image.dtype)
    high = (low + 1).clamp(max=before - 1)
    return torch.lerp(image.index_select(axis, low), image.index_select(axis, high), share)


def _along(axis: int, ndim: int, values: Tensor) -> Tensor:
    return values.view([-1 if dim == axis else 1 for dim in range(ndim)])


def _check(op: str, shape: Sequence[int], size: Sequence[int]) -> None:
    if len(size) != len(shape) or min(size) < 1:
        raise ValueError(f"{op}: size must be {len(shape)} positive numbers, got {tuple(size)}")
    if min(shape) < 1:
        raise ValueError(f"{op}: the image has no pixels: {tuple(shape)}")
