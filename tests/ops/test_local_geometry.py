"""local_geometry against numpy.linalg.eigh and known shapes; height_above_minimum against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ops.grid_cases import GRID_CASES, uniform
from torch import Tensor

from pcseg.batch import offsets_of
from pcseg.ops import LocalGeometry, height_above_minimum, local_geometry, reference

SCALARS = LocalGeometry._fields[2:]


def make(
    n: int = 60, m: int = 50, k: int = 8, d: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Anisotropic noise around a distant centre; some neighbours missing."""
    g = torch.Generator().manual_seed(seed)
    coords = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.2])[:d] + 50
    return coords.to(dtype), torch.randint(0, n + max(1, n // 8), (m, k), generator=g).clamp(max=n)


def oracle(coords: Tensor, neighbors: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (M, D) descending and eigenvectors of the least one (M, D)."""
    x = coords.double().numpy()
    values, normals = np.zeros((len(neighbors), x.shape[1])), np.zeros((len(neighbors), x.shape[1]))
    for m, row in enumerate(neighbors.numpy()):
        points = x[row[row < len(x)]]
        if len(points):
            value, vector = np.linalg.eigh(np.cov(points.T, bias=True))
            values[m], normals[m] = value[::-1].clip(0), vector[:, 0]
    return values, normals


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "d"), [(8, 3), (8, 2), (33, 3), (40, 2), (4, 3), (3, 2)])
def test_matches_numpy(k: int, d: int, dtype: torch.dtype, device: torch.device) -> None:
    coords, neighbors = make(k=k, d=d, dtype=dtype)
    got = local_geometry(coords.to(device), neighbors.to(device))
    values, normals = oracle(coords, neighbors)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(got.eigenvalues.cpu(), values, rtol=tolerance, atol=tolerance * values.max())
    # An eigenvector is as good as the gap to the next eigenvalue is wide.
    clear = values[:, -2] - values[:, -1] > 1e-3 * values[:, 0]
    assert clear.mean() > 0.8
    cosine = np.abs((got.normals.cpu().double().numpy() * normals).sum(1))
    np.testing.assert_allclose(cosine[clear], 1, atol=tolerance)
    np.testing.assert_allclose(got.normals.cpu().norm(dim=1), 1, rtol=tolerance)
    assert (got.normals[:, -1] >= 0).all()


@pytest.mark.parametrize("d", [2, 3])
def test_features_match_reference(d: int, device: torch.device) -> None:
    coords, neighbors = make(d=d, dtype=torch.float64)
    got = local_geometry(coords.to(device), neighbors.to(device))
    expected = reference.local_geometry(coords, neighbors)
    for name in SCALARS:
        torch.testing.assert_close(getattr(got, name).cpu(), getattr(expected, name), rtol=1e-9, atol=1e-11, msg=name)
    total = got.linearity + got.planarity + got.sphericity
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e8])
def test_float32_features_match_double(scale: float, isa: str) -> None:
    """Shares, logarithms and cube roots over many orders of magnitude, in exactly representable coordinates."""
    g = torch.Generator().manual_seed(5)
    spread = 10.0 ** (-7 * torch.rand(3000, 1, 3, generator=g))
    coords = (torch.randn(3000, 8, 3, generator=g) * spread * scale).view(-1, 3)
    neighbors = torch.arange(24_000).view(3000, 8)
    got, expected = local_geometry(coords, neighbors), local_geometry(coords.double(), neighbors)
    for name in SCALARS:
        unit = scale**2 if name == "omnivariance" else 1.0
        value, exact = getattr(got, name).double() / unit, getattr(expected, name) / unit
        torch.testing.assert_close(value, exact, rtol=2e-6, atol=1e-7, msg=name)


def shape(kind: str) -> Tensor:
    g = torch.Generator().manual_seed(2)
    scale = {"line": (1, 0, 0), "floor": (1, 1, 0), "wall": (0, 1, 1), "ball": (1, 1, 1), "point": (0, 0, 0)}[kind]
    return torch.randn(4000, 3, generator=g) * torch.tensor(scale) + torch.tensor([1e4, -2e4, 30.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("line", {"linearity": 1, "planarity": 0, "sphericity": 0, "change_of_curvature": 0, "eigenentropy": 0}),
        ("floor", {"linearity": 0, "planarity": 1, "sphericity": 0, "verticality": 0, "eigenentropy": np.log(2)}),
        ("wall", {"linearity": 0, "planarity": 1, "verticality": 1, "omnivariance": 0, "anisotropy": 1}),
        ("ball", {"sphericity": 1, "change_of_curvature": 1 / 3, "omnivariance": 1, "eigenentropy": np.log(3)}),
        ("point", dict.fromkeys(SCALARS, 0)),
    ],
)
def test_known_shapes(kind: str, expected: dict[str, float]) -> None:
    coords = shape(kind)
    got = local_geometry(coords, torch.arange(len(coords))[None])
    for name, value in expected.items():
        assert getattr(got, name).item() == pytest.approx(value, abs=0.08), name
    if kind in ("floor", "point"):
        assert got.normals.tolist() == [[0, 0, 1]]
    if kind == "wall":
        assert got.normals.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_residual_of_hard_matrices(scale: float, isa: str) -> None:
    """C v = l v for eigenvalues many orders of magnitude apart or equal, in rotated frames."""
    g = torch.Generator().manual_seed(4)
    rotation = torch.linalg.qr(torch.randn(300, 3, 3, generator=g, dtype=torch.float64))[0]
    spread = 10.0 ** torch.randint(-6, 1, (300, 1, 3), generator=g).double()
    coords = ((torch.randn(300, 9, 3, generator=g, dtype=torch.float64) * spread) @ rotation * scale).view(-1, 3)
    neighbors = torch.arange(2700).view(300, 9)
    got = local_geometry(coords, neighbors)
    centred = coords.view(300, 9, 3) - coords.view(300, 9, 3).mean(1, keepdim=True)
    covariance = centred.mT @ centred / 9
    least = got.eigenvalues[:, 2:]
    residual = (covariance @ got.normals.unsqueeze(-1)).squeeze(-1) - least * got.normals
    assert (residual.norm(dim=1) / got.eigenvalues[:, 0]).max() < 1e-14
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(got.eigenvalues.sum(1), trace, rtol=1e-12, atol=0)


def test_plane_has_no_third_axis() -> None:
    coords, neighbors = make(d=2)
    flat = local_geometry(torch.cat([coords, torch.zeros(len(coords), 1)], 1), neighbors)
    plane = local_geometry(coords, neighbors)
    torch.testing.assert_close(plane.eigenvalues, flat.eigenvalues[:, :2])
    assert (plane.planarity == 0).all() and (plane.normals.norm(dim=1) - 1).abs().max() < 1e-6


def test_missing_neighbours_count_for_nothing() -> None:
    coords, _ = make()
    full = local_geometry(coords, torch.tensor([[4, 8, 1, 30]]))
    padded = local_geometry(coords, torch.tensor([[4, 60, 8, 1, 60, 30, 60]]))
    alone = local_geometry(coords, torch.tensor([[60, 60, 60], [60, 7, 60], [7, 7, 7]]))
    for a, b in zip(full, padded):
        assert torch.equal(a, b)
    for value in (alone.eigenvalues, *alone[2:]):
        assert (value == 0).all()
    assert alone.normals.tolist() == [[0, 0, 1]] * 3


def test_translation_and_order() -> None:
    coords, neighbors = make(dtype=torch.float64)
    got = local_geometry(coords, neighbors)
    moved = local_geometry(coords + torch.tensor([1e5, -3e5, 10.0]).double(), neighbors.flip(1))
    torch.testing.assert_close(moved.eigenvalues, got.eigenvalues, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_everywhere(isa: str, threads: int, dtype: torch.dtype) -> None:
    coords, neighbors = make(n=900, m=2001, k=7, dtype=dtype)
    got = local_geometry(coords, neighbors)
    torch.ops.pcseg.limit_isa(0)
    torch.set_num_threads(1)
    for a, b in zip(got, local_geometry(coords, neighbors)):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("n", "m", "k"), [(0, 0, 4), (0, 5, 4), (9, 0, 4), (9, 5, 0)])
def test_nothing(n: int, m: int, k: int) -> None:
    got = local_geometry(*make(n=n, m=m, k=k))
    assert got.eigenvalues.shape == (m, 3) and (got.eigenvalues == 0).all() and got.verticality.shape == (m,)


def test_geometry_errors() -> None:
    coords, neighbors = make()
    with pytest.raises(ValueError, match="coords must have 2 or 3 dimensions, got 4"):
        local_geometry(torch.zeros(60, 4), neighbors)
    with pytest.raises(TypeError, match=r"coords must be float32 or float64, got torch\.int64"):
        local_geometry(coords.long(), neighbors)
    with pytest.raises(ValueError, match=r"neighbors must be \(M, k\), got \(50,\)"):
        local_geometry(coords, neighbors[:, 0])
    with pytest.raises(TypeError, match=r"neighbors must be int64, got torch\.int32"):
        local_geometry(coords, neighbors.int())
    for bad in (-1, 61):
        neighbors[3, 2] = bad
        with pytest.raises(ValueError, match=r"local_geometry: neighbors must lie within \[0, N\]"):
            local_geometry(coords, neighbors)


@pytest.mark.parametrize("d", [2, 3])
def test_geometry_opcheck(d: int, device: torch.device) -> None:
    for coords, neighbors in (make(d=d), make(d=d, n=0, m=0), make(d=d, dtype=torch.float64)):
        torch.library.opcheck(torch.ops.pcseg.local_geometry, (coords.to(device), neighbors.to(device)))


def height_oracle(coords: Tensor, cell_size: float, offsets: Tensor) -> np.ndarray:
    x = coords.numpy()
    cells = np.floor(x[:, :2] / x.dtype.type(cell_size)).astype(int)
    cloud = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets.numpy()))
    lowest: dict[tuple[int, int, int], float] = {}
    for key, z in zip(map(tuple, np.column_stack([cloud, cells])), x[:, 2]):
        lowest[key] = min(lowest.get(key, np.inf), z)
    around = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    ground = [
        min(lowest.get((b, i + dx, j + dy), np.inf) for dx, dy in around)
        for b, (i, j) in zip(cloud.tolist(), cells.tolist())
    ]
    return x[:, 2] - np.array(ground, dtype=x.dtype)


@pytest.mark.parametrize("cell_size", [0.1, 0.4, 50.0])
@pytest.mark.parametrize(
    "case", ["3d", "3d_f64", "empty_clouds", "small_clouds", "far_point", "non_contiguous", "one_point", "no_cloud"]
)
def test_height_matches_loop(case: str, cell_size: float, device: torch.device) -> None:
    coords, _, offsets = GRID_CASES[case]()
    got = height_above_minimum(coords.to(device), cell_size, offsets=offsets.to(device)).cpu()
    assert np.array_equal(got.numpy(), height_oracle(coords, cell_size, offsets))
    if len(coords) < 5000:
        assert torch.equal(got, reference.height_above_minimum(coords, cell_size, offsets=offsets))


def test_height_for_every_instruction_set_and_thread_count(isa: str, threads: int) -> None:
    coords, offsets = uniform(30000, 3, size=20.0), offsets_of([10001, 0, 19999])
    got = height_above_minimum(coords, 0.25, offsets=offsets)
    assert np.array_equal(got.numpy(), height_oracle(coords, 0.25, offsets))


def test_height_errors() -> None:
    coords = uniform(5, 3)
    with pytest.raises(ValueError, match=r"coords must be \(N, 3\), got \(5, 2\)"):
        height_above_minimum(coords[:, :2], 1.0)
    with pytest.raises(ValueError, match="cell_size must be positive and finite, got 0"):
        height_above_minimum(coords, 0.0)
    with pytest.raises(ValueError, match="offsets must ascend from 0 to the number of rows"):
        height_above_minimum(coords, 1.0, offsets=torch.tensor([0, 4]))
    coords[2, 0] = torch.nan
    with pytest.raises(ValueError, match="row 2 of coords is not finite"):
        height_above_minimum(coords, 1.0)


def test_height_opcheck(device: torch.device) -> None:
    coords = uniform(200, 3).to(device)
    grid = torch.ops.pcseg.grid_subsample(coords[:, :2], 0.5, offsets_of([150, 50]).to(device))
    torch.library.opcheck(torch.ops.pcseg.height_above_minimum, (coords, 0.5, *grid))


def test_compiles() -> None:
    def features(x: Tensor, lists: Tensor) -> Tensor:
        return local_geometry(x, lists).planarity.sum() + height_above_minimum(x, 0.5).sum()

    coords, neighbors = make()
    compiled = torch.compile(features, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(coords, neighbors), features(coords, neighbors))
