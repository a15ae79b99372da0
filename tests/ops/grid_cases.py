"""Named inputs of the ops on voxels and segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pcseg.batch import offsets_of


class Cloud(NamedTuple):
    coords: Tensor  # (N, D)
    voxel_size: float
    offsets: Tensor  # (B + 1,)


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(n: int, dims: int, size: float = 4.0, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return ((torch.rand(n, dims, generator=_rng(seed), dtype=torch.float64) - 0.3) * size).to(dtype)


def _one(coords: Tensor, voxel_size: float) -> Cloud:
    return Cloud(coords, voxel_size, offsets_of([coords.shape[0]]))


def _small_clouds() -> Cloud:
    lengths = torch.randint(0, 6, (3000,), generator=_rng())
    return Cloud(uniform(int(lengths.sum()), 3), 0.5, offsets_of(lengths))


def _far_point(scale: float) -> Cloud:
    coords = uniform(3000, 3)
    coords[17] = torch.tensor([scale, -scale, scale])
    return _one(coords, 0.25)


def _boundaries() -> Cloud:
    """Multiples of the voxel size and their float32 neighbours, negative ones and -0.0 too."""
    steps = torch.arange(-40, 41, dtype=torch.float32) * 0.1
    line = torch.cat([steps, steps.nextafter(torch.tensor(1e9)), steps.nextafter(torch.tensor(-1e9))])
    line = torch.cat([line, torch.tensor([-0.0, 0.0])])
    return _one(torch.stack([line, line.flip(0)], 1), 0.1)


def _wide(dims: int) -> Cloud:
    """Keys of more than 63 bits, few distinct cells."""
    corners = torch.randint(0, 2, (400, dims), generator=_rng()) * 2.0 - 1
    return Cloud(corners * 2.0**30 + torch.rand(400, dims, generator=_rng(1)), 1.0, offsets_of([150, 0, 250]))


GRID_CASES: dict[str, Callable[[], Cloud]] = {
    "3d": lambda: Cloud(uniform(4000, 3), 0.3, offsets_of([1500, 2500])),
    "2d": lambda: Cloud(uniform(3000, 2), 0.1, offsets_of([1000, 0, 2000])),
    "3d_f64": lambda: _one(uniform(3000, 3, dtype=torch.float64), 0.3),
    "2d_f64": lambda: _one(uniform(3000, 2, dtype=torch.float64), 0.1),
    **{f"{d}d": lambda d=d: _one(uniform(1000, d, size=2.0), 0.5) for d in (1, 4, 5, 6, 7, 8)},
    "one_voxel": lambda: _one(uniform(2000, 3).abs(), 100.0),
    "every_point_alone": lambda: _one(uniform(2000, 3), 1e-4),
    "duplicates": lambda: _one(uniform(50, 3).repeat(9, 1), 0.01),
    "one_point": lambda: _one(uniform(1, 3), 0.3),
    "no_point": lambda: _one(uniform(0, 3), 0.3),
    "no_cloud": lambda: Cloud(uniform(0, 3), 0.3, offsets_of([])),
    "empty_clouds": lambda: Cloud(uniform(700, 3), 0.3, offsets_of([0, 300, 0, 0, 400, 0])),
    "small_clouds": _small_clouds,
    "far_point": lambda: _far_point(1e4),
    "very_far_point": lambda: _far_point(5e8),
    "wide_3d": lambda: _wide(3),
    "wide_8d": lambda: _wide(8),
    "boundaries": _boundaries,
    "non_contiguous": lambda: Cloud(uniform(900, 6)[:, ::2], 0.3, offsets_of([400, 500])),
    "threads": lambda: Cloud(uniform(60000, 3), 0.2, offsets_of([20001, 39999])),
}


class Segments(NamedTuple):
    values: Tensor  # (N, C)
    offsets: Tensor  # (S + 1,)


def _segments(
    lengths: list[int] | Tensor, channels: int, dtype: torch.dtype = torch.float32, before: int = 0
) -> Segments:
    offsets = offsets_of(lengths) + before
    values = torch.randn(int(offsets[-1]) + before, channels, generator=_rng(), dtype=torch.float64).to(dtype)
    return Segments(values, offsets)


SEGMENT_CASES: dict[str, Callable[[], Segments]] = {
    "small": lambda: _segments([3, 1, 4, 1, 5], 3),
    "f64": lambda: _segments([3, 1, 4, 1, 5], 5, torch.float64),
    "empty_segments": lambda: _segments([0, 3, 0, 0, 2, 0], 4),
    "rows_outside": lambda: _segments([2, 0, 3], 2, before=4),
    "only_rows_outside": lambda: Segments(torch.randn(6, 2, generator=_rng()), torch.tensor([3, 3])),
    "no_segment": lambda: Segments(torch.randn(6, 2, generator=_rng()), torch.tensor([2])),
    "no_row": lambda: _segments([0, 0], 3),
    "no_channel": lambda: _segments([3, 2], 0),
    "one_channel": lambda: _segments([9, 1, 70], 1),
    "wide": lambda: _segments([5, 0, 8, 2], 130),
    "non_contiguous": lambda: Segments(torch.randn(12, 8, generator=_rng())[:, ::2], torch.tensor([0, 5, 12])),
    "many": lambda: _segments(torch.randint(0, 9, (3000,), generator=_rng()), 7),
    "long": lambda: _segments([5, 30000, 0, 9000, 4096, 4097], 3),
}
