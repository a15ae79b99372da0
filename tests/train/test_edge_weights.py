"""Edges between rows against exact sums by hand: groups of features in their own unit, distances, bandwidths."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pcseg.batch import PointBatch, cat
from pcseg.datasets.feature_contract import Channel, Feature, FeatureContract
from pcseg.images import image_batch
from pcseg.ops import gaussian_filter
from pcseg.pseudo.neighborhoods import Contrast, contrasts_of, dense_lattice, nearest_edges

STDS = {"color": (0.2, 0.25, 0.3), "intensity": (0.6,), "normals": (0.5, 0.7, 0.9)}
LARGEST = {"uint8": 255.0, "uint16": 65535.0, "float": 1.0}


def contract_of(colors: str) -> FeatureContract:
    """Colours as integers of some type or as floats, strengths of echoes and normals, each channel on a scale."""
    kinds = {"color": "none" if colors == "float" else "unit", "intensity": "log1p", "normals": "none"}
    features = []
    for name, stds in STDS.items():
        channels = [
            Channel(name=f"{name}_{index}", low=-1e9, high=1e9, mean=0.1 * index + 0.3, std=std)
            for index, std in enumerate(stds)
        ]
        features.append(Feature(name=name, transform=kinds[name], channels=tuple(channels)))
    return FeatureContract(features=tuple(features))


def columns_of(rows: int, colors: str, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    color = rng.integers(0, int(LARGEST[colors]), (rows, 3)) if colors != "float" else rng.random((rows, 3))
    return {
        "color": color.astype(np.float32 if colors == "float" else colors),
        "intensity": rng.integers(0, 4000, rows).astype(np.uint16),
        "normals": rng.normal(size=(rows, 3)).astype(np.float32),
    }


def batch_of(coords: Tensor, columns: dict[str, np.ndarray], contract: FeatureContract) -> PointBatch:
    """Rows as a network reads them."""
    feats = torch.from_numpy(contract.scale(columns.__getitem__, len(coords)))
    return PointBatch(coords=coords, feats=feats, offsets=torch.tensor([0, len(coords)]))


def exact(columns: dict[str, np.ndarray], colors: str, name: str) -> Tensor:  # (N, c)
    """Integer colours from 0 to 255 whatever their type, echoes as logarithms, others as they are."""
    values = torch.from_numpy(columns[name].astype(np.float64)).view(len(columns[name]), -1)
    if name == "color" and colors != "float":
        return values / LARGEST[colors] * 255
    return torch.log1p(values) if name == "intensity" else values


def contrast(groups: list[Tensor], bandwidths: list[float], i: int, j: int) -> float:
    squares = [float((g[i] - g[j]).square().sum()) / (2 * s**2) for g, s in zip(groups, bandwidths)]
    return math.exp(-sum(squares))


def nearest(coords: Tensor, k: int) -> list[list[tuple[float, int]]]:
    """Distances and rows of the nearest others, of each row."""
    x = coords.double()
    rows = range(len(x))
    return [sorted((float((x[i] - x[j]).norm()), j) for j in rows if j != i)[:k] for i in rows]


def irregular(rows: int, dim: int = 3, seed: int = 4) -> Tensor:
    """Dense on one side and thin on the other."""
    torch.manual_seed(seed)
    return torch.rand(rows, dim) ** 3 * 10


BANDWIDTHS = {
    "uint8": {"color": 90.0, "intensity": 1.5, "normals": 2.0},
    "uint16": {"color": 90.0, "normals": 2.0},
    "float": {"normals": 2.0, "color": 0.35},
}


@pytest.mark.parametrize("colors", BANDWIDTHS)
def test_edges_of_a_cloud_by_hand(colors):
    contract, coords, columns = contract_of(colors), irregular(25), columns_of(25, colors)
    bandwidths = BANDWIDTHS[colors]
    found = nearest_edges(batch_of(coords, columns, contract), contrasts_of(contract, bandwidths), k=5)
    lists, groups = nearest(coords, 5), [exact(columns, colors, name) for name in bandwidths]
    typical = sorted(d for row in lists for d, _ in row)[62]  # the middle of 125
    assert found.neighbors.tolist() == [[j for _, j in row] for row in lists]
    relative = [max(d / typical, 0.25) for row in lists for d, _ in row]
    assert min(relative) == 0.25 and max(relative) > 2, "some are too near to count as they are"
    wanted = [
        0.5 / max(d / typical, 0.25) * contrast(groups, list(bandwidths.values()), i, j)
        for i, row in enumerate(lists)
        for d, j in row
    ]
    torch.testing.assert_close(
        found.edge_weight.flatten().double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-3, atol=1e-6
    )
    assert sum(wanted) > 1


def test_without_features_only_distance_counts():
    coords = irregular(25, dim=2)
    batch = PointBatch(coords=coords, feats=torch.randn(25, 4), offsets=torch.tensor([0, 25]))
    lists = nearest(coords, 3)
    typical = sorted(d for row in lists for d, _ in row)[37]
    wanted = torch.tensor([[0.5 / max(d / typical, 0.25) for d, _ in row] for row in lists])
    torch.testing.assert_close(nearest_edges(batch, (), k=3).edge_weight, wanted, rtol=1e-4, atol=0)


def test_a_bandwidth_of_0_is_the_root_mean_square_over_the_edges():
    contract, coords, columns = contract_of("uint8"), irregular(25), columns_of(25, "uint8")
    batch = batch_of(coords, columns, contract)
    found = nearest_edges(batch, contrasts_of(contract, {"color": 0.0, "normals": 2.0}), k=5)
    lists, groups = nearest(coords, 5), [exact(columns, "uint8", name) for name in ("color", "normals")]
    pairs = [(i, j) for i, row in enumerate(lists) for _, j in row]
    own = math.sqrt(sum(float((groups[0][i] - groups[0][j]).square().sum()) for i, j in pairs) / len(pairs))
    given = nearest_edges(batch, contrasts_of(contract, {"color": own, "normals": 2.0}), k=5)
    torch.testing.assert_close(found.edge_weight, given.edge_weight, rtol=1e-4, atol=1e-7)
    ratio = found.edge_weight.flatten()[0] / nearest_edges(batch, (), k=5).edge_weight.flatten()[0]
    assert float(ratio) == pytest.approx(contrast(groups, [own, 2.0], *pairs[0]), rel=1e-3)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_edges_of_pixels_by_hand(connectivity):
    """Of two images of a batch; colours from 0 to 255 although the network reads them on another scale."""
    contract = FeatureContract(features=contract_of("uint8").features[:1])
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (*size, 3)).astype(np.uint8) for size in ((3, 4), (2, 5))]
    batches = [
        image_batch(torch.from_numpy(contract.scale(lambda _, i=i: i.reshape(-1, 3), i.size // 3)).view(i.shape))
        for i in images
    ]
    found = nearest_edges(cat(batches), contrasts_of(contract, {"color": 90.0}), connectivity=connectivity)
    seen = {}
    for row, (others, weights) in enumerate(zip(found.neighbors.tolist(), found.edge_weight.tolist())):
        for other, weight in zip(others, weights):
            if other < 22:
                seen[row, other] = weight
            else:
                assert other == 22 and weight == 0
    wanted, start = {}, 0
    for image in images:
        height, width = image.shape[:2]
        flat = [torch.from_numpy(image.astype(np.float64)).view(-1, 3)]
        for i in range(height * width):
            for j in range(height * width):
                dy, dx = i // width - j // width, i % width - j % width
                away = math.hypot(dy, dx)
                if 0 < away <= (1 if connectivity == 4 else 1.5):
                    wanted[start + i, start + j] = 0.5 / away * contrast(flat, [90.0], i, j)
        start += height * width
    assert seen.keys() == wanted.keys()
    assert all(seen[pair] == pytest.approx(wanted[pair], rel=1e-4) for pair in wanted)


@pytest.mark.parametrize("bandwidth", [0.3, 1.2, 0.0])
def test_sums_over_all_pairs_by_hand(bandwidth):
    """Of two clouds, over places and a feature, each over its bandwidth; 0 is the feature's deviation over the batch.
    The filter comes within a tenth."""
    torch.manual_seed(7)
    coords, values = torch.rand(900, 2) * 40, torch.rand(900, 1)
    echo = torch.rand(900, 1) * 1.4
    echo[500:] *= 0.5
    batch = PointBatch(coords=coords, feats=echo / 0.6, offsets=torch.tensor([0, 500, 900]))
    group = Contrast(channels=slice(0, 1), scale=(0.6,), bandwidth=bandwidth)
    found = dense_lattice(batch, (group,), position_bandwidth=12.0).filter(values)
    own = bandwidth or float((echo - echo.mean()).square().mean().sqrt())
    squares = torch.cdist(coords, coords).square() / 12**2 + torch.cdist(echo, echo).square() / own**2
    weights = torch.exp(-squares / 2)
    weights[:500, 500:] = weights[500:, :500] = 0
    wanted = weights @ values
    assert float(((found - wanted).abs() / wanted).mean()) < 0.1


@pytest.mark.parametrize("colors", ["uint8", "uint16", "float"])
def test_places_and_features_of_the_dense_neighborhood(colors):
    """All axes are in their own unit, over their bandwidths: the same filter as of positions made by hand."""
    contract, coords, columns = contract_of(colors), irregular(60, dim=2), columns_of(60, colors)
    bandwidths = {"intensity": 1.5, "color": 0.9 if colors == "float" else 230.0}
    batch, values = batch_of(coords, columns, contract), torch.rand(60, 2)
    found = dense_lattice(batch, contrasts_of(contract, bandwidths), position_bandwidth=4.0).filter(values)
    axes = [coords.double() / 4.0]
    for name, bandwidth in bandwidths.items():
        mean = torch.tensor([0.1 * index + 0.3 for index in range(len(STDS[name]))], dtype=torch.float64)
        mean = mean * (255 if name == "color" and colors != "float" else 1)  # the lattice stands still
        axes.append((exact(columns, colors, name) - mean) / bandwidth)
    wanted = gaussian_filter(values, torch.cat(axes, 1).float())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert float((wanted - values).abs().mean()) > 0.5, "rows have neighbours"
