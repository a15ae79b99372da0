"""The packed cloud: one type for a scene, an image, a batch of either, and their subsampled forms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pcseg.ignore import IGNORE as IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class PointBatch:
    """B clouds of N rows in total, packed along one axis.

    A row is a point, a pixel or a voxel. Coordinates are metres for scans (D = 3), pixels (x, y) for images (D = 2),
    millimetres for medical volumes. Neighbour lists are no part of it: they are built on the packed batch.

    Raises:
        ValueError: shapes or dtypes that do not fit together.
    """

    coords: Tensor  # (N, D) float32
    feats: Tensor  # (N, C) float32
    offsets: Tensor  # (B + 1,) int64, offsets[0] == 0, offsets[-1] == N
    labels: Tensor | None = None  # (N,) int64 in [0, num_classes) or IGNORE
    instances: Tensor | None = None  # (N,) int64, unique within a cloud, or IGNORE
    rows: Tensor | None = None  # (N,) int64, row in the source scene or image: votes, masks, alignment of views
    image_sizes: Tensor | None = None  # (B, 2) int64 (height, width), where the clouds are images

    def __post_init__(self) -> None:
        rows = self.coords.shape[0]
        if self.coords.ndim != 2 or self.feats.ndim != 2 or self.feats.shape[0] != rows:
            raise ValueError(
                f"PointBatch: coords (N, D) and feats (N, C) expected, got {tuple(self.coords.shape)} "
                f"and {tuple(self.feats.shape)}"
            )
        if self.offsets.ndim != 1 or self.offsets.numel() < 1 or self.offsets.dtype != torch.int64:
            raise ValueError(f"PointBatch: offsets must be (B + 1,) int64, got {tuple(self.offsets.shape)}")
        for name in ("labels", "instances", "rows"):
            value = getattr(self, name)
            if value is not None and (value.shape != (rows,) or value.dtype != torch.int64):
                raise ValueError(f"PointBatch: {name} must be ({rows},) int64, got {tuple(value.shape)} {value.dtype}")

    def __len__(self) -> int:
        """Number of clouds."""
        return self.offsets.numel() - 1

    @property
    def num_rows(self) -> int:
        return self.coords.shape[0]

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, rows of each cloud."""
        return self.offsets.diff()

    @property
    def cloud_index(self) -> Tensor:
        """(N,) int64, cloud of each row."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PointBatch:
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return replace(self, **moved)


def offsets_of(lengths: Sequence[int] | Tensor) -> Tensor:  # (B,) -> (B + 1,) int64
    """Cloud boundaries from cloud sizes."""
    sizes = torch.as_tensor(lengths, dtype=torch.int64)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def cat(batches: Sequence[PointBatch]) -> PointBatch:
    """Pack several batches into one; the collate function of every data set.

    Raises:
        ValueError: no batch, different numbers of dimensions or features, or a field that only some batches have.
    """
    if not batches:
        raise ValueError("cat: at least one batch is needed")
    for name in ("coords", "feats"):
        widths = {getattr(b, name).shape[1] for b in batches}
        if len(widths) > 1:
            raise ValueError(f"cat: {name} have different widths {sorted(widths)}")
    joined: dict[str, Tensor | None] = {}
    for f in fields(PointBatch):
        if f.name == "offsets":
            continue
        values = [getattr(b, f.name) for b in batches]
        present = [v for v in values if v is not None]
        if present and len(present) < len(values):
            raise ValueError(f"cat: only {len(present)} of {len(values)} batches have {f.name}")
        joined[f.name] = torch.cat(present) if present else None
    lengths = torch.cat([b.lengths for b in batches])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return PointBatch(offsets=offsets, **joined)  # pyright: ignore[reportArgumentType]


def split(batch: PointBatch) -> list[PointBatch]:
    """The clouds of a batch, each a batch of one; the inverse of :func:`cat`."""
    clouds = []
    bounds = batch.offsets.tolist()
    for index, (start, end) in enumerate(itertools.pairwise(bounds)):
        parts = {
            f.name: value[start:end]
            for f in fields(batch)
            if f.name not in ("offsets", "image_sizes") and (value := getattr(batch, f.name)) is not None
        }
        sizes = None if batch.image_sizes is None else batch.image_sizes[index : index + 1]
        clouds.append(PointBatch(offsets=batch.offsets.new_tensor([0, end - start]), image_sizes=sizes, **parts))
    return clouds
