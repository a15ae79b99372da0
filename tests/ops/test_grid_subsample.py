"""grid_subsample against numpy.unique and the plain PyTorch twin: everything must be equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ops.grid_cases import GRID_CASES, Cloud, uniform

from pcseg.batch import offsets_of
from pcseg.ops import VoxelGrid, grid_subsample, reference


def run(cloud: Cloud, device: torch.device | str = "cpu") -> VoxelGrid:
    coords, voxel_size, offsets = cloud
    return grid_subsample(coords.to(device), voxel_size, offsets=offsets.to(device))


def assert_equal(got: VoxelGrid, expected: VoxelGrid) -> None:
    for name, a, b in zip(VoxelGrid._fields, got, expected):
        assert torch.equal(a.cpu(), b.cpu()), name


def oracle(cloud: Cloud) -> VoxelGrid:
    coords, offsets = cloud.coords.numpy(), cloud.offsets.numpy()
    cells = np.floor(coords / coords.dtype.type(cloud.voxel_size)).astype(np.int64)
    clouds = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    keys, inverse, counts = np.unique(np.column_stack([clouds, cells]), axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    voxels = np.bincount(keys[:, 0], minlength=len(offsets) - 1)
    arrays = (inverse, np.argsort(inverse, kind="stable"), np.r_[0, np.cumsum(counts)], np.r_[0, np.cumsum(voxels)])
    return VoxelGrid(*(torch.from_numpy(np.asarray(a, dtype=np.int64)) for a in arrays))


@pytest.mark.parametrize("case", GRID_CASES)
def test_matches_numpy_and_reference(case: str, device: torch.device) -> None:
    cloud = GRID_CASES[case]()
    expected = oracle(cloud)
    assert_equal(run(cloud, device), expected)
    assert_equal(reference.grid_subsample(cloud.coords, cloud.voxel_size, offsets=cloud.offsets), expected)


@pytest.mark.parametrize("case", ["3d", "2d", "3d_f64", "8d", "small_clouds", "very_far_point", "wide_8d", "threads"])
def test_every_instruction_set_and_thread_count(case: str, isa: str, threads: int) -> None:
    cloud = GRID_CASES[case]()
    assert_equal(run(cloud), oracle(cloud))


def test_batched_equals_looped() -> None:
    cloud = GRID_CASES["empty_clouds"]()
    batched = run(cloud)
    for b, (begin, end) in enumerate(zip(cloud.offsets.tolist(), cloud.offsets[1:].tolist())):
        alone = grid_subsample(cloud.coords[begin:end], cloud.voxel_size)
        assert torch.equal(batched.voxel_of_point[begin:end] - batched.voxel_offsets[b], alone.voxel_of_point)


def test_70000_small_clouds() -> None:
    lengths = torch.randint(0, 9, (70_000,), generator=torch.Generator().manual_seed(3))
    cloud = Cloud(uniform(int(lengths.sum()), 3, size=500.0), 1.0, offsets_of(lengths))
    assert_equal(run(cloud), oracle(cloud))


def test_plane_equals_space_with_z_0() -> None:
    cloud = GRID_CASES["2d"]()
    flat = torch.cat([cloud.coords, torch.zeros(len(cloud.coords), 1)], 1)
    assert_equal(run(cloud), run(cloud._replace(coords=flat)))


def test_last_cells_before_the_limit() -> None:
    edge = torch.tensor([[-(2.0**31)], [2.0**31 - 1], [0.0]], dtype=torch.float64)
    assert grid_subsample(edge, 1.0).voxel_of_point.tolist() == [0, 2, 1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 2.0**31, -(2.0**31) - 1, 1e300])
@pytest.mark.parametrize("n", [5, 40000])
def test_cells_that_do_not_exist(value: float, n: int) -> None:
    coords = uniform(n, 3, dtype=torch.float64)
    coords[n // 2, 1] = value
    with pytest.raises(ValueError, match=rf"grid_subsample: row {n // 2} of coords is not finite, or its cell"):
        grid_subsample(coords, 1.0)


def test_errors() -> None:
    x = uniform(4, 3)
    with pytest.raises(ValueError, match=r"coords must be \(N, D\), got \(4,\)"):
        grid_subsample(x[:, 0], 1.0)
    with pytest.raises(TypeError, match=r"coords must be float32 or float64, got torch.int64"):
        grid_subsample(x.long(), 1.0)
    with pytest.raises(ValueError, match="1 to 8 dimensions, got 9"):
        grid_subsample(uniform(4, 9), 1.0)
    for size in (0.0, -1.0, torch.nan, torch.inf, 1e-60):
        with pytest.raises(ValueError, match="voxel_size must be positive and finite"):
            grid_subsample(x, size)
    with pytest.raises(TypeError, match="offsets must be int64"):
        grid_subsample(x, 1.0, offsets=torch.tensor([0, 4], dtype=torch.int32))
    for bad in ([0, 3], [1, 4], [0, 5], [0, 3, 2, 4]):
        with pytest.raises(ValueError, match="offsets must"):
            grid_subsample(x, 1.0, offsets=torch.tensor(bad))


@pytest.mark.parametrize("case", ["3d", "2d_f64", "no_point", "no_cloud", "empty_clouds", "non_contiguous"])
def test_opcheck(case: str, device: torch.device) -> None:
    coords, voxel_size, offsets = GRID_CASES[case]()
    torch.library.opcheck(torch.ops.pcseg.grid_subsample, (coords.to(device), voxel_size, offsets.to(device)))


def test_compiles() -> None:
    compiled = torch.compile(lambda x: grid_subsample(x, 0.3).voxel_of_point + 1, fullgraph=True, backend="aot_eager")
    x = uniform(500, 3)
    assert torch.equal(compiled(x), grid_subsample(x, 0.3).voxel_of_point + 1)
