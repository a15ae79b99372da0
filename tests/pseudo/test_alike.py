"""Which pairs of rows are held to have one label: those that look alike, and that no inward fold parts."""

import itertools

import numpy as np
import pytest
import torch

from pcseg import ops
from pcseg.batch import PointBatch, cat, offsets_of
from pcseg.datasets.color import lab
from pcseg.datasets.feature_contract import Channel, Feature, FeatureContract
from pcseg.errors import InputError
from pcseg.images import image_batch
from pcseg.ops import GridEdges
from pcseg.pseudo.alike import alike_edges, cloud_edges, collision_prior, looks_of, neighbor_lists, surface_of


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((0.9, 0.1), (0.1, 0.9), 1.714798), ((1, 0), (1, 0), 0), ((0.5, 0.5),) * 2 + (np.log(2),)],
)
def test_prior_by_hand(first, second, expected):
    log_probs = torch.tensor([first, second], dtype=torch.float64).log()
    edges = GridEdges(torch.tensor([[1], [2]]), torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    torch.testing.assert_close(float(collision_prior(log_probs, edges)), float(expected), atol=1e-5, rtol=0)
    none = GridEdges(edges.neighbors, edges.edge_weight * 0)
    assert float(collision_prior(log_probs.requires_grad_(), none)) == 0


def test_lab_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    rgb = np.random.default_rng(0).random((500, 3))
    rgb[:3] = [[0, 0, 0], [1, 1, 1], [0.01, 0.02, 0.03]]
    found = lab(torch.from_numpy(rgb)).numpy()
    np.testing.assert_allclose(found, color.rgb2lab(rgb[None])[0], atol=2e-3)


def test_a_window_lists_every_pair_once():
    images = cat([image_batch(torch.zeros(5, 7, 1)), image_batch(torch.zeros(3, 4, 1))])
    lists = neighbor_lists(images, k=1, window=3, step=2)
    pairs = {(row, int(other)) for row, others in enumerate(lists) for other in others if other < images.num_rows}
    expected = set()
    for start, height, width in ((0, 5, 7), (35, 3, 4)):
        places = list(itertools.product(range(height), range(width)))
        for (y, x), (v, u) in itertools.combinations(places, 2):
            if (y, x) != (v, u) and abs(y - v) in (0, 2) and abs(x - u) in (0, 2):
                expected.add((start + y * width + x, start + v * width + u))
    assert pairs == expected
    twice = neighbor_lists(images, k=1, window=3, step=2, both=True)
    found = {(row, int(other)) for row, others in enumerate(twice) for other in others if other < images.num_rows}
    assert found == pairs | {(other, row) for row, other in pairs}


def color_contract() -> FeatureContract:
    channels = tuple(Channel(name=name, low=0, high=1, mean=0.5, std=0.25) for name in ("r", "g", "b"))
    other = (Channel(name="height", low=-9, high=9, mean=1.0, std=2.0),)
    return FeatureContract(
        features=(
            Feature(name="color", transform="unit", channels=channels),
            Feature(name="height", transform="none", channels=other),
        )
    )


def test_pairs_are_tied_where_they_look_alike():
    contract = color_contract()
    rgb = torch.tensor([[0.5, 0.5, 0.5], [0.505, 0.5, 0.5], [0.9, 0.1, 0.1]])
    height = torch.tensor([[1.0], [1.1], [1.1]])
    batch = PointBatch(
        coords=torch.arange(9.0).view(3, 3),
        feats=torch.cat([(rgb - 0.5) / 0.25, (height - 1) / 2], 1),
        offsets=offsets_of([3]),
    )
    lists = torch.tensor([[1, 2], [2, 0], [3, 0]])
    looks = looks_of(contract, {"color": 1.0})
    assert alike_edges(batch, looks, lists, min_likeness=0.3).edge_weight.tolist() == [[1, 0], [0, 1], [0, 0]]
    # exp(-|d| / 2 / scale) with |d| = 0.1: alike at a scale of 1, not at 0.01
    for scale, tied in ((1.0, 1), (0.01, 0)):
        heights = looks_of(contract, {"height": scale})
        assert alike_edges(batch, heights, lists, min_likeness=0.3).edge_weight[0].tolist() == [tied, tied]
    assert alike_edges(batch, (), lists, min_likeness=0.3).edge_weight.tolist() == [[1, 1], [1, 1], [0, 1]]
    with pytest.raises(InputError, match="reads no feature 'normals'; it reads color, height"):
        looks_of(contract, {"normals": 1.0})
    with pytest.raises(InputError, match="must be positive"):
        looks_of(contract, {"color": 0.0})


def test_lists_of_a_cloud_of_a_batch():
    edges = GridEdges(torch.tensor([[1, 4], [0, 4], [3, 4], [2, 4]]), torch.arange(8.0).view(4, 2))
    found = cloud_edges(edges, 2, 4)
    assert found.neighbors.tolist() == [[1, 2], [0, 2]] and found.edge_weight.tolist() == [[4, 5], [6, 7]]


def normals_contract() -> FeatureContract:
    channels = tuple(Channel(name=n, low=-1, high=1, mean=m, std=0.5) for n, m in (("x", 0.0), ("y", 0.1), ("z", 0.6)))
    return FeatureContract(features=(Feature(name="normals", transform="none", channels=channels),))


def step_between_floors(contract: FeatureContract) -> PointBatch:
    """A floor (x < 0), a wall that rises from it (x = 0), and a floor above (x > 0), looked at from x = -9, above."""
    along = torch.linspace(0.05, 0.95, 10)
    low = torch.stack([-along.flip(0), 0 * along, 0 * along], 1)
    wall = torch.stack([0 * along, 0 * along, along], 1)
    high = torch.stack([along, 0 * along, 1 + 0 * along], 1)
    normals = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, 0, 1]]).repeat_interleave(10, 0)
    (feature,) = contract.features
    mean, std = (torch.tensor([getattr(c, name) for c in feature.channels]) for name in ("mean", "std"))
    return PointBatch(coords=torch.cat([low, wall, high]), feats=(normals - mean) / std, offsets=offsets_of([30]))


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_only_an_inward_fold_parts_rows(scale):
    contract = normals_contract()
    batch = step_between_floors(contract)
    batch = PointBatch(coords=batch.coords * scale, feats=batch.feats, offsets=batch.offsets)
    lists, _ = ops.nearest_others(batch.coords, 4)
    surface = surface_of(contract)
    fold = surface.concavity(batch, lists)
    part = torch.arange(30) // 10
    for row, others in enumerate(lists.tolist()):
        for place, other in enumerate(others):
            pair = {int(part[row]), int(part[other])}
            sign = 0 if len(pair) == 1 else (1 if pair == {0, 1} else -1)  # floor and wall, wall and upper floor
            assert np.sign(round(float(fold[row, place]), 5)) == sign
    # Beside the fold: normals (0, 0, 1) and (-1, 0, 0), the way from (-d, 0, 0) to (0, 0, d): 2 d / (d sqrt(2)).
    corner = lists[9].tolist().index(10)
    assert float(fold[9, corner]) == pytest.approx(np.sqrt(2), rel=1e-4)
    tied = alike_edges(batch, (), lists, min_likeness=0.3, surface=surface, max_concavity=0.2).edge_weight
    expected = [
        [float({int(part[r]), int(part[o])} != {0, 1}) for o in others] for r, others in enumerate(lists.tolist())
    ]
    assert tied.tolist() == expected and 0 < tied.mean() < 1


def test_folds_of_what_is_not_there():
    contract = normals_contract()
    batch = step_between_floors(contract)
    same = PointBatch(coords=batch.coords[:2] * 0, feats=batch.feats[9:11], offsets=offsets_of([2]))
    assert surface_of(contract).concavity(same, torch.tensor([[1, 2], [0, 2]])).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(
        InputError, match=r"reads no feature 'normals'; it reads color, height; add it to data\.features"
    ):
        surface_of(color_contract())
