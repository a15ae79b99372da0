"""knn against brute force, scipy's k-d tree and the plain PyTorch twin: everything must be equal, ties included."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.search_cases import SEARCH_CASES, Search, self_search, uniform
from scipy.spatial import cKDTree
from torch import Tensor

from pcseg.batch import offsets_of
from pcseg.ops import knn, point_index, radius_search, reference

SMALL = [name for name in SEARCH_CASES if name != "threads"]


def run(case: Search, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    support, support_offsets = case.support.to(device), case.support_offsets.to(device)
    same = case.query is case.support
    query, query_offsets = (
        (support, support_offsets) if same else (case.query.to(device), case.query_offsets.to(device))
    )
    index, sq_dist = knn(query, support, case.k, query_offsets=query_offsets, support_offsets=support_offsets)
    return index.cpu(), sq_dist.cpu()


def brute_force(case: Search) -> tuple[Tensor, Tensor]:
    """All pairs in NumPy, row by row."""
    query, support = case.query.numpy(), case.support.numpy()
    index = np.full((len(query), case.k), len(support))
    sq_dist = np.full((len(query), case.k), np.inf, query.dtype)
    for b in range(len(case.query_offsets) - 1):
        first, end = case.support_offsets[b : b + 2].tolist()
        for m in range(*case.query_offsets[b : b + 2].tolist()):
            with np.errstate(all="ignore"):
                difference = support[first:end] - query[m]
                pairs = np.zeros(end - first, query.dtype)
                for d in range(query.shape[1]):
                    pairs = pairs + difference[:, d] * difference[:, d]
            order = np.argsort(np.where(pairs < np.inf, pairs, np.inf), kind="stable")[: case.k]
            order = order[pairs[order] < np.inf]
            index[m, : len(order)] = order + first
            sq_dist[m, : len(order)] = pairs[order]
    return torch.from_numpy(index), torch.from_numpy(sq_dist)


def assert_equal(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("name", SMALL)
def test_matches_brute_force_and_reference(name: str, device: torch.device) -> None:
    case = SEARCH_CASES[name]()
    if device.type == "cuda" and case.query.shape[1] > 3:
        pytest.skip("a GPU searches in 1 to 3 dimensions")
    expected = brute_force(case)
    assert_equal(run(case, device), expected)
    offsets = {"query_offsets": case.query_offsets, "support_offsets": case.support_offsets}
    assert_equal(reference.knn(case.query, case.support, case.k, **offsets), expected)


@pytest.mark.parametrize("name", ["threads", *SMALL])
def test_every_instruction_set(name: str, isa: str) -> None:
    case = SEARCH_CASES[name]()
    found = run(case)
    torch.ops.pcseg.limit_isa(2)
    assert_equal(found, run(case))


@pytest.mark.parametrize(
    "name", ["threads", "self_in_clouds", "small_clouds", "crowded", "k_1_mixed_queries", "k_3_clouds"]
)
def test_every_thread_count(name: str, threads: int) -> None:
    case = SEARCH_CASES[name]()
    found = run(case)
    torch.set_num_threads(3)
    assert_equal(found, run(case))


@pytest.mark.parametrize("name", ["3d", "2d", "3d_f64", "5d", "self", "threads", "uneven"])
def test_distances_match_scipy(name: str) -> None:
    case = SEARCH_CASES[name]()
    _, sq_dist = run(case)
    for b in range(len(case.query_offsets) - 1):
        rows, columns = slice(*case.query_offsets[b : b + 2].tolist()), slice(*case.support_offsets[b : b + 2].tolist())
        expected, _ = cKDTree(case.support[columns].double().numpy()).query(case.query[rows].double().numpy(), case.k)
        torch.testing.assert_close(sq_dist[rows].double().sqrt(), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 90),
    m=st.integers(0, 40),
    dims=st.integers(1, 4),
    k=st.sampled_from([1, 2, 5, 17, 70]),
    steps=st.sampled_from([1, 3, 40, 10**6]),
    log_scale=st.integers(-30, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_cloud(n: int, m: int, dims: int, k: int, steps: int, log_scale: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, steps, (n + m, dims), generator=g) * 10.0**log_scale
    cuts = torch.randint(0, n + 1, (2,), generator=g).sort().values.tolist()
    query_cuts = torch.randint(0, m + 1, (2,), generator=g).sort().values.tolist()
    offsets, query_offsets = torch.tensor([0, *cuts, n]), torch.tensor([0, *query_cuts, m])
    case = Search(rows[n:].contiguous(), rows[:n].contiguous(), k, query_offsets, offsets)
    assert_equal(run(case), brute_force(case))
    case = Search(case.support, case.support, k, offsets, offsets)
    assert_equal(run(case), brute_force(case))


def test_order_of_rows_decides_nothing_but_ties() -> None:
    coords, order = uniform(3000, 3), torch.randperm(3000, generator=torch.Generator().manual_seed(5))
    index, sq_dist = knn(coords, coords, 9)
    shuffled, shuffled_sq_dist = knn(coords[order], coords[order], 9)
    assert torch.equal(shuffled_sq_dist, sq_dist[order])
    assert torch.equal(order[shuffled], index[order])


def test_moving_by_powers_of_two_changes_nothing() -> None:
    coords = (uniform(3000, 3) * 1024).round() / 1024
    assert_equal(knn(coords + 4, coords + 4, 9), knn(coords, coords, 9))


def test_plane_equals_space_with_z_0() -> None:
    plane = uniform(2000, 2)
    assert_equal(
        knn(torch.cat([plane, torch.zeros(2000, 1)], 1), torch.nn.functional.pad(plane, (0, 1)), 9),
        knn(plane, plane, 9),
    )


def test_batched_equals_looped() -> None:
    case = SEARCH_CASES["self_in_clouds"]()
    index, sq_dist = run(case)
    for begin, end in zip(case.query_offsets.tolist(), case.query_offsets[1:].tolist()):
        alone, alone_sq_dist = knn(case.query[begin:end], case.query[begin:end], case.k)
        assert torch.equal(sq_dist[begin:end], alone_sq_dist)
        assert torch.equal(index[begin:end], torch.where(alone == end - begin, len(case.support), alone + begin))


def test_two_tensors_equal_one() -> None:
    case = SEARCH_CASES["self_in_clouds"]()
    assert_equal(run(case._replace(query=case.support.clone())), run(case))


def test_70000_small_clouds() -> None:
    lengths = torch.randint(0, 9, (70_000,), generator=torch.Generator().manual_seed(3))
    coords = uniform(int(lengths.sum()), 3) * 500
    case = Search(coords, coords, 4, offsets_of(lengths), offsets_of(lengths))
    begin = time.perf_counter()
    index, sq_dist = run(case)
    assert time.perf_counter() - begin < 5
    cloud = torch.arange(70_000).repeat_interleave(lengths)
    found = index < len(coords)
    assert torch.equal(found.sum(1), lengths[cloud].clamp(max=4))
    neighbor_cloud = torch.cat([cloud, torch.tensor([-1])])[index]
    assert (neighbor_cloud == cloud[:, None])[found].all()
    assert torch.equal(index[:, 0], torch.arange(len(coords))) and (sq_dist[:, 0] == 0).all()


def test_100000_points_in_one_place() -> None:
    coords = torch.full((100_000, 3), 0.25)
    begin = time.perf_counter()
    index, sq_dist = knn(coords, coords, 16)
    assert time.perf_counter() - begin < 10
    assert (sq_dist == 0).all() and torch.equal(index, torch.arange(16).expand(100_000, 16))


def test_far_point_does_not_coarsen_the_index() -> None:
    coords = uniform(100_000, 3)
    coords[50_000] = torch.tensor([1e7, 0.0, 0.0])
    begin = time.perf_counter()
    _, sq_dist = knn(coords, coords, 8)
    assert time.perf_counter() - begin < 5
    near = torch.arange(100_000) != 50_000
    expected, _ = cKDTree(coords[near].double().numpy()).query(coords[near][:500].double().numpy(), 8)
    torch.testing.assert_close(sq_dist[:500].double().sqrt(), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["3d", "2d_f64", "empty_clouds", "no_support", "no_query", "no_cloud", "k_beyond_all"])
def test_opcheck(name: str) -> None:
    case = SEARCH_CASES[name]()
    torch.library.opcheck(torch.ops.pcseg.knn.default, tuple(case))


def test_compiles() -> None:
    compiled = torch.compile(lambda q, s: knn(q + 1, s, 4), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (30, 50):
        query, support = uniform(n, 3), uniform(2 * n, 3, seed=1)
        assert_equal(compiled(query, support), knn(query + 1, support, 4))


def test_no_gradient() -> None:
    coords = uniform(30, 3).requires_grad_()
    index, sq_dist = knn(coords, coords, 4)
    assert not index.requires_grad and not sq_dist.requires_grad


X = torch.zeros(5, 3)
ERRORS = {
    "no_matrix": (
        {"query": torch.zeros(3)},
        ValueError,
        r"knn: query must be \(M, D\) with D in 1..8 on cpu, got \(3,\)",
    ),
    "too_many_dims": ({"support": torch.zeros(3, 9)}, ValueError, r"support must be \(N, D\) with D in 1..8"),
    "no_dims": ({"query": torch.zeros(3, 0)}, ValueError, r"query must be \(M, D\)"),
    "dims_differ": ({"query": torch.zeros(5, 2)}, ValueError, "query and support must have one D, got 2 and 3"),
    "half": ({"query": X.half()}, TypeError, r"query is torch.float16, too coarse for coordinates; cast to float32"),
    "bfloat16": ({"support": X.bfloat16()}, TypeError, r"cast to float32 \(support.float\(\)\)"),
    "integers": ({"query": X.long()}, TypeError, "query must be float32 or float64, got torch.int64"),
    "dtypes_differ": ({"query": X.double()}, TypeError, "one dtype, got torch.float64 and torch.float32"),
    "k_0": ({"k": 0}, ValueError, "knn: k must be at least 1, got 0"),
    "offsets_float": ({"query_offsets": torch.zeros(2)}, TypeError, "query_offsets must be int64"),
    "offsets_lengths": ({"query_offsets": torch.tensor([0, 2, 5])}, ValueError, "one length .* got 3 and 2"),
    "offsets_short": (
        {"support_offsets": torch.tensor([0, 4])},
        ValueError,
        "offsets must ascend from 0 to the number of rows",
    ),
    "offsets_descend": (
        {"query_offsets": torch.tensor([0, 6, 5]), "support_offsets": torch.tensor([0, 5, 5])},
        ValueError,
        "knn: offsets must ascend",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    change, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        knn(**{"query": X, "support": X, "k": 2} | change)


def test_self_search_keeps_no_reference_to_order() -> None:
    """A search in the same tensor with other offsets is not a self search."""
    coords = uniform(60, 3)
    case = Search(coords, coords, 3, offsets_of([20, 40]), offsets_of([50, 10]))
    assert_equal(run(case._replace(query=coords.clone())), brute_force(case))
    found = knn(coords, coords, 3, query_offsets=case.query_offsets, support_offsets=case.support_offsets)
    assert_equal(found, brute_force(case))
    assert_equal(run(self_search(coords, 3)), brute_force(self_search(coords, 3)))


@pytest.mark.parametrize("name", SMALL)
def test_an_index_changes_nothing(name: str, device: torch.device) -> None:
    case = SEARCH_CASES[name]()
    if device.type == "cuda" and case.query.shape[1] > 3:
        pytest.skip("at most 3 dimensions on a GPU")
    support = case.support.to(device)
    index = point_index(support, offsets=case.support_offsets.to(device))
    assert index.memory.dtype == torch.uint8 and index.memory.device == support.device
    query = support if case.query is case.support else case.query.to(device)
    for _ in range(2):  # the same index twice
        found = knn(query, index, case.k, query_offsets=case.query_offsets.to(device))
        assert_equal((found[0].cpu(), found[1].cpu()), run(case, device))
    finite = run(case, device)[1]
    radius = float(finite[finite.isfinite()].quantile(0.5).sqrt().clamp(1e-3, 1e3)) if finite.isfinite().any() else 1.0
    offsets = {"query_offsets": case.query_offsets.to(device)}
    within = radius_search(query, index, radius, case.k, **offsets)
    assert torch.equal(within, radius_search(query, support, radius, case.k, support_offsets=index.offsets, **offsets))


def test_an_index_brings_its_own_offsets_and_belongs_to_its_points() -> None:
    coords = torch.rand(30, 3)
    index = point_index(coords, offsets=torch.tensor([0, 10, 30]))
    assert_equal(knn(coords, index, 4), knn(coords, coords, 4, support_offsets=index.offsets))
    with pytest.raises(ValueError, match="support_offsets must be None where support is a PointIndex"):
        knn(coords, index, 4, support_offsets=index.offsets)
    with pytest.raises(ValueError, match="the index belongs to other points"):
        knn(coords, index._replace(coords=torch.rand(90, 3), offsets=torch.tensor([0, 90])), 4)
    with pytest.raises(ValueError, match=r"query must be \(M, D\)"):
        knn(torch.rand(3), index, 4)


def test_an_index_is_made_and_used_under_compile() -> None:
    def both(query: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        return knn(query, point_index(support), 3)

    query, support = torch.rand(20, 3), torch.rand(50, 3)
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    assert_equal(compiled(query, support), both(query, support))
    # Not the tests that compare outputs: what lies between the parts of an index is arbitrary.
    utils = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.pcseg.point_index, (support, torch.tensor([0, 50])), test_utils=utils)
