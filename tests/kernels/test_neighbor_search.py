"""knn and radius_search as a GPU runs them, bit for bit against brute force."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from ops.search_cases import SEARCH_CASES
from torch import Tensor

KERNELS = Path(__file__).parents[2] / "csrc" / "kernels"
# Of the CPU's cases those with few points.
SHARED = ("4d", "5d", "6d", "7d", "8d", "k_beyond_all", "not_finite_query", "nothing_finite", "tiny", "huge")


def brute_force(
    query: Tensor, support: Tensor, k: int, query_offsets: Tensor, support_offsets: Tensor, max_sq_dist: float
) -> tuple[Tensor, Tensor]:
    """The contract in plain torch: sums in the order of the axes, nearest first, ties to the lower row."""
    missing = support.shape[0]
    index = torch.full((query.shape[0], k), missing)
    nearest = torch.full((query.shape[0], k), torch.inf, dtype=query.dtype)
    bounds = zip(query_offsets[:-1], query_offsets[1:], support_offsets[:-1], support_offsets[1:])
    for q0, q1, s0, s1 in bounds:
        sq_dist = torch.zeros(int(q1 - q0), int(s1 - s0), dtype=query.dtype)
        for axis in range(query.shape[1]):
            sq_dist = sq_dist + (support[s0:s1, axis] - query[q0:q1, axis, None]) ** 2
        sq_dist = sq_dist.nan_to_num(torch.inf, posinf=torch.inf)
        sq_dist = sq_dist.where(sq_dist <= max_sq_dist, torch.inf)
        found, rows = sq_dist.sort(dim=1, stable=True)
        found, rows = found[:, :k], rows[:, :k] + s0
        index[q0:q1, : rows.shape[1]] = rows.where(found.isfinite(), missing)
        nearest[q0:q1, : rows.shape[1]] = found
    return index, nearest


def make(kind: str, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, int, list[int], list[int]]:
    g = torch.Generator().manual_seed(0)
    support = torch.rand(200, dim, generator=g, dtype=dtype)
    query = torch.rand(40, dim, generator=g, dtype=dtype) * 1.4 - 0.2
    k, query_offsets, support_offsets = 5, [0, 40], [0, 200]
    if kind == "self":
        query, k, query_offsets = support, 16, support_offsets
    elif kind == "self_in_clouds":
        query, k, query_offsets, support_offsets = support, 9, [0, 40, 40, 200], [0, 40, 40, 200]
    elif kind == "empty_clouds":
        query_offsets, support_offsets = [0, 0, 10, 40, 40], [0, 100, 100, 200, 200]
    elif kind == "nearest":
        k = 1
    elif kind == "two_a_lane":
        k = 40
    elif kind == "several_passes":
        query, query_offsets, k = query[:8], [0, 8], 130
    elif kind == "beyond_all":
        query, query_offsets, k = query[:4], [0, 4], 220
    elif kind == "ties":
        query, k, query_offsets = (support * 5).round() / 5, 33, support_offsets
        support = query
    elif kind == "duplicates":
        query, k, query_offsets = torch.zeros_like(support), 20, support_offsets
        support = query
    elif kind == "not_finite":
        support = support[:60].clone()
        support[5], support[6, 0], support[7], support[8] = torch.nan, torch.inf, -torch.inf, 1e30
        query, query_offsets, support_offsets = support, [0, 60], [0, 60]
    elif kind == "three_levels":
        support = torch.rand(32 * 32 * 32 + 40, dim, generator=g, dtype=dtype)
        support_offsets = [0, len(support)]
        query, query_offsets = query[:5], [0, 5]
    elif kind == "no_support":
        support, support_offsets = support[:0], [0, 0]
    elif kind == "no_query":
        query, query_offsets = query[:0], [0, 0]
    elif kind == "no_clouds":
        query, support, query_offsets, support_offsets = query[:0], support[:0], [0], [0]
    else:
        assert kind == "plain"
    return query, support, k, query_offsets, support_offsets


KINDS = (
    "plain", "self", "self_in_clouds", "empty_clouds", "nearest", "two_a_lane", "several_passes", "beyond_all", "ties",
    "duplicates", "not_finite", "three_levels", "no_support", "no_query", "no_clouds",
)  # fmt: skip


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_brute_force(cuda_ops, kind: str, dim: int) -> None:
    for dtype in (torch.float32, torch.float64):
        query, support, k, query_offsets, support_offsets = make(kind, dim, dtype)
        offsets = torch.tensor(query_offsets), torch.tensor(support_offsets)
        index, sq_dist = cuda_ops.knn(query, support, k, *offsets)
        expected_index, expected_sq_dist = brute_force(query, support, k, *offsets, torch.inf)
        assert torch.equal(sq_dist, expected_sq_dist) and torch.equal(index, expected_index)

        radius = torch.tensor(0.2, dtype=dtype)
        index = cuda_ops.radius_search(query, support, float(radius), k, *offsets)
        assert torch.equal(index, brute_force(query, support, k, *offsets, float(radius * radius))[0])


@pytest.mark.parametrize("case", SHARED)
def test_equals_cpu(cuda_ops, case: str) -> None:
    query, support, k, *offsets = SEARCH_CASES[case]()
    for found, expected in zip(
        cuda_ops.knn(query, support, k, *offsets), torch.ops.pcseg.knn(query, support, k, *offsets)
    ):
        assert torch.equal(found, expected)


def test_order_of_threads(cuda_ops, thread_order: str) -> None:
    query, support, k, query_offsets, support_offsets = make("self_in_clouds", 3, torch.float32)
    offsets = torch.tensor(query_offsets), torch.tensor(support_offsets)
    index, _ = cuda_ops.knn(query, support, k, *offsets)
    assert torch.equal(index, brute_force(query, support, k, *offsets, torch.inf)[0])


CURVE = """
#include <cstdio>
#include <vector>
#include "point_tree.h"
using namespace pcseg::cuda;
// Every rank once, and neighbours along the curve one step apart.
int main() {
  for (int dim = 1; dim <= 3; ++dim)
    for (int bits = 1; bits <= 4; ++bits) {
      const uint32_t size = 1u << bits;
      std::vector<int> cell_at(1u << (bits * dim), -1);
      for (uint32_t i = 0; i < cell_at.size(); ++i) {
        const uint32_t cell[3] = {i % size, i / size % size, i / size / size};
        const uint64_t rank = curve_rank(cell, dim, bits);
        if (rank >= cell_at.size() || cell_at[rank] >= 0) return 1;
        cell_at[rank] = static_cast<int>(i);
      }
      for (size_t r = 1; r < cell_at.size(); ++r) {
        int steps = 0, a = cell_at[r - 1], b = cell_at[r];
        for (int d = 0; d < dim; ++d, a /= size, b /= size) steps += std::abs(a % int(size) - b % int(size));
        if (steps != 1) return 2;
      }
    }
  // Two 10-bit fields beside each other, the cloud above them; far, infinite and NaN coordinates stay in the grid.
  const CurveFrame<float> frame{{0, 0, 0}, 1024, 10, 2};
  const float inside[2] = {0.3f, 0.6f}, odd[2] = {NAN, INFINITY}, low[2] = {-5, -1e30f};
  if (curve_key(inside, 3, frame) >> 20 != 3 || curve_key(odd, 3, frame) >> 20 != 3) return 3;
  if (curve_key(low, 0, frame) != 0) return 4;
  const TreeLevels levels = tree_levels(32 * 32 * 32 + 1);
  if (levels.num_levels != 3 || levels.count[0] != 1025 || levels.count[1] != 33 || levels.count[2] != 2) return 5;
  if (tree_levels(0x7fffffff - 40).num_levels > kMaxLevels || levels.num_nodes != 1060) return 6;
  return 0;
}
"""


def test_curve_and_levels(tmp_path: Path) -> None:
    source, program = tmp_path / "curve.cpp", tmp_path / "curve"
    source.write_text("#include <cmath>\n#include <cstdlib>\n" + CURVE)
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", f"-I{KERNELS}"]
    subprocess.run(["g++", *flags, source, "-o", program], check=True)
    assert subprocess.run([program]).returncode == 0
