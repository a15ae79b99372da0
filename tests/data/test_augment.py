"""Changes of clouds and images: one draw does the same to both, labels survive, colours are what others compute."""

import colorsys
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from pcseg import IGNORE
from pcseg.batch import PointBatch, cat, offsets_of
from pcseg.config import AugmentConfig
from pcseg.datasets.augment import Geometry, augmented, disturbed, geometry_of, two_views
from pcseg.datasets.color import blurred, contrasted, hue_turned, luma, saturated
from pcseg.datasets.feature_contract import OPPONENT, FeatureContract
from pcseg.datasets.resample import look_up
from pcseg.datasets.views import item_generator
from tests.data.grids import unit_contract

EVERYTHING = AugmentConfig(rotate=True, flip=0.5, scale=(0.4, 2.0))


def geometry(index: int, config: AugmentConfig = EVERYTHING) -> Geometry:
    return Geometry.draw(config, 2, item_generator(0, index))


def pixels(height: int, width: int) -> torch.Tensor:  # (H * W, 2), (x, y)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).float()


def item_of(rgb: torch.Tensor, sizes: list[list[int]] | None = None) -> PointBatch:
    """A cloud, or images, with these colours in rows."""
    count = len(rgb)
    return PointBatch(
        coords=torch.rand(count, 2 if sizes else 3, generator=torch.Generator().manual_seed(1)),
        feats=rgb,
        offsets=offsets_of([h * w for h, w in sizes] if sizes else [count]),
        labels=torch.arange(count) % 3,
        rows=torch.arange(count) * 2,
        image_sizes=torch.tensor(sizes) if sizes else None,
    )


