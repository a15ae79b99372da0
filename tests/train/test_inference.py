"""Prediction tile by tile gives every row its answer, wherever the tiles lie."""

import numpy as np
import pytest
import torch
from torch import nn

from pcseg import ops
from pcseg.config import AugmentConfig
from pcseg.datasets.feature_contract import Channel, Feature, FeatureContract
from pcseg.errors import InputError
from pcseg.inference import Protocol, TileSettings, predict_source, probabilities
from pcseg.models import SegOutput
from pcseg.tiles import index_tiles
from pcseg.vote_views import VoteViews

VOXEL = 0.5


class Cloud:
    """Features are the class scores themselves."""

    def __init__(self, coords: np.ndarray, feats: np.ndarray):
        self.coords = coords.astype(np.float32)
        self.values = feats.astype(np.float32)
        self.asked = 0

    def feats(self, rows: np.ndarray) -> np.ndarray:
        self.asked = max(self.asked, len(rows))
        return self.values[rows]


class Echo(nn.Module):
    """Logits are the features; remembers the largest cloud it saw."""

    largest = 0

    def levels(self, batch):
        return ()

    def forward(self, batch, levels):
        self.largest = max(self.largest, batch.num_rows)
        return SegOutput(batch.feats * 20.0, batch.feats)


def cloud(count: int = 4000, seed: int = 0, width: float = 60.0, depth: float = 25.0) -> Cloud:
    """Scores that are the same within each voxel, on a plane that crosses the origin."""
    rng = np.random.default_rng(seed)
    coords = (rng.random((count, 3)) * (width, depth, 3.0) - (20.0, 9.0, 1.0)).astype(np.float32)
    cells = np.floor(coords / np.float32(VOXEL)).astype(np.int64)
    winner = (cells @ (1, 3, 7)) % 3
    return Cloud(coords, np.eye(3)[winner])


def run(source: Cloud, model: nn.Module | None = None, protocol: str = "full/votes=1/scene", **settings):
    tiles = TileSettings(**({"size": 12.0} | settings))
    parts = list(
        predict_source(
            model or Echo(),
            source,
            voxel_size=VOXEL,
            answer=probabilities(3),
            tiles=tiles,
            protocol=Protocol.parse(protocol),
            device=torch.device("cpu"),
        )
    )
    probs = torch.full((len(source.coords), 3), float("nan"))
    seen = np.zeros(len(source.coords), np.int64)
    for rows, part in parts:
        probs[torch.from_numpy(rows)] = part
        seen[rows] += 1
    assert (seen == 1).all(), "every row comes exactly once"
    return probs, parts


@pytest.mark.parametrize("protocol", ["full/votes=1/scene", "full/votes=1/tile"])
@pytest.mark.parametrize("settings", [{}, {"overlap": 0.2}, {"size": 7.3}, {"size": 500.0}, {"max_voxels": 300}])
@pytest.mark.parametrize("depth", [25.0, 90.0])
def test_every_row_gets_its_voxels_answer(protocol, settings, depth):
    source = cloud(depth=depth)
    probs, _ = run(source, protocol=protocol, **settings)
    expected = torch.softmax(torch.from_numpy(source.values) * 20.0, 1)
    torch.testing.assert_close(probs, expected, atol=1e-5, rtol=1e-5)


def test_voxels_are_never_divided():
    source = cloud()
    grid = ops.grid_subsample(torch.from_numpy(source.coords), VOXEL)
    _, parts = run(source, size=7.3)
    part_of_row = np.empty(len(source.coords), np.int64)
    for number, (rows, _) in enumerate(parts):
        part_of_row[rows] = number
    parts_of_voxel = np.zeros((len(grid.point_offsets) - 1, len(parts)), bool)
    parts_of_voxel[grid.voxel_of_point.numpy(), part_of_row] = True
    assert (parts_of_voxel.sum(1) == 1).all()
    assert len(parts) > 10


