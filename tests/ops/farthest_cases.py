"""Named inputs of farthest point sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from ops.search_cases import uniform
from torch import Tensor

from pcseg.batch import offsets_of


class Sampling(NamedTuple):
    coords: Tensor  # (N, D)
    num_samples: int | Tensor
    offsets: Tensor | None = None
    start: int | Tensor = 0


def _in_clouds(lengths: list[int], num_samples: int | Tensor, start: int | Tensor = 0, dims: int = 3) -> Sampling:
    return Sampling(uniform(sum(lengths), dims), num_samples, offsets_of(lengths), start)


def _with_far_point(coords: Tensor) -> Tensor:
    coords = coords.clone()
    coords[7] = torch.tensor([1e7, -1e7, 1e7][: coords.shape[1]])
    return coords


LENGTHS = [300, 0, 1, 15, 17, 200, 16, 0]

FARTHEST_CASES: dict[str, Callable[[], Sampling]] = {
    "3d": lambda: Sampling(uniform(2000, 3), 300),
    "2d": lambda: Sampling(uniform(2000, 2), 300, start=1234),
    "3d_f64": lambda: Sampling(uniform(900, 3, torch.float64), 200),
    "2d_f64": lambda: Sampling(uniform(900, 2, torch.float64), 200),
    **{f"{d}d": lambda d=d: Sampling(uniform(400, d), 60) for d in (1, 4, 5, 6, 7, 8)},
    "few": lambda: Sampling(uniform(2000, 3), 9, start=1999),
    "all": lambda: Sampling(uniform(300, 3), 300, start=11),
    "beyond_all": lambda: Sampling(uniform(300, 3), 400),
    "none": lambda: Sampling(uniform(300, 3), 0),
    "one": lambda: Sampling(uniform(300, 3), 1, start=5),
    "one_point": lambda: Sampling(uniform(1, 3), 3),
    "no_point": lambda: Sampling(uniform(0, 3), 3),
    "no_cloud": lambda: Sampling(uniform(0, 3), 3, torch.zeros(1, dtype=torch.int64)),
    "clouds": lambda: _in_clouds(LENGTHS, 50),
    "clouds_each": lambda: _in_clouds(
        LENGTHS, torch.tensor([40, 3, 1, 0, 99, 60, 2, 0]), torch.tensor([299, 7, 0, 90, 16, 3, 15, 0])
    ),
    "small_clouds": lambda: _in_clouds([n % 9 for n in range(300)], 4, dims=2),
    "large_clouds": lambda: _in_clouds([5000, 30, 4500], 40),
    "pixels": lambda: Sampling(torch.cartesian_prod(torch.arange(40.0), torch.arange(30.0)), 400),
    "ties": lambda: Sampling((uniform(1500, 3) * 6).round() / 6, 400, start=77),
    "duplicates": lambda: Sampling(uniform(1, 3).repeat(900, 1), 100, start=450),
    "crowded": lambda: Sampling(uniform(50, 3).repeat(20, 1), 120),
    "collinear": lambda: Sampling(uniform(900, 3) * torch.tensor([1.0, 0.0, 0.0]) + 0.3, 200),
    "coplanar": lambda: Sampling(uniform(900, 3) * torch.tensor([1.0, 1.0, 0.0]), 200),
    "far_point": lambda: Sampling(_with_far_point(uniform(3000, 3)), 200),
    "far_origin": lambda: Sampling(uniform(1500, 3) * 100 + 1e6, 400),
    "tiny": lambda: Sampling(uniform(600, 3) * 1e-22, 100),
    "huge": lambda: Sampling(uniform(600, 3) * 2e38, 100),
    "uneven": lambda: Sampling(torch.cat([uniform(1500, 3) * 1e-3, uniform(100, 3), uniform(300, 3) * 1e3]), 500),
    "non_contiguous": lambda: Sampling(uniform(900, 6)[:, ::2], 100),
    "transposed": lambda: Sampling(uniform(3, 900).T, 100),
}
