"""voxel_features against loops in NumPy and the plain PyTorch twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ops.grid_cases import GRID_CASES, uniform
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.ops import VoxelGrid, grid_subsample, reference, voxel_features


def make(case: str, channels: int = 3, classes: int = 5) -> tuple[VoxelGrid, Tensor, Tensor, Tensor]:
    coords, voxel_size, offsets = GRID_CASES[case]()
    g = torch.Generator().manual_seed(1)
    feats = torch.randn(len(coords), channels, generator=g, dtype=coords.dtype)
    labels = torch.randint(IGNORE, classes, (len(coords),), generator=g)
    return grid_subsample(coords, voxel_size, offsets=offsets), coords, feats, labels


def oracle(grid: VoxelGrid, coords: Tensor, feats: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, list[int]]:
    x, f, l = coords.double().numpy(), feats.double().numpy(), labels.numpy()
    voxel = grid.voxel_of_point.numpy()
    rows = [np.flatnonzero(voxel == v) for v in range(len(grid.point_offsets) - 1)]
    majority = []
    for r in rows:
        votes = np.bincount(l[r][l[r] >= 0])
        majority.append(int(votes.argmax()) if votes.any() else IGNORE)
    mean = lambda a: np.array([a[r].mean(0) for r in rows]).reshape(len(rows), a.shape[1])  # noqa: E731
    return mean(x), mean(f), majority


@pytest.mark.parametrize(
    "case", ["3d", "2d", "3d_f64", "4d", "one_voxel", "duplicates", "one_point", "empty_clouds", "non_contiguous"]
)
@pytest.mark.parametrize("channels", [0, 1, 3, 7, 16, 20])
def test_matches_loops(case: str, channels: int, device: torch.device) -> None:
    grid, coords, feats, labels = make(case, channels)
    got = voxel_features(*(VoxelGrid(*(t.to(device) for t in grid)),), *(t.to(device) for t in (coords, feats, labels)))
    x, f, majority = oracle(grid, coords, feats, labels)
    plain = reference.voxel_features(grid, coords, feats, labels)
    for result in (got, plain):
        assert result.feats is not None and result.labels is not None
        tolerance = 1e-12 if coords.dtype == torch.float64 else 2e-6
        torch.testing.assert_close(result.coords.cpu().double(), torch.from_numpy(x), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(result.feats.cpu().double(), torch.from_numpy(f), rtol=tolerance, atol=tolerance)
        assert result.labels.tolist() == majority


@pytest.mark.parametrize("case", ["no_point", "no_cloud"])
def test_nothing(case: str) -> None:
    got = voxel_features(*make(case))
    assert got.feats is not None and got.labels is not None
    assert (got.coords.shape, got.feats.shape, got.labels.shape) == ((0, 3), (0, 3), (0,))


@pytest.mark.parametrize("case", ["3d", "threads", "3d_f64"])
def test_same_bits_for_every_thread_count(case: str, threads: int) -> None:
    inputs = make(case)
    got = voxel_features(*inputs)
    torch.set_num_threads(1)
    for a, b in zip(got, voxel_features(*inputs)):
        assert a is not None and b is not None and torch.equal(a, b)


@pytest.mark.parametrize("case", ["3d", "threads", "3d_f64"])
@pytest.mark.parametrize("channels", [3, 7])
def test_sums_run_in_the_order_of_the_points(case: str, channels: int, threads: int) -> None:
    grid, coords, feats, _ = make(case, channels)
    voxels = len(grid.point_offsets) - 1
    for values, sums, got in (
        (coords.numpy(), np.zeros((voxels, 3)), voxel_features(grid, coords, feats).coords),
        (feats.numpy(), np.zeros((voxels, channels), feats.numpy().dtype), voxel_features(grid, coords, feats).feats),
    ):
        np.add.at(sums, grid.voxel_of_point.numpy(), values.astype(sums.dtype))  # one after the other
        means = sums / grid.point_offsets.diff()[:, None].numpy().astype(sums.dtype)
        assert got is not None and np.array_equal(got.numpy(), means.astype(values.dtype))


def test_every_instruction_set(isa: str) -> None:
    grid, coords, feats, labels = make("3d", 7)
    got, expected = voxel_features(grid, coords, feats, labels), reference.voxel_features(grid, coords, feats, labels)
    torch.testing.assert_close(got.coords, expected.coords)
    torch.testing.assert_close(got.feats, expected.feats, rtol=1e-5, atol=1e-6)
    assert got.labels is not None and expected.labels is not None and torch.equal(got.labels, expected.labels)


def test_only_what_is_given() -> None:
    grid, coords, feats, labels = make("3d")
    full = voxel_features(grid, coords, feats, labels)
    assert full.feats is not None and full.labels is not None
    bare, with_feats, with_labels = (
        voxel_features(grid, coords),
        voxel_features(grid, coords, feats),
        voxel_features(grid, coords, labels=labels),
    )
    assert bare.feats is None and bare.labels is None and torch.equal(bare.coords, full.coords)
    assert with_feats.labels is None and with_feats.feats is not None and torch.equal(with_feats.feats, full.feats)
    assert with_labels.feats is None and with_labels.labels is not None
    assert torch.equal(with_labels.labels, full.labels)


def test_mixed_dtypes() -> None:
    grid, coords, feats, _ = make("3d")
    got = voxel_features(grid, coords, feats.double()).feats
    assert got is not None and got.dtype == torch.float64
    torch.testing.assert_close(
        got, reference.voxel_features(grid, coords, feats.double()).feats, rtol=1e-12, atol=1e-12
    )


def test_barycentre_far_from_the_origin() -> None:
    coords = (torch.arange(1000)[:, None] % 7 * 0.0625 + torch.tensor([[1e5, -2e5, 3e5]])).float()
    grid = grid_subsample(coords, 1e6)
    exact = reference.voxel_features(grid, coords.double()).coords
    assert torch.equal(voxel_features(grid, coords).coords, exact.float())


def test_barycentre_of_equal_points_is_the_point() -> None:
    point = torch.tensor([[0.1, 1e7 + 1, -3.3]])
    grid = grid_subsample(point.repeat(7, 1), 10.0)
    assert torch.equal(voxel_features(grid, point.repeat(7, 1)).coords, point)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([-1, -1, -1, -1, 7], 7),
        ([-1, -1], IGNORE),
        ([3, 1, 1, 3], 1),
        ([3, 3, 1], 3),
        ([255, 256, 256, 255], 255),
        ([2**40, 5, 2**40, -1], 2**40),
        ([2**40, 5, 2**40, 5], 5),
        ([0], 0),
        ([*range(300), 299], 299),
        ([4, -1, 4, 2, 2, 2], 2),
        ([-1, 6, -1], 6),
        ([2**33, 2**32, 2**32], 2**32),
        ([2**32 - 3, 2**32 - 4, 2**63 - 1, 2**63 - 1], 2**63 - 1),
    ],
)
def test_majority(labels: list[int], expected: int) -> None:
    coords = torch.zeros(len(labels), 3)
    got = voxel_features(grid_subsample(coords, 1.0), coords, labels=torch.tensor(labels)).labels
    assert got is not None and got.tolist() == [expected]


def test_gradcheck(device: torch.device) -> None:
    grid, coords, _, labels = make("2d_f64")
    keep = slice(0, 40)
    grid = grid_subsample(coords[keep].to(device), 1.0)
    feats = torch.randn(40, 3, dtype=torch.float64, device=device, requires_grad=True)
    x, l = coords[keep].to(device), labels[keep].to(device)
    assert torch.autograd.gradcheck(lambda f: voxel_features(grid, x, f, l)[1], feats)  # pyright: ignore[reportArgumentType]


def test_autocast() -> None:
    grid, coords, feats, _ = make("3d")
    with torch.autocast("cpu", torch.bfloat16):
        got = voxel_features(grid, coords, feats.bfloat16()).feats
    assert got is not None and got.dtype == torch.float32
    torch.testing.assert_close(got, voxel_features(grid, coords, feats.bfloat16().float()).feats)


def test_voxels_without_points() -> None:
    coords, feats = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([[1.0], [2.0], [torch.nan]])
    bounds = torch.tensor([0, 0, 0, 2, 2, 3, 3])
    grid = VoxelGrid(torch.tensor([2, 2, 4]), torch.arange(3), bounds, torch.tensor([0, 6]))
    got = voxel_features(grid, coords, feats, torch.tensor([7, 7, -1]))
    assert got.feats is not None and got.labels is not None
    assert got.coords.tolist() == [[0, 0], [0, 0], [2, 3], [0, 0], [5, 6], [0, 0]]
    assert got.feats[[0, 1, 2, 3, 5], 0].tolist() == [0, 0, 1.5, 0, 0] and got.feats[4].isnan()
    assert got.labels.tolist() == [-1, -1, 7, -1, -1, -1]


def test_a_voxel_does_not_reach_into_the_next() -> None:
    coords = torch.arange(600.0)[:, None].repeat(1, 3)
    feats = torch.ones(600, 3)
    feats[100], feats[300] = torch.inf, torch.nan
    got = voxel_features(grid_subsample(coords, 1.0), coords, feats)
    torch.testing.assert_close(got.feats, feats, equal_nan=True, rtol=0, atol=0)


def test_errors() -> None:
    grid, coords, feats, labels = make("3d")
    with pytest.raises(ValueError, match="coords must have 1 to 8 dimensions, got 9"):
        voxel_features(grid, torch.zeros(4000, 9))
    with pytest.raises(ValueError, match="the grid has 4000 points, coords 3999"):
        voxel_features(grid, coords[1:])
    with pytest.raises(ValueError, match=r"feats must have N = 4000 rows, got 3999"):
        voxel_features(grid, coords, feats[1:])
    with pytest.raises(TypeError, match=r"feats must be float32 or float64, got torch.bfloat16"):
        voxel_features(grid, coords, feats.bfloat16())
    with pytest.raises(ValueError, match=r"labels must be \(N = 4000,\), got \(4000, 1\)"):
        voxel_features(grid, coords, labels=labels[:, None])
    with pytest.raises(TypeError, match=r"labels must be int64, got torch.int32"):
        voxel_features(grid, coords, labels=labels.int())
    labels[123] = -2
    with pytest.raises(ValueError, match="labels must be at least -1"):
        voxel_features(grid, coords, labels=labels)
    for outside in (-1, len(grid.point_offsets) - 1):
        voxel_of_point = grid.voxel_of_point.clone()
        voxel_of_point[5] = outside
        with pytest.raises(ValueError, match="voxel_of_point must hold voxels"):
            voxel_features(grid._replace(voxel_of_point=voxel_of_point), coords)


@pytest.mark.parametrize("row", [-1, 3])
def test_order_is_checked_where_it_is_read(row: int) -> None:
    coords = torch.zeros(3, 2)
    grid = grid_subsample(coords, 1.0)._replace(order=torch.tensor([0, row, 2]))
    with pytest.raises(ValueError, match="order must hold rows of coords"):
        voxel_features(grid, coords, labels=torch.arange(3))


@pytest.mark.parametrize("case", ["3d", "3d_f64", "no_point", "empty_clouds", "non_contiguous"])
def test_opcheck(case: str, device: torch.device) -> None:
    grid, coords, feats, labels = make(case)
    values = [coords, feats.requires_grad_(), labels, grid.voxel_of_point, grid.order, grid.point_offsets]
    args = [v.detach().to(device).requires_grad_(v.requires_grad) for v in values]
    torch.library.opcheck(torch.ops.pcseg.voxel_features, tuple(args))
    torch.library.opcheck(torch.ops.pcseg.voxel_features, (args[0], None, None, *args[3:]))


def test_compiles() -> None:
    def step(x: Tensor, f: Tensor) -> Tensor:
        means = voxel_features(grid_subsample(x, 0.3), x, f).feats
        assert means is not None
        return means.square().sum()

    x, f = uniform(500, 3), torch.randn(500, 4, requires_grad=True)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x, f), f), torch.autograd.grad(step(x, f), f))
