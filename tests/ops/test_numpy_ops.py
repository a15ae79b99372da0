"""The NumPy face: bit for bit what pcseg.ops finds, without torch."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from ops.grid_cases import GRID_CASES
from ops.search_cases import SEARCH_CASES

from pcseg import numpy_ops, ops

pytestmark = pytest.mark.skipif(not numpy_ops.available(), reason="needs pcseg._numpy built for this Python")
SEARCHES = ["3d", "2d_f64", "5d", "self_in_clouds", "not_finite", "no_query", "no_cloud", "non_contiguous", "k_200"]


@pytest.mark.parametrize("name", [*SEARCHES, "threads"])
@pytest.mark.parametrize("threads", [1, 3])
def test_searches_equal_ops(name: str, threads: int) -> None:
    query, support, k, query_offsets, support_offsets = SEARCH_CASES[name]()
    offsets = {"query_offsets": query_offsets, "support_offsets": support_offsets}
    arrays = {key: value.numpy() for key, value in offsets.items()} | {"threads": threads}
    to = support.numpy()
    of = to if query is support else query.numpy()
    for found, expected in zip(numpy_ops.knn(of, to, k, **arrays), ops.knn(query, support, k, **offsets)):
        assert torch.equal(torch.from_numpy(found), expected)
    found = numpy_ops.radius_search(of, to, 0.2, k, **arrays)
    assert torch.equal(torch.from_numpy(found), ops.radius_search(query, support, 0.2, k, **offsets))


@pytest.mark.parametrize("name", ["3d", "2d_f64", "8d", "no_point", "empty_clouds", "non_contiguous", "threads"])
@pytest.mark.parametrize("threads", [1, 3])
def test_grid_equals_ops(name: str, threads: int) -> None:
    coords, voxel_size, offsets = GRID_CASES[name]()
    found = numpy_ops.grid_subsample(coords.numpy(), voxel_size, offsets=offsets.numpy(), threads=threads)
    for a, b in zip(found, ops.grid_subsample(coords, voxel_size, offsets=offsets)):
        assert torch.equal(torch.from_numpy(a), b)


def test_calls_from_several_threads() -> None:
    coords = np.random.default_rng(0).random((3000, 3), np.float32)
    expected, found = numpy_ops.knn(coords, coords, 5, threads=1), {}

    def search(threads: int) -> None:
        found[threads] = numpy_ops.knn(coords, coords, 5, threads=threads)

    callers = [threading.Thread(target=search, args=(n,)) for n in (1, 2, 3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for index, sq_dist in found.values():
        np.testing.assert_array_equal(index, expected[0])
        np.testing.assert_array_equal(sq_dist, expected[1])
    assert len(found) == 3


def test_imports_no_torch() -> None:
    code = (
        "import sys, numpy as np, pcseg.numpy_ops as n; x = np.zeros((3, 3)); "
        "assert n.knn(x, x, 2)[0].tolist() == [[0, 1]] * 3; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_module_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pcseg._numpy", None)
    assert not numpy_ops.available()
    with pytest.raises(ImportError, match=r"^pcseg._numpy is not built for Python 3\.\d+: run `pip install \.`"):
        numpy_ops.knn(X, X, 1)


X = np.zeros((5, 3), np.float32)
OFFSETS = np.array([0, 5])
ERRORS = {
    "shape": (lambda: numpy_ops.knn(X[0], X, 1), ValueError, r"knn: query must be \(rows, D\) with D in 1..8"),
    "half": (lambda: numpy_ops.knn(X, X.astype(np.float16), 1), TypeError, "support is float16, too coarse"),
    "integers": (lambda: numpy_ops.knn(X.astype(int), X, 1), TypeError, "must be float32 or float64, got int64"),
    "dims": (lambda: numpy_ops.knn(X[:, :2], X, 1), ValueError, "one D, got 2 and 3"),
    "dtypes": (lambda: numpy_ops.knn(X.astype(float), X, 1), TypeError, "one dtype, got float64 and float32"),
    "k": (lambda: numpy_ops.knn(X, X, 0), ValueError, "knn: k must be at least 1, got 0"),
    "radius": (lambda: numpy_ops.radius_search(X, X, -1.0, 3), ValueError, "radius must be positive, got -1.0"),
    "threads": (lambda: numpy_ops.knn(X, X, 1, threads=0), ValueError, "threads must be at least 1, got 0"),
    "offsets_dtype": (
        lambda: numpy_ops.knn(X, X, 1, query_offsets=OFFSETS.astype(np.int32)), TypeError, "must be int64, got int32"
    ),
    "offsets_short": (
        lambda: numpy_ops.knn(X, X, 1, query_offsets=np.array([0, 4])), ValueError, "knn: offsets must ascend from 0"
    ),
    "offsets_lengths": (
        lambda: numpy_ops.knn(X, X, 1, query_offsets=np.array([0, 2, 5])), ValueError, r"one length \(B \+ 1\)"
    ),
    "voxel_size": (lambda: numpy_ops.grid_subsample(X, 0.0), ValueError, "voxel_size must be positive and finite"),
    "no_cell": (lambda: numpy_ops.grid_subsample(X + np.nan, 1.0), ValueError, "row 0 of coords is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