def test_dense_tiles_are_seen_in_quarters():
    source, model = cloud(20_000, width=40.0, depth=40.0), Echo()
    run(source, model, size=40.0)
    whole = model.largest
    model.largest = 0
    run(source, model, size=40.0, max_voxels=whole // 3)
    assert 0 < model.largest <= whole // 3


def test_memory_goes_by_the_tile():
    source = cloud(20_000, width=400.0)
    _, parts = run(source, size=12.0)
    assert source.asked < 2000
    assert max(len(rows) for rows, _ in parts) < 1000


def test_votes_average_shifted_and_turned_views():
    source = cloud()
    once, _ = run(source)
    often, _ = run(source, protocol="full/votes=4/scene")
    assert torch.allclose(often.sum(1), torch.ones(len(often)), atol=1e-5)
    # Shifted grids mix neighbouring voxels, so the answer is softer, but mostly the same.
    agreement = (once.argmax(1) == often.argmax(1)).float().mean()
    assert 0.6 < agreement <= 1.0
    assert often.max(1).values.mean() < once.max(1).values.mean()


def test_nearest_voxels_by_distance():
    source = cloud()
    probs, _ = run(source, projection=3)
    assert torch.allclose(probs.sum(1), torch.ones(len(probs)), atol=1e-5)
    expected, _ = run(source)
    assert (probs.argmax(1) == expected.argmax(1)).float().mean() > 0.5
    assert not torch.equal(probs, expected)


def test_few_points():
    probs, _ = run(Cloud(np.zeros((1, 3)), np.eye(3)[:1]), projection=5)
    assert probs[0, 0] > 0.99


def test_model_keeps_its_mode():
    model = Echo().train()
    run(cloud(50), model)
    assert model.training


def test_tiles_shrink_where_points_crowd():
    coords = np.random.default_rng(0).random((5000, 3)).astype(np.float32) * 10
    index = index_tiles(coords, VOXEL, 10.0, max_points=500)
    assert max(end - start for start, end in index.ranges.values()) <= 500
    assert sorted(index.order.tolist()) == list(range(5000))
    for place in index.ranges:
        low, high = index.bounds(place)
        inside = coords[index.rows(place)][:, :2]
        assert (inside >= low - 1e-4).all()
        assert (inside <= high + 1e-4).all()


def test_one_far_point_costs_nothing():
    coords = np.zeros((3, 3), np.float32)
    coords[2] = (9e5, -9e5, 0)
    index = index_tiles(coords, VOXEL, 5.0)
    assert len(index.ranges) == 2


@pytest.mark.parametrize(
    "text", ["full", "full/votes=0/scene", "full/votes=1/room", "raw/votes=1/scene", "full/votes=x/scene"]
)
def test_unknown_protocols(text):
    with pytest.raises(InputError, match=r"expected .*, such as full/votes=1/scene"):
        Protocol.parse(text)


def test_protocol_names_itself():
    assert str(Protocol.parse("voxels/votes=12/tile")) == "voxels/votes=12/tile"


def grid_cloud(shape: tuple[int, ...], spacing: float = VOXEL, seed: int = 0) -> Cloud:
    """Pixels of an image or voxels of a volume, each with a class of its own."""
    cells = np.indices(shape).reshape(len(shape), -1).T[:, ::-1]
    winner = np.random.default_rng(seed).integers(0, 3, len(cells))
    return Cloud(cells.astype(np.float32) * np.float32(spacing), np.eye(3)[winner])


@pytest.mark.parametrize("shape", [(60, 90), (5, 40, 30)])
@pytest.mark.parametrize("protocol", ["full/votes=1/scene", "full/votes=1/tile"])
@pytest.mark.parametrize("settings", [{}, {"size": 7.3}, {"max_voxels": 300}])
def test_images_and_volumes_are_clouds(shape, protocol, settings):
    """A voxel of one pixel: every pixel has its own answer, once."""
    source = grid_cloud(shape)
    probs, parts = run(source, protocol=protocol, **settings)
    torch.testing.assert_close(probs, torch.softmax(torch.from_numpy(source.values) * 20.0, 1), atol=1e-5, rtol=1e-5)
    assert len(parts) >= 4


@pytest.mark.parametrize("dim", [2, 3])
def test_views_turn_in_the_plane(dim):
    coords, feats = torch.rand(50, dim), torch.rand(50, 2)
    for vote in range(1, 5):
        seen, kept = VoteViews().of_cloud(coords, feats, vote, 5)
        apart = (torch.cdist(points.double(), points.double()) for points in (seen, coords))
        torch.testing.assert_close(*apart, atol=1e-5, rtol=0)
        assert torch.equal(seen[:, 2:], coords[:, 2:]) and not torch.allclose(seen, coords) and kept is feats
    # What the plane of a volume shows is what an image shows.
    plane = VoteViews().of_cloud(coords[:, :2], feats, 3, 5)[0]
    torch.testing.assert_close(VoteViews().of_cloud(coords, feats, 3, 5)[0][:, :2], plane)


@pytest.mark.parametrize(("rotate", "flip"), [(False, 0.0), (False, 0.5), (True, 0.0), (True, 0.5)])
def test_views_are_those_of_training(rotate, flip):
    """Areas keep their sign unless mirrored, and the first axis its direction unless turned; normals go along."""
    channels = tuple(Channel(name=n, low=-1, high=1, mean=0.2, std=0.5) for n in "xyz")
    contract = FeatureContract(features=(Feature(name="normals", transform="none", channels=channels),))
    views = VoteViews.as_trained(AugmentConfig(rotate=rotate, flip=flip), contract)
    coords = torch.eye(3) + torch.tensor([0.0, 0.0, 0.5])
    feats = (torch.eye(3) - 0.2) / 0.5
    for vote in range(4):
        seen, normals = views.of_cloud(coords, feats, vote, 4)
        turn = (seen - torch.tensor([0.0, 0.0, 0.5])).T  # the rows of the identity, moved
        assert float(torch.linalg.det(turn)) == pytest.approx(-1 if flip and vote % 2 else 1, abs=1e-5)
        assert torch.equal(turn.abs(), torch.eye(3)) or (rotate and vote > 0)
        torch.testing.assert_close(normals * 0.5 + 0.2, turn.T, atol=1e-5, rtol=0)
    turns, mirrors = 4 if rotate else 1, 2 if flip else 1
    assert len(set(views.of_grid())) == turns * mirrors and views.of_grid()[0] == (0, False)


def test_votes_of_pixels():
    source = grid_cloud((30, 40))
    probs, _ = run(source, protocol="full/votes=4/scene")
    assert torch.allclose(probs.sum(1), torch.ones(1200), atol=1e-5)
