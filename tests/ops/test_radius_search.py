"""radius_search against brute force, scipy's k-d tree and the plain PyTorch twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ops.search_cases import SEARCH_CASES, Search, self_search, uniform
from ops.test_knn import SMALL, brute_force
from scipy.spatial import cKDTree
from torch import Tensor

from pcseg.ops import knn, radius_search, reference

SPREAD = {"far_origin": 30.0, "tiny": 3e-23, "huge": 5e18, "uneven": 1.0, "pixels": 2.0}


def radius_of(name: str) -> float:
    """Catches a few of a case's points."""
    return SPREAD.get(name, 0.2)


def run(case: Search, radius: float, device: torch.device | str = "cpu") -> Tensor:
    support, support_offsets = case.support.to(device), case.support_offsets.to(device)
    same = case.query is case.support
    query, query_offsets = (
        (support, support_offsets) if same else (case.query.to(device), case.query_offsets.to(device))
    )
    return radius_search(
        query, support, radius, case.k, query_offsets=query_offsets, support_offsets=support_offsets
    ).cpu()


def within(case: Search, radius: float) -> Tensor:
    index, sq_dist = brute_force(case)
    reach = case.query.new_tensor(radius)
    return index.where(sq_dist <= reach * reach, len(case.support))


@pytest.mark.parametrize("name", SMALL)
def test_matches_brute_force_and_reference(name: str, device: torch.device) -> None:
    case, radius = SEARCH_CASES[name](), radius_of(name)
    if device.type == "cuda" and case.query.shape[1] > 3:
        pytest.skip("a GPU searches in 1 to 3 dimensions")
    expected = within(case, radius)
    assert torch.equal(run(case, radius, device), expected)
    offsets = {"query_offsets": case.query_offsets, "support_offsets": case.support_offsets}
    assert torch.equal(reference.radius_search(case.query, case.support, radius, case.k, **offsets), expected)


@pytest.mark.parametrize("name", ["threads", *SMALL])
def test_every_instruction_set(name: str, isa: str) -> None:
    case, radius = SEARCH_CASES[name](), radius_of(name)
    found = run(case, radius)
    torch.ops.pcseg.limit_isa(2)
    assert torch.equal(found, run(case, radius))


def test_every_thread_count(threads: int) -> None:
    case = SEARCH_CASES["threads"]()
    found = run(case, 0.05)
    torch.set_num_threads(3)
    assert torch.equal(found, run(case, 0.05))


@pytest.mark.parametrize("radius", [0.01, 0.1, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("max_neighbors", [1, 34, 200])
def test_crowded_neighbourhoods(radius: float, max_neighbors: int) -> None:
    """From nearly empty lists to those that keep a small part of what the radius holds."""
    case = self_search(uniform(4000, 3), max_neighbors)._replace(query=uniform(60, 3, seed=2))
    case = case._replace(query_offsets=torch.tensor([0, 60]))
    assert torch.equal(run(case, radius), within(case, radius))
    whole = self_search(case.support, max_neighbors)
    rows = torch.arange(0, 4000, 97)
    some = whole._replace(query=case.support[rows], query_offsets=torch.tensor([0, len(rows)]))
    assert torch.equal(run(whole, radius)[rows], within(some, radius))


def test_complete_lists_match_scipy() -> None:
    coords = uniform(1500, 3, torch.float64)
    found = radius_search(coords, coords, 0.15, 300)
    for row, expected in zip(found.numpy(), cKDTree(coords.numpy()).query_ball_point(coords.numpy(), 0.15)):
        np.testing.assert_array_equal(np.sort(row[row < 1500]), np.sort(expected))


def test_points_on_the_sphere_count() -> None:
    support = torch.tensor([[3.0, 4.0], [5.0, 0.0], [5.0, 1e-6], [5.000001, 0.0]])
    assert radius_search(torch.zeros(1, 2), support, 5.0, 4).tolist() == [[0, 1, 2, 4]]


def test_radius_is_squared_in_the_dtype_of_the_coordinates() -> None:
    for dtype in (torch.float32, torch.float64):
        radius = torch.tensor(0.1, dtype=dtype)
        support = radius.view(1, 1).expand(1, 3) * torch.tensor([1, 0, 0], dtype=dtype)
        beyond = support.nextafter(torch.tensor(2.0, dtype=dtype)) * torch.tensor([1, 0, 0], dtype=dtype)
        found = radius_search(torch.zeros(1, 3, dtype=dtype), torch.cat([support, beyond]), 0.1, 2)
        assert found.tolist() == [[0, 2]]


def test_infinite_radius_is_knn() -> None:
    coords = uniform(500, 3)
    assert torch.equal(radius_search(coords, coords, torch.inf, 7), knn(coords, coords, 7)[0])


def test_prefix_of_a_longer_list() -> None:
    coords = uniform(3000, 3)
    longer = radius_search(coords, coords, 0.2, 90)
    for width in (1, 8, 64, 65):
        assert torch.equal(radius_search(coords, coords, 0.2, width), longer[:, :width])


@pytest.mark.parametrize("name", ["3d", "2d_f64", "empty_clouds", "no_support", "no_query", "no_cloud"])
def test_opcheck(name: str) -> None:
    query, support, k, *offsets = SEARCH_CASES[name]()
    torch.library.opcheck(torch.ops.pcseg.radius_search.default, (query, support, 0.2, k, *offsets))


def test_compiles() -> None:
    def search(coords: Tensor) -> Tensor:
        return radius_search(coords, coords, 0.3, 5)

    compiled = torch.compile(search, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (30, 50):
        assert torch.equal(compiled(uniform(n, 3)), search(uniform(n, 3)))


X = torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radius": 0.0}, ValueError, "radius_search: radius must be positive, got 0.0"),
        ({"radius": float("nan")}, ValueError, "radius must be positive, got nan"),
        ({"max_neighbors": 0}, ValueError, "max_neighbors must be at least 1, got 0"),
        ({"query": X.half()}, TypeError, "radius_search: query is torch.float16, too coarse"),
        ({"support": torch.zeros(2)}, ValueError, r"support must be \(N, D\)"),
        ({"support_offsets": torch.tensor([1, 5])}, ValueError, "radius_search: offsets must ascend from 0"),
    ],
)
def test_errors(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        radius_search(**{"query": X, "support": X, "radius": 1.0, "max_neighbors": 3} | change)
