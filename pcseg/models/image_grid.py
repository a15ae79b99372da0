"""Between packed pixels and planes: what a network of convolutions or patches needs to read an image."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.batch import PointBatch
from pcseg.models.heads import FeatureMaps, MaskMaps, SegOutput


class Planes(NamedTuple):
    """Images of one size."""

    values: Tensor  # (b, C, H, W)
    images: tuple[int, ...]  # their numbers in the batch, ascending

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.values.shape[2], self.values.shape[3]


def to_planes(batch: PointBatch) -> list[Planes]:
    """The features of a batch of images, one tensor for each size that occurs: nothing is padded.

    Pixel (x, y) of an image is its row y * W + x. Images without pixels are in no group. Where all have one size, the
    planes are a view of ``batch.feats``: their channels lie next to each other in memory.

    Raises:
        ValueError: no ``image_sizes``, or sizes that do not fit the numbers of rows.
    """
    sizes = batch.image_sizes
    if sizes is None:
        raise ValueError("to_planes: the batch has no image_sizes; a network on pixels needs whole images")
    if sizes.shape != (len(batch), 2):
        raise ValueError(f"to_planes: image_sizes must be ({len(batch)}, 2), got {tuple(sizes.shape)}")
    bounds = list(itertools.pairwise(batch.offsets.tolist()))
    by_size: dict[tuple[int, int], list[int]] = {}
    for image, ((start, end), (height, width)) in enumerate(zip(bounds, sizes.tolist(), strict=True)):
        if height < 0 or width < 0 or height * width != end - start:
            raise ValueError(
                f"to_planes: image {image} is {height} x {width} by image_sizes, {height * width} pixels, "
                f"but has {end - start} rows"
            )
        if end > start:
            by_size.setdefault((height, width), []).append(image)
    groups = []
    for (height, width), images in by_size.items():
        rows = batch.feats
        if len(by_size) > 1:
            rows = torch.cat([rows[slice(*bounds[image])] for image in images])
        values = rows.reshape(len(images), height, width, -1).permute(0, 3, 1, 2)
        groups.append(Planes(values, tuple(images)))
    return groups


def from_planes(
    groups: Sequence[Planes | FeatureMaps | MaskMaps],
    values: Sequence[Tensor],  # (b, K, H, W) each
) -> Tensor:  # (N, K)
    """Rows of the batch from one tensor for each group of :func:`to_planes`, of its images and size.

    Raises:
        ValueError: no group, or tensors that do not fit the groups.
    """
    if not groups or len(groups) != len(values):
        raise ValueError(f"from_planes: one tensor for each of {len(groups)} groups expected, got {len(values)}")
    rows: dict[int, Tensor] = {}
    for group, planes in zip(groups, values, strict=True):
        if planes.ndim != 4 or planes.shape[0] != len(group.images) or tuple(planes.shape[2:]) != group.size:
            expected = (len(group.images), "K", *group.size)
            raise ValueError(f"from_planes: planes must be {expected}, got {tuple(planes.shape)}")
        flat = planes.permute(0, 2, 3, 1)
        if len(groups) == 1:
            return flat.reshape(-1, planes.shape[1])
        rows.update(zip(group.images, flat.flatten(1, 2), strict=True))
    return torch.cat([rows[image] for image in sorted(rows)])


def enlarge(
    planes: Tensor,  # (b, C, h, w)
    factor: int,
    size: tuple[int, int],
) -> Tensor:  # (b, C, *size)
    """Bilinear interpolation to ``factor`` times the height and width, then cut to ``size`` at the lower right.

    Sample i stands in the middle of pixels factor i to factor i + factor - 1 whatever the size of the image, so that
    the place of a feature does not depend on what lies at the other end.
    """
    if factor > 1:
        planes = F.interpolate(planes, scale_factor=factor, mode="bilinear", align_corners=False)
    return planes[:, :, : size[0], : size[1]]


def segment_images(
    batch: PointBatch,
    encode: Callable[[Tensor], tuple[Tensor, ...]],
    decode: Callable[[tuple[Tensor, ...]], Tensor],
    classify: Callable[[Tensor], Tensor],
    *,
    in_channels: int,
    width: int,
    stride: int,
) -> SegOutput:
    """Run a network of planes on a batch of images, size by size.

    Args:
        encode: (b, C, H, W) -> maps of the encoder's stages, which stay in the output.
        decode: those maps -> (b, F, at least H / stride, at least W / stride).
        classify: (b, F, h, w) -> (b, K, h, w), acts on each place alone: its logits are brought to the pixels, which
            for a linear layer is the same as to bring it the features and costs K / F of that.
        in_channels: C.
        width: F.
        stride: pixels for each sample of a feature map, along each axis.

    Raises:
        ValueError: another number of features, and see :func:`to_planes`.
    """
    if batch.feats.shape[1] != in_channels:
        raise ValueError(f"segment_images: feats must be (N, {in_channels}), got {tuple(batch.feats.shape)}")
    groups = to_planes(batch)
    if not groups:
        nothing = batch.feats.new_zeros(1, width, 1, 1)
        return SegOutput(classify(nothing).flatten(1)[:0], nothing.flatten(1)[:0])
    stages = [encode(group.values) for group in groups]
    maps = [decode(found) for found in stages]

    def rows(values: Sequence[Tensor]) -> Tensor:
        return from_planes(groups, [enlarge(v, stride, g.size) for v, g in zip(values, groups, strict=True)])

    kept = tuple(FeatureMaps(group.images, group.size, found) for group, found in zip(groups, stages, strict=True))
    return SegOutput(rows([classify(planes) for planes in maps]), lambda: rows(maps), kept)