@pytest.mark.parametrize("index", range(12))
def test_a_landmark_lands_where_its_coordinates_land(index):
    """A smooth blob in an image, resampled, peaks where the moved coordinates of its centre are."""
    change, size, centre, mark = geometry(index), 64, (50, 40), torch.tensor([55.0, 33.0])
    image = torch.exp(-((pixels(90, 100) - mark) ** 2).sum(1) / (2 * 4.0**2))[:, None]
    cells = look_up((90, 100), centre, change, size)
    seen = cells.features(image)[:, 0]
    expected = change.moved((mark - torch.tensor(centre).float())[None])[0] + size // 2
    peak = pixels(size, size)[seen.argmax()]
    if ((expected > 1) & (expected < size - 2)).all():
        assert (peak - expected).abs().max() <= 1.0
    item = PointBatch(
        coords=mark[None] - torch.tensor([centre]).float(), feats=torch.ones(1, 1), offsets=offsets_of([1])
    )
    ones = FeatureContract.model_validate(
        {"features": [{"name": "ones", "transform": "none", "channels": [_channel("ones")]}]}
    )
    moved = augmented(item, EVERYTHING, ones, item_generator(0, index))
    assert torch.allclose(moved.coords[0] + size // 2, expected, atol=1e-4)


def _channel(name: str) -> dict:
    return {"name": name, "low": 1.0, "high": 1.0, "mean": 0.0, "std": 1.0}


def test_nothing_drawn_is_the_image_itself():
    height, width = 12, 15
    image = torch.rand(height * width, 2)
    cells = look_up((height, width), (7, 6), Geometry.none(2), 6)
    expected = [(y * width + x) for y in range(3, 9) for x in range(4, 10)]
    assert cells.rows.tolist() == expected and cells.inside.all()
    assert torch.allclose(cells.features(image), image[expected])
    mirror = Geometry(torch.diag(torch.tensor([-1.0, 1.0])), torch.ones(2))
    mirrored = look_up((height, width), (7, 6), mirror, 5).rows.view(5, 5)
    assert torch.equal(mirrored, look_up((height, width), (7, 6), Geometry.none(2), 5).rows.view(5, 5).flip(1))


def test_bilinear_values_between_pixels():
    image = torch.tensor([[0.0], [1.0], [2.0], [3.0]])  # 2 x 2
    half = Geometry(torch.eye(2), torch.full((2,), 2.0))
    seen = look_up((2, 2), (0, 0), half, 3).features(image).view(3, 3)
    # Cells at -0.5, 0, 0.5: beyond the border the image is its mirror image.
    assert torch.allclose(seen, torch.tensor([[1.5, 1.0, 1.5], [0.5, 0.0, 0.5], [1.5, 1.0, 1.5]]))


@pytest.mark.parametrize("index", range(8))
def test_rows_are_the_nearest_pixels(index):
    change, size = geometry(index), 20
    cells = look_up((30, 40), (20, 14), change, size)
    back = change.origin(pixels(size, size) - size // 2) + torch.tensor([20.0, 14.0])
    found = torch.stack([cells.rows % 40, cells.rows // 40], 1).float()
    inside = ((back > -0.49) & (back < torch.tensor([39.49, 29.49]))).all(1)
    assert inside.any() and ((found - back)[inside].abs() <= 0.5 + 1e-3).all()
    assert (cells.inside[inside]).all()
    assert torch.allclose(cells.weights.sum(1), torch.ones(size * size), atol=1e-5) and (cells.weights >= -1e-6).all()


@pytest.mark.parametrize("factor", [0.2, 0.35, 0.5, 0.9, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("index", range(4))
def test_few_labels_survive_any_scale(factor, index):
    config = EVERYTHING.model_copy(update={"scale": (factor, factor)})
    change, size, shape = geometry(index, config), 40, (60, 50)
    rng = torch.Generator().manual_seed(index)
    labels = torch.full((3000,), IGNORE)
    chosen = torch.randperm(3000, generator=rng)[:12]
    labels[chosen] = torch.randint(5, (12,), generator=rng)
    cells = look_up(shape, (25, 30), change, size, labelled=labels != IGNORE)
    seen = cells.ids(labels, IGNORE)
    offsets = pixels(*shape)[chosen] - torch.tensor([25.0, 30.0])
    landed = torch.floor(change.moved(offsets) + size // 2 + 0.5).long()
    within = ((landed >= 0) & (landed < size)).all(1)
    assert within.any()
    kept = set(cells.rows[seen != IGNORE].tolist())
    cell_of = {row: tuple(cell) for row, cell in zip(chosen[within].tolist(), landed[within].tolist())}
    for row, cell in cell_of.items():
        sharing = [other for other, place in cell_of.items() if place == cell]
        assert row in kept or (len(sharing) > 1 and kept & set(sharing)), "only a cell's second label is lost"
    assert torch.equal(seen[seen != IGNORE], labels[cells.rows[seen != IGNORE]])


def test_beyond_the_border_lies_the_mirror_image_without_labels():
    labels = torch.arange(12)  # 3 x 4
    cells = look_up((3, 4), (1, 1), Geometry.none(2), 9, labelled=torch.ones(12, dtype=torch.bool))
    seen = cells.ids(labels, IGNORE).view(9, 9)
    assert torch.equal(seen[3:6, 3:7], labels.view(3, 4)) and int((seen != IGNORE).sum()) == 12
    rows = cells.rows.view(9, 9)
    assert rows[3:6, :].tolist() == [[y * 4 + x for x in (3, 2, 1, 0, 1, 2, 3, 2, 1)] for y in range(3)]
    assert rows[:, 3].tolist() == [4 * y for y in (1, 2, 1, 0, 1, 2, 1, 0, 1)]
    tiny = look_up((1, 1), (0, 0), Geometry.none(2), 3)
    assert tiny.rows.tolist() == [0] * 9 and tiny.inside.tolist() == [False] * 4 + [True] + [False] * 4


def test_one_factor_for_all_axes():
    assert len(set(geometry(0, AugmentConfig(scale=(0.5, 2.0), isotropic=True)).scale.tolist())) == 1
    assert len(set(geometry(0, AugmentConfig(scale=(0.5, 2.0))).scale.tolist())) == 2


RGB = torch.tensor(np.random.default_rng(0).integers(0, 256, (200, 3)).astype(np.float32) / 255)


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.6])
def test_colours_are_those_of_pillow(factor):
    image = Image.fromarray((RGB.view(10, 20, 3) * 255).round().byte().numpy())
    for ours, theirs in (
        (contrasted(RGB, factor), ImageEnhance.Contrast),
        (saturated(RGB, factor), ImageEnhance.Color),
        ((RGB * factor).clamp(0, 1), ImageEnhance.Brightness),
    ):
        expected = torch.from_numpy(np.array(theirs(image).enhance(factor), np.float32)).view(-1, 3) / 255
        assert (ours - expected).abs().max() < 3 / 255  # theirs rounds gray values
    assert (luma(RGB).view(10, 20) * 255 - torch.from_numpy(np.array(image.convert("L"), np.float32))).abs().max() < 1.0


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.25, 0.5])
def test_hues_are_those_of_colorsys(turn):
    edge = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    rgb = torch.cat([RGB, edge])
    expected = []
    for red, green, blue in rgb.tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value))
    assert torch.allclose(hue_turned(rgb, turn), torch.tensor(expected), atol=1e-5)
    assert hue_turned(rgb[:0], turn).shape == (0, 3)


@pytest.mark.parametrize("mean", [0.0, 0.4])
@pytest.mark.parametrize("name", ["color", "imagenet_color"])
def test_a_scan_and_an_image_get_the_same_colours(mean, name):
    std = 1.0 if mean == 0 else 0.25
    contract = unit_contract(name, mean, std)
    feats = (RGB - mean) / std
    config = AugmentConfig(color=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    cloud, image = item_of(feats), item_of(feats, [[10, 20]])
    one, other = (disturbed(item, config, contract, item_generator(0, 3)).feats * std + mean for item in (cloud, image))
    plain = disturbed(item_of(RGB), config, unit_contract(), item_generator(0, 3)).feats
    assert torch.equal(one, other) and torch.allclose(one, plain, atol=1e-5)
    assert (one - RGB).abs().max() > 0.05 and one.min() >= -1e-6 and one.max() <= 1 + 1e-6
    gray = disturbed(cloud, AugmentConfig(gray=1.0), contract, item_generator(0, 0)).feats * std + mean
    assert torch.allclose(gray, luma(RGB)[:, None].expand(-1, 3), atol=1e-5)
    assert torch.equal(disturbed(cloud, AugmentConfig(), contract, item_generator(0, 0)).feats, cloud.feats)
    assert torch.equal(cloud.feats, feats), "the item itself stays"


def test_opponent_colours_change_as_their_colours_do():
    opponent = torch.tensor(OPPONENT)
    config = AugmentConfig(color=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    plain = disturbed(item_of(RGB), config, unit_contract(), item_generator(0, 3)).feats
    seen = disturbed(item_of(RGB @ opponent.T), config, unit_contract("opponent_color"), item_generator(0, 3)).feats
    assert torch.allclose(seen, plain @ opponent.T, atol=1e-5) and (plain - RGB).abs().max() > 0.05


def test_blur_is_a_gaussian_and_of_images_only():
    impulse = torch.zeros(21, 21, 3)
    impulse[10, 10] = 1.0
    two = cat([item_of(impulse.view(-1, 3), [[21, 21]]), item_of(torch.full((6, 3), 0.5), [[2, 3]])])
    assert two.image_sizes is not None
    seen = blurred(two.feats, two.image_sizes, 1.5, unit_contract())
    plane = seen[:441, 0].view(21, 21)
    assert math.isclose(float(plane.sum()), 1.0, rel_tol=1e-4) and torch.allclose(plane, plane.T, atol=1e-6)
    assert math.isclose(float(plane[10, 12] / plane[10, 10]), math.exp(-(2**2) / (2 * 1.5**2)), rel_tol=1e-4)
    assert torch.allclose(seen[441:], torch.full((6, 3), 0.5))
    config = AugmentConfig(blur=1.0)
    cloud = item_of(RGB)
    assert torch.equal(disturbed(cloud, config, unit_contract(), item_generator(0, 0)).feats, cloud.feats)
    image = item_of(RGB, [[10, 20]])
    assert not torch.equal(disturbed(image, config, unit_contract(), item_generator(0, 0)).feats, image.feats)


STRONG = AugmentConfig(
    rotate=True, flip=0.5, scale=(0.5, 1.5), color=1.0, brightness=0.5, hue=0.2, gray=0.2, blur=0.5, feature_jitter=0.1
)


@pytest.mark.parametrize("sizes", [None, [[10, 20]]])
def test_two_views_have_the_same_rows(sizes):
    weak = AugmentConfig(flip=0.5, scale=(0.9, 1.1))
    item = item_of(RGB, sizes)
    for index in range(5):
        one, other = two_views(item, weak, STRONG, unit_contract(), item_generator(0, index))
        for view in (one, other):
            assert torch.equal(view.rows, item.rows) and torch.equal(view.labels, item.labels)
            assert torch.equal(view.offsets, item.offsets)
        assert not torch.equal(one.feats, other.feats)
        if sizes:
            assert torch.equal(one.coords, item.coords) and torch.equal(other.coords, item.coords)
            assert torch.equal(one.image_sizes, item.image_sizes)
        else:
            assert not torch.allclose(one.coords, other.coords)
    again = two_views(item, weak, STRONG, unit_contract(), item_generator(0, 4))
    assert torch.equal(again[1].feats, other.feats)
    bare = replace(item, labels=None, rows=None)
    assert two_views(bare, weak, STRONG, unit_contract(), item_generator(0, 0))[0].labels is None


def test_geometry_alone():
    kept = geometry_of(STRONG)
    assert (kept.rotate, kept.flip, kept.scale) == (True, 0.5, (0.5, 1.5))
    assert (kept.color, kept.gray, kept.blur, kept.feature_jitter) == (0, 0, 0, 0)
