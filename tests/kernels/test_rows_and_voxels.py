"""Segments, neighbour rows, voxels and local shapes as a GPU runs them, against the CPU's ops: the same bits."""

from __future__ import annotations

import pytest
import torch
from ops.grid_cases import GRID_CASES, SEGMENT_CASES, uniform
from torch import Tensor

from pcseg.batch import IGNORE, offsets_of
from pcseg.ops import height_above_minimum

cpu = torch.ops.pcseg
SLOW = {"threads", "long", "small_clouds"}  # many blocks: one of them is enough, see test_order_of_threads


def same(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("reduce", [0, 1, 2])
@pytest.mark.parametrize("case", sorted(SEGMENT_CASES))
def test_segment_reduce(cuda_ops, case: str, reduce: int) -> None:
    values, offsets = SEGMENT_CASES[case]()
    if case == "small":
        values[3, 1], values[5:7, 2] = torch.nan, torch.nan
    out, arg = cpu.segment_reduce(values, offsets, reduce)
    same(cuda_ops.segment_reduce(values, offsets, reduce), (out, arg))
    grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    arguments = grad, offsets, arg, values.shape[0], reduce
    same([cuda_ops.segment_reduce_backward(*arguments)], [cpu.segment_reduce_backward(*arguments)])


def neighbor_lists(m: int, n: int, h: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    neighbors = torch.randint(0, n + 1, (m, h), generator=g)
    neighbors[::7] = n
    return neighbors


LISTS = {  # M, N, H, C
    "usual": (40, 60, 7, 5), "wide": (20, 30, 4, 130), "one_channel": (40, 60, 7, 1), "few_rows": (200, 3, 5, 4),
    "no_list": (0, 6, 3, 2), "no_slot": (6, 5, 0, 2), "no_row": (6, 0, 3, 2), "no_channel": (6, 5, 3, 0),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", LISTS)
def test_neighbor_rows(cuda_ops, case: str, dtype: torch.dtype) -> None:
    m, n, h, c = LISTS[case]
    neighbors = neighbor_lists(m, n, h)
    values = torch.randn(n, c, generator=torch.Generator().manual_seed(1), dtype=dtype)
    values[:1] = torch.nan
    out = cpu.gather_neighbors(values, neighbors, 2.5)
    same([cuda_ops.gather_neighbors(values, neighbors, 2.5)], [out])
    grad = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    same(
        [cuda_ops.gather_neighbors_backward(grad, neighbors, n)],
        [cpu.gather_neighbors_backward(grad, neighbors, n)],
    )
    values[1:] = (values[1:] * 2).round()  # equal maxima
    out, arg = cpu.neighbor_max(values, neighbors)
    same(cuda_ops.neighbor_max(values, neighbors), (out, arg))
    grad = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    same([cuda_ops.neighbor_max_backward(grad, arg, n)], [cpu.neighbor_max_backward(grad, arg, n)])


@pytest.mark.parametrize("case", sorted(set(GRID_CASES) - SLOW))
def test_voxels(cuda_ops, case: str) -> None:
    coords, voxel_size, offsets = GRID_CASES[case]()
    grid = cpu.grid_subsample(coords, voxel_size, offsets)
    same(cuda_ops.grid_subsample(coords, voxel_size, offsets), grid)
    g = torch.Generator().manual_seed(1)
    feats = torch.randn(len(coords), 2, generator=g, dtype=coords.dtype)
    labels = torch.randint(IGNORE, 3, (len(coords),), generator=g)
    labels[labels == 2] = 2**62
    arguments = coords, feats, labels, *grid[:3]
    same(cuda_ops.voxel_features(*arguments), cpu.voxel_features(*arguments))


def test_voxel_features_without_options_and_with_mixed_types(cuda_ops) -> None:
    coords, voxel_size, offsets = GRID_CASES["2d"]()
    grid = cpu.grid_subsample(coords, voxel_size, offsets)
    arguments = coords, None, None, *grid[:3]
    same(cuda_ops.voxel_features(*arguments), cpu.voxel_features(*arguments))
    arguments = coords, coords.double(), None, *grid[:3]
    same(cuda_ops.voxel_features(*arguments), cpu.voxel_features(*arguments))
    arguments = coords.double(), coords, None, *grid[:3]
    same(cuda_ops.voxel_features(*arguments), cpu.voxel_features(*arguments))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_grid_subsample_names_the_bad_row(cuda_ops, value: float) -> None:
    coords = uniform(500, 3)
    coords[[123, 300], [2, 0]] = value
    with pytest.raises(RuntimeError, match="row 123 of coords is not finite, or its cell"):
        cuda_ops.grid_subsample(coords, 0.1, torch.tensor([0, 500]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3])
def test_local_geometry(cuda_ops, dim: int, dtype: torch.dtype) -> None:
    coords, neighbors = uniform(60, dim, dtype=dtype) + 50, neighbor_lists(80, 60, 9)
    coords[10:20] = coords[10]
    neighbors[1], neighbors[2], neighbors[3, 1:] = torch.arange(10, 19), 60, 60
    found, expected = cuda_ops.local_geometry(coords, neighbors), cpu.local_geometry(coords, neighbors)
    for a, b in zip(found, expected, strict=True):  # the libraries' logarithm and cube root may differ by a bit
        torch.testing.assert_close(a, b, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=1e-14)


@pytest.mark.parametrize("case", ["3d", "3d_f64", "duplicates", "one_point", "no_point", "empty_clouds", "boundaries"])
def test_height_above_minimum(cuda_ops, case: str) -> None:
    coords, voxel_size, offsets = GRID_CASES[case]()
    coords = torch.cat([coords, coords[:, :1]], 1)[:, :3].contiguous()
    grid = cpu.grid_subsample(coords[:, :2].contiguous(), voxel_size, offsets)
    found = cuda_ops.height_above_minimum(coords, voxel_size, *grid)
    same([found], [cpu.height_above_minimum(coords, voxel_size, *grid)])
    assert torch.equal(found, height_above_minimum(coords, voxel_size, offsets=offsets))


def test_order_of_threads(cuda_ops, thread_order: str) -> None:
    values, offsets = SEGMENT_CASES["many"]()
    same(cuda_ops.segment_reduce(values, offsets, 1), cpu.segment_reduce(values, offsets, 1))
    coords, voxel_size, _ = GRID_CASES["one_voxel"]()
    offsets = offsets_of([len(coords)])
    grid = cpu.grid_subsample(coords, voxel_size, offsets)
    same(cuda_ops.grid_subsample(coords, voxel_size, offsets), grid)
    labels = torch.arange(len(coords)) % 7
    arguments = coords, None, labels, *grid[:3]
    same(cuda_ops.voxel_features(*arguments), cpu.voxel_features(*arguments))
    neighbors, grad = neighbor_lists(200, 3, 5), torch.randn(200, 5, 4)
    same([cuda_ops.gather_neighbors_backward(grad, neighbors, 3)], [cpu.gather_neighbors_backward(grad, neighbors, 3)])
