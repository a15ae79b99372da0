"""Named inputs of the neighbour searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pcseg.batch import offsets_of


class Search(NamedTuple):
    query: Tensor  # (M, D)
    support: Tensor  # (N, D)
    k: int
    query_offsets: Tensor  # (B + 1,)
    support_offsets: Tensor  # (B + 1,)


def uniform(n: int, dims: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(n, dims, generator=g, dtype=torch.float64) * 1.4 - 0.2).to(dtype)


def two(query: Tensor, support: Tensor, k: int) -> Search:
    return Search(query, support, k, offsets_of([len(query)]), offsets_of([len(support)]))


def self_search(coords: Tensor, k: int, lengths: list[int] | None = None) -> Search:
    offsets = offsets_of([len(coords)] if lengths is None else lengths)
    return Search(coords, coords, k, offsets, offsets)


def _with(coords: Tensor, rows: dict[int, list[float]]) -> Tensor:
    coords = coords.clone()
    for row, values in rows.items():
        coords[row] = torch.tensor(values)
    return coords


def _crowded() -> Tensor:
    """Points in a hundred places, and a line of points that differ in the last bit."""
    last_bits = torch.full((40, 3), 0.5)
    for i in range(1, 40):
        last_bits[i] = last_bits[i - 1].nextafter(torch.tensor(1.0))
    return torch.cat([uniform(100, 3).repeat(7, 1), last_bits])


def _around_a_sphere(k: int) -> Search:
    """Queries near the centre of a sphere of points: all leaves are about as far, more than a group's walk keeps."""
    points = uniform(6000, 3) - 0.5
    return two(uniform(40, 3, seed=1) * 1e-3, points / points.norm(dim=1, keepdim=True), k)


def _mixed_queries(k: int) -> Search:
    """Queries in a row along a line, then scattered ones, far ones, and copies of points."""
    points = torch.cat([uniform(1500, 3), uniform(1500, 3) * 0.01])
    line = torch.linspace(-0.2, 1.2, 400)[:, None] * torch.tensor([1.0, 0.7, 0.4])
    return two(torch.cat([line, uniform(200, 3, seed=1), uniform(60, 3, seed=2) * 1e4, points[::15]]), points, k)


NOT_FINITE = {3: [torch.nan] * 3, 5: [0, torch.inf, 0], 9: [-torch.inf, torch.nan, 0], 11: [1e30, 0, 0]}

SEARCH_CASES: dict[str, Callable[[], Search]] = {
    "3d": lambda: two(uniform(500, 3, seed=1), uniform(2000, 3), 16),
    "2d": lambda: two(uniform(500, 2, seed=1), uniform(2000, 2), 9),
    "3d_f64": lambda: two(uniform(300, 3, torch.float64, seed=1), uniform(900, 3, torch.float64), 7),
    "2d_f64": lambda: self_search(uniform(900, 2, torch.float64), 5),
    **{f"{d}d": lambda d=d: two(uniform(200, d, seed=1), uniform(600, d), 6) for d in (1, 4, 5, 6, 7, 8)},
    "self": lambda: self_search(uniform(2500, 3), 16),
    "self_in_clouds": lambda: self_search(uniform(2500, 3), 12, [900, 0, 1, 15, 17, 600, 967]),
    **{f"k_{k}": lambda k=k: self_search(uniform(1200, 3), k) for k in (1, 2, 3, 32, 64, 65, 200)},
    "k_1_query": lambda: two(uniform(700, 3, seed=1), uniform(900, 3), 1),
    **{f"k_{k}_sphere": lambda k=k: _around_a_sphere(k) for k in (1, 3, 16)},
    **{f"k_{k}_mixed_queries": lambda k=k: _mixed_queries(k) for k in (1, 2, 3, 16)},
    "k_3_clouds": lambda: Search(
        uniform(400, 3, seed=1), uniform(500, 3), 3, offsets_of([90, 0, 130, 9, 171]), offsets_of([100, 1, 2, 0, 397])
    ),
    "k_3_ties": lambda: two((uniform(500, 3, seed=1) * 6).round() / 6, (uniform(1500, 3) * 6).round() / 6, 3),
    "k_3_duplicates": lambda: self_search(uniform(1, 3).repeat(900, 1), 3),
    "k_2_crowded": lambda: self_search(_crowded(), 2),
    "k_2_f64": lambda: two(uniform(300, 3, torch.float64, seed=1), uniform(900, 3, torch.float64), 2),
    "k_3_small_clouds": lambda: self_search(uniform(3996, 3), 3, [n % 9 for n in range(1000)]),
    "k_beyond_all": lambda: two(uniform(50, 3, seed=1), uniform(40, 3), 60),
    "k_beyond_all_sorted": lambda: two(uniform(50, 3, seed=1), uniform(40, 3), 100),
    "empty_clouds": lambda: Search(
        uniform(300, 3), uniform(500, 3), 4, offsets_of([0, 100, 50, 150, 0]), offsets_of([90, 210, 0, 200, 0])
    ),
    "small_clouds": lambda: self_search(uniform(3996, 3), 5, [n % 9 for n in range(1000)]),
    "ties": lambda: self_search((uniform(1500, 3) * 6).round() / 6, 20),
    "pixels": lambda: self_search(torch.cartesian_prod(torch.arange(40.0), torch.arange(30.0)), 9),
    "duplicates": lambda: self_search(uniform(1, 3).repeat(900, 1), 33),
    "crowded": lambda: self_search(_crowded(), 10),
    "collinear": lambda: self_search(uniform(900, 3) * torch.tensor([1.0, 0.0, 0.0]) + 0.3, 8),
    "far_point": lambda: self_search(_with(uniform(3000, 3), {7: [1e7, -1e7, 1e7]}), 8),
    "far_origin": lambda: self_search(uniform(1500, 3) * 100 + 1e6, 8),
    "tiny": lambda: self_search(uniform(600, 3) * 1e-22, 8),
    "huge": lambda: self_search(uniform(600, 3) * 3e38, 8),
    "not_finite": lambda: self_search(_with(uniform(400, 3), NOT_FINITE), 8),
    "not_finite_query": lambda: two(_with(uniform(40, 3), NOT_FINITE), _with(uniform(300, 3), NOT_FINITE), 5),
    "nothing_finite": lambda: self_search(torch.full((40, 3), torch.nan), 3),
    "one_point": lambda: self_search(uniform(1, 3), 3),
    "no_support": lambda: two(uniform(20, 3), uniform(0, 3), 3),
    "no_query": lambda: two(uniform(0, 3), uniform(20, 3), 3),
    "no_cloud": lambda: self_search(uniform(0, 3), 3, []),
    "non_contiguous": lambda: two(uniform(100, 6, seed=1)[:, ::2], uniform(3, 400).T, 6),
    "uneven": lambda: self_search(torch.cat([uniform(1500, 3) * 1e-3, uniform(100, 3), uniform(300, 3) * 1e3]), 16),
    "threads": lambda: self_search(uniform(70_000, 3), 6, [40_000, 100, 29_900]),
}
