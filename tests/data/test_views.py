"""Crops and augmentation: size, balance, determinism, what hidden labels reveal, what features follow."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pcseg import IGNORE, ops
from pcseg.batch import PointBatch, cat, offsets_of
from pcseg.config import AugmentConfig, CropConfig, DataConfig
from pcseg.datasets.augment import augmented
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.views import CropDataset, item_generator, laid_over
from pcseg.datasets.voxel_scene import NearestVoxels, VoxelScene, check_trainable
from pcseg.errors import InputError
from tests.data.scenes import town, write_scene

FEATURES = ("height_above_ground", "normals", "color", "ones")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return town(tmp_path_factory.mktemp("scenes") / "town")


@pytest.fixture(scope="module")
def contract(scene) -> FeatureContract:
    return FeatureContract.fit(FEATURES, [scene])


@pytest.fixture(scope="module")
def voxels(scene, contract) -> VoxelScene:
    return VoxelScene.build(scene, contract, 0.5)


SMALL = CropConfig(max_voxels=200)


def dataset(voxels, contract, crop=SMALL, augment=None, seed=0) -> CropDataset:
    return CropDataset([voxels], contract, crop, augment, seed=seed)


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("coords", "feats", "labels", "rows"))


def test_voxels_are_those_of_the_op(scene, contract, voxels):
    coords = torch.from_numpy(np.array(scene.coords))
    grid = ops.grid_subsample(coords, 0.5)
    expected = ops.voxel_features(
        grid, coords, torch.from_numpy(contract.feats(scene)), torch.from_numpy(scene.labels.astype(np.int64))
    )
    assert torch.equal(voxels.coords, expected.coords) and torch.equal(voxels.labels, expected.labels)
    assert torch.equal(voxels.feats, expected.feats) and int(voxels.point_counts.sum()) == scene.num_points


@pytest.mark.parametrize("shape", ["column", "sphere"])
@pytest.mark.parametrize("radius", [None, 3.0, 1000.0])
@pytest.mark.parametrize("count", [1, 50, 10**6])
def test_the_nearest_voxels_are_those_of_brute_force(voxels, shape, radius, count):
    coords = voxels.coords.numpy()
    finder = NearestVoxels(voxels.coords, typical=count)
    axes = 2 if shape == "column" else 3
    for centre in (coords[0], coords[700], coords.mean(0), coords.max(0) + 5):
        found = finder.find(centre, count=count, radius=radius, in_plane=shape == "column")
        sq_dist = np.square(coords[:, :axes] - centre[:axes]).sum(1)
        order = np.argsort(sq_dist, kind="stable")
        if radius is not None:
            order = order[sq_dist[order] <= radius * radius]
        np.testing.assert_array_equal(found, np.sort(order[:count]))


@pytest.mark.parametrize("scale", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 1, 0), (0, 0, 0), (1e-9, 1e3, 1)])
@pytest.mark.parametrize("offset", [(0, 0, 0), (5e6, 3e6, 100)])
def test_the_nearest_voxels_of_walls_lines_and_points(scale, offset):
    """Fewer voxels than asked for: the search ends when all of them were looked at."""
    coords = np.random.default_rng(0).uniform(0, 20, (800, 3)) * scale + offset
    coords = coords.astype(np.float32)[: None if any(scale) else 1]
    finder = NearestVoxels(torch.from_numpy(coords), typical=4000)
    for centre in (coords[0], coords.mean(0), coords.max(0) + 5):
        sq_dist = np.square(coords[:, :2] - centre[:2]).sum(1)
        for count in (1, 50, 4000):
            found = finder.find(centre, count=count, in_plane=True)
            np.testing.assert_array_equal(found, np.sort(np.argsort(sq_dist, kind="stable")[:count]))


def test_an_item_depends_on_its_index_and_the_seed_alone(voxels, contract):
    augment = AugmentConfig(
        rotate=True, flip=0.5, scale=(0.8, 1.2), jitter=0.1, feature_dropout=0.3, feature_jitter=0.1
    )
    a, b = (dataset(voxels, contract, augment=augment) for _ in range(2))
    forward = [a[i] for i in range(6)]
    backward = [b[i] for i in reversed(range(6))][::-1]
    assert all(same(x, y) for x, y in zip(forward, backward, strict=True))
    assert not same(forward[0], forward[1])
    assert not same(dataset(voxels, contract, augment=augment, seed=1)[0], forward[0])
    assert item_generator(3, 4).initial_seed() != item_generator(4, 3).initial_seed()


def test_rows_lead_back_to_the_voxels_of_every_scene(voxels, contract):
    crops = CropDataset([voxels, voxels], contract, CropConfig(max_voxels=64), seed=0)
    assert crops.scene_starts.tolist() == [0, voxels.num_voxels, 2 * voxels.num_voxels]
    seen = set()
    for index in range(20):
        item = crops[index]
        assert item.num_rows == 64 and len(item) == 1
        rows = item.rows % voxels.num_voxels
        seen.add(int(item.rows[0]) // voxels.num_voxels)
        assert torch.equal(item.feats, voxels.feats[rows]) and torch.equal(item.labels, voxels.labels[rows])
        moved = voxels.coords[rows] - item.coords
        assert torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-4) and (rows.diff() > 0).all()
    assert seen == {0, 1}
    assert cat([crops[0], crops[1]]).num_rows == 128


def test_classes_are_centred_on_equally_often(voxels, contract):
    one = CropConfig(max_voxels=1)
    balanced = torch.cat([dataset(voxels, contract, one)[i].labels for i in range(600)])
    shares = torch.bincount(balanced, minlength=3) / 600
    assert (balanced >= 0).all() and ((shares - 1 / 3).abs() < 0.08).all()
    free = CropConfig(max_voxels=1, balanced=0.0)
    plain = torch.cat([dataset(voxels, contract, free)[i].labels for i in range(600)])
    assert (plain == 2).float().mean() < 0.05 and (plain == IGNORE).any()


@pytest.mark.parametrize("shape", ["column", "sphere"])
@pytest.mark.parametrize("radius", [None, 4.0])
def test_a_drawn_label_stands_anywhere_within_its_share_of_the_crop(scene, contract, shape, radius):
    """One labelled voxel: every crop holds it, in the middle by default, else as far off as the share says."""
    voxels = VoxelScene.build(scene, contract, 0.5)
    labels = torch.full_like(voxels.labels, IGNORE)
    labels[700] = 1
    voxels = replace(voxels, labels=labels)
    axes = 2 if shape == "column" else 3
    crop = CropConfig(shape=shape, radius=radius, max_voxels=300 if radius is None else 10**6)
    centred = [dataset(voxels, contract, crop)[i] for i in range(3)]
    assert all(float(item.coords[item.labels == 1].norm()) == 0 for item in centred)
    reach = float(centred[0].coords[:, :axes].norm(dim=1).max())
    items = [dataset(voxels, contract, crop.model_copy(update={"off_center": 0.6}))[i] for i in range(60)]
    off = torch.cat([item.coords[item.labels == 1, :axes].norm(dim=1) for item in items])
    assert len(off) == 60 and len({int(item.rows[0]) for item in items}) > 5
    assert off.max() <= 0.6 * reach + 1e-4 and off.max() > 0.4 * reach and (off > 0.2 * reach).float().mean() > 0.5


@pytest.mark.parametrize(
    ("crop", "few", "share"),
    [
        ({}, False, 0.0),
        ({}, True, 0.6),
        ({"off_center": 0.3}, False, 0.3),
        ({"off_center": 0.0}, True, 0.0),
        ({"balanced": 0.0}, True, 0.0),
    ],
)
def test_few_labels_are_not_in_the_middle_unless_asked_for(crop, few, share):
    data = DataConfig(
        root="data",
        train_scenes=("a",),
        class_names=("x", "y"),
        label_map={0: 0, 1: 1},
        crop=CropConfig(**crop),
    )
    assert data.labelled_crop(few).off_center == share
    assert data.labelled_crop(few).model_dump(exclude={"off_center"}) == data.crop.model_dump(exclude={"off_center"})


def test_a_radius_bounds_the_crop_in_the_plane_or_in_space(voxels, contract):
    for shape, axes in (("column", 2), ("sphere", 3)):
        crop = CropConfig(shape=shape, radius=4.0, max_voxels=10**6)
        items = [dataset(voxels, contract, crop)[i] for i in range(5)]
        assert all(float(i.coords[:, :axes].norm(dim=1).max()) <= 4.0 + 1e-4 for i in items)
    columns = [dataset(voxels, contract, CropConfig(radius=4.0, max_voxels=10**6))[i].num_rows for i in range(5)]
    assert min(columns) > 20


def test_hidden_labels_change_nothing(scene, contract, tmp_path):
    visible = np.random.default_rng(0).random(scene.num_points) < 0.05
    garbled = scene.labels.copy()
    garbled[~visible] = np.random.default_rng(1).integers(0, 3, int((~visible).sum()))
    other = write_scene(
        tmp_path / "garbled",
        scene.coords,
        labels=garbled,
        class_names=scene.class_names,
        **{name: np.asarray(scene.column(name)) for name in scene.column_names},
    )
    items = []
    for source in (scene, other):
        built = VoxelScene.build(source, contract, 0.5, visible=visible)
        items.append([dataset(built, contract)[i] for i in range(5)])
        assert 0 < (built.labels != IGNORE).float().mean() < 0.2
    assert all(same(a, b) for a, b in zip(*items, strict=True))


def test_only_chosen_rows_are_seen_and_scenes_without_labels_work(scene, contract, tmp_path):
    rows = np.flatnonzero(scene.coords[:, 0] < 0)
    half = VoxelScene.build(scene, contract, 0.5, rows=rows)
    assert half.coords[:, 0].max() < 0 and int(half.point_counts.sum()) == len(rows)
    bare = write_scene(tmp_path / "bare", scene.coords)
    ones = FeatureContract.fit((), [bare])
    item = CropDataset([VoxelScene.build(bare, ones, 0.5)], ones, CropConfig(max_voxels=30), seed=0)[0]
    assert item.labels is None and item.num_rows == 30
    with pytest.raises(InputError, match="no voxels to crop from"):
        CropDataset([], ones, CropConfig(), seed=0)


def test_scenes_that_cannot_teach_are_refused(scene, tmp_path):
    check_trainable([scene], ("ground", "house", "post"))
    with pytest.raises(InputError, match=r"bare: has no labels to train on; prepare it again with --label-map"):
        check_trainable([write_scene(tmp_path / "bare", np.zeros((3, 3)))], ("a", "b"))
    with pytest.raises(InputError, match="prepared with the classes ground, house, post, the run has a, b"):
        check_trainable([scene], ("a", "b"))
    wrong = write_scene(tmp_path / "wrong", np.zeros((3, 3)), labels=np.array([0, 1, 7]), class_names=("a", "b"))
    with pytest.raises(InputError, match=r"wrong: labels\.npy: class 7 is outside the 2 classes"):
        check_trainable([wrong], ("a", "b"))


def test_the_default_augmentation_changes_nothing(voxels, contract):
    plain, changed = dataset(voxels, contract)[0], dataset(voxels, contract, augment=AugmentConfig())[0]
    assert torch.allclose(plain.coords, changed.coords) and torch.allclose(plain.feats, changed.feats, atol=1e-5)


def test_a_second_crop_is_laid_over_as_often_as_asked_for(voxels, contract):
    plain = dataset(voxels, contract, augment=AugmentConfig(jitter=0.1))
    always = dataset(voxels, contract, augment=AugmentConfig(jitter=0.1, mix=1.0))
    half = dataset(voxels, contract, augment=AugmentConfig(jitter=0.1, mix=0.5))
    mixed = 0
    for index in range(40):
        first, both, some = plain[index], always[index], half[index]
        count = first.num_rows
        assert len(both) == 1 and both.num_rows == 2 * count
        assert torch.equal(both.coords[:count], first.coords) and torch.equal(both.labels[:count], first.labels)
        assert torch.equal(both.labels, voxels.labels[both.rows])
        assert same(some, both) or same(some, first)
        mixed += some.num_rows > count
    assert 10 <= mixed <= 30
    assert len({always[index].rows[-1].item() for index in range(10)}) > 5


def test_what_is_laid_over_stands_on_the_same_level():
    def floor(count, height, things):
        ground = torch.cat([torch.rand(count, 2), torch.full((count, 1), height)], 1)
        coords = torch.cat([ground, torch.tensor([[0.5, 0.5, height + 1.0 + n] for n in range(things)])])
        ids = torch.cat([torch.full((count,), IGNORE), torch.arange(things)])
        feats, offsets = torch.zeros(len(coords), 1), offsets_of([len(coords)])
        return PointBatch(coords=coords, feats=feats, offsets=offsets, labels=(ids >= 0).long(), instances=ids)

    both = laid_over(floor(100, -0.3, 2), floor(50, 2.0, 1))
    assert torch.allclose(both.coords[both.labels == 0][:, 2], torch.tensor(-0.3), atol=1e-6)
    assert torch.allclose(both.coords[both.labels == 1][:, 2], torch.tensor([0.7, 1.7, 0.7]))
    assert both.instances[both.labels == 1].tolist() == [0, 1, 2] and both.rows is None


def test_turning_keeps_heights_and_distances_and_turns_normals(voxels, contract):
    item = dataset(voxels, contract)[0]
    turned = augmented(item, AugmentConfig(rotate=True, flip=1.0), contract, item_generator(0, 9))
    assert torch.equal(turned.coords[:, 2], item.coords[:, 2]) and not torch.allclose(turned.coords, item.coords)
    assert torch.allclose(torch.cdist(turned.coords, turned.coords), torch.cdist(item.coords, item.coords), atol=1e-2)
    place = contract.slices["normals"]
    raw = [_raw(i.feats, contract, "normals") for i in (item, turned)]
    assert torch.allclose(raw[1].norm(dim=1), torch.ones(len(raw[1])), atol=1e-4)
    assert torch.allclose(raw[1][:, 2], raw[0][:, 2], atol=1e-5) and not torch.allclose(raw[1], raw[0])
    # The direction turns as the coordinates do.
    step = item.coords + raw[0]
    moved = augmented(replace(item, coords=step), AugmentConfig(rotate=True, flip=1.0), contract, item_generator(0, 9))
    assert torch.allclose(moved.coords - turned.coords, raw[1], atol=1e-3)
    others = [i for i in range(contract.num_channels) if not place.start <= i < place.stop]
    assert torch.allclose(turned.feats[:, others], item.feats[:, others], atol=1e-5)


def _raw(feats, contract, name):
    feature = next(f for f in contract.features if f.name == name)
    std, mean = (torch.tensor([getattr(c, k) for c in feature.channels]) for k in ("std", "mean"))
    return feats[:, contract.slices[name]] * std + mean


def test_stretching_stretches_heights(voxels, contract):
    item = dataset(voxels, contract)[0]
    wide = augmented(item, AugmentConfig(scale=(1.5, 1.5)), contract, item_generator(0, 0))
    assert torch.allclose(wide.coords, item.coords * 1.5)
    heights = [_raw(i.feats, contract, "height_above_ground") for i in (item, wide)]
    assert torch.allclose(heights[1], heights[0] * 1.5, atol=1e-4)


def test_hidden_features_are_0_and_ones_stay(voxels, contract):
    item = dataset(voxels, contract)[0]
    hidden = augmented(item, AugmentConfig(feature_dropout=1.0), contract, item_generator(0, 0))
    place = contract.slices["ones"]
    assert (hidden.feats[:, : place.start] == 0).all() and (hidden.feats[:, place] == 1).all()
    shifted = augmented(item, AugmentConfig(feature_jitter=0.5), contract, item_generator(0, 0))
    shift = shifted.feats[:, contract.slices["color"]] - item.feats[:, contract.slices["color"]]
    assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5) and shift.abs().max() > 0.01
    noisy = augmented(item, AugmentConfig(jitter=0.1), contract, item_generator(0, 0))
    assert math.isclose(float((noisy.coords - item.coords).std()), 0.1, rel_tol=0.2)


def test_images_turn_in_the_plane(contract):
    ones = FeatureContract.model_validate(
        {"features": [{"name": "ones", "transform": "none", "channels": [_unit("ones")]}]}
    )
    pixels = PointBatch(coords=torch.rand(50, 2), feats=torch.ones(50, 1), offsets=offsets_of([50]))
    turned = augmented(pixels, AugmentConfig(rotate=True), ones, item_generator(0, 0))
    assert torch.allclose(turned.coords.norm(dim=1), pixels.coords.norm(dim=1), atol=1e-5)


def _unit(name: str) -> dict:
    return {"name": name, "low": 1.0, "high": 1.0, "mean": 0.0, "std": 1.0}
