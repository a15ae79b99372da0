"""Instances on their way from files of every kind into batches."""

import json

import numpy as np
import pytest
import torch

from pcseg.batch import IGNORE, cat
from pcseg.config import AugmentConfig, CropConfig
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.hidden_labels import HiddenLabels
from pcseg.datasets.image_folder import find_images
from pcseg.datasets.panoptic_images import find_panoptic_images
from pcseg.datasets.scene_part import ScenePart, open_sources, training_parts
from pcseg.datasets.views import CropDataset
from pcseg.datasets.voxel_scene import VoxelScene
from pcseg.datasets.weak_objects import objects_of
from pcseg.datasets.windows import WindowDataset
from pcseg.errors import InputError
from pcseg.io.coco_panoptic import read_index
from pcseg.io.images import write_mask
from pcseg.segments import Segments
from tests.data.grids import noise_image, unit_contract
from tests.data.pictures import CLASSES, LABEL_MAP, SAMPLES, data_config, write_picture
from tests.data.scenes import write_scene

EXCERPT = SAMPLES / "coco_panoptic"


def excerpt(*patterns: str, **change):
    categories = read_index(EXCERPT / "panoptic_val2017.json").categories
    names = [category.name for category in categories]
    label_map = {category.id: number for number, category in enumerate(categories)} | change.get("label_map", {})
    return find_panoptic_images(EXCERPT, patterns, names, label_map), names


# COCO's layout


def test_a_panoptic_image_has_the_classes_and_instances_of_its_segments():
    images, names = excerpt("val2017/*")
    assert len(images) == 12 and images[0].path.parent.name == "val2017"
    assert sum(images[0].is_thing) == 80 and images[0].column("color").shape == (images[0].num_points, 3)
    crowds = 0
    for image in images:
        truth = image.segments
        again = Segments.from_rows(image.labels, image.instances, image.is_thing)
        assert image.labels.dtype == np.int16 and image.instances.dtype == np.int32
        assert sorted(zip(again.classes, again.crowd, again.areas)) == sorted(
            zip(truth.classes, truth.crowd, truth.areas)
        ), "rows say all that segments say, where a class has one crowd and a stuff class one segment"
        crowds += int(again.crowd.sum())
        assert image.class_names == tuple(names)
    assert crowds == 2
    (same,), _ = excerpt("000000000285")
    assert same.name == "000000000285" and excerpt("train2017/*", "*")[0][12].path.parent.name == "val2017"


def test_a_run_opens_panoptic_images_by_its_config():
    categories = read_index(EXCERPT / "panoptic_train2017.json").categories
    person = next(c.id for c in categories if c.name == "person")
    label_map = {c.id: (1 if c.id == person else 0) if c.isthing else -1 for c in categories}
    config = data_config(EXCERPT, "panoptic", label_map=label_map, train_scenes=("train2017/*",), features=("color",))
    sources = open_sources(config, ["train2017/000000000257"])
    assert np.unique(sources[0].labels).tolist() == [-1, 0, 1] and (sources[0].instances >= 0).any()
    parts = training_parts(config.model_copy(update={"train_scenes": ("train2017/000000000257",)}))
    item = WindowDataset(parts, FeatureContract.fit(("color",), sources), CropConfig(window=64), seed=0)[0]
    assert item.instances is not None and item.labels is not None
    assert (item.instances[item.labels == IGNORE] == IGNORE).all()


def test_what_does_not_fit_is_told(tmp_path):
    with pytest.raises(InputError, match=r"holds no panoptic_SPLIT\.json"):
        find_panoptic_images(tmp_path, ["*"], CLASSES, {})
    with pytest.raises(InputError, match=r"no image matches 'test2017/\*'; there are train2017/000000000030"):
        excerpt("test2017/*")
    with pytest.raises(InputError, match="stands for 'person', a thing, and 'banner', stuff"):
        excerpt("*", label_map={92: 0})
    categories = read_index(EXCERPT / "panoptic_val2017.json").categories
    with pytest.raises(InputError, match="label_map lacks the categories 1, 2, 3"):
        find_panoptic_images(EXCERPT, ["*"], [c.name for c in categories], {})
    table = json.loads((EXCERPT / "panoptic_val2017.json").read_text())
    for split in ("a", "b"):
        (tmp_path / f"panoptic_{split}.json").write_text(json.dumps(table))
    arguments = ([c.name for c in categories], {c.id: n for n, c in enumerate(categories)})
    with pytest.raises(InputError, match="a/000000000285 and b/000000000285 have one name"):
        find_panoptic_images(tmp_path, ["*"], *arguments)
    with pytest.raises(InputError, match=r"a/000000000285\.jpg: no such picture"):
        find_panoptic_images(tmp_path, ["a/*"], *arguments)


# Other folders


def test_an_image_folder_numbers_its_objects(tmp_path):
    write_picture(tmp_path, "a", (24, 32))
    (scene,) = find_images(tmp_path, ["*"], CLASSES, LABEL_MAP)
    assert scene.instances is None
    (tmp_path / "instances").mkdir()
    labels = scene.labels.reshape(24, 32)
    objects = np.where(labels == 1, np.where(np.arange(32) < 14, 3, 4), 0)
    objects[0] = 9  # void
    write_mask(tmp_path / "instances" / "a.png", objects)
    (scene,) = find_images(tmp_path, ["*"], CLASSES, LABEL_MAP)
    np.testing.assert_array_equal(
        scene.instances.reshape(24, 32), np.where((objects > 0) & (labels >= 0), objects, IGNORE)
    )
    objects[10:14] = 3
    write_mask(tmp_path / "instances" / "a.png", objects)
    (scene,) = find_images(tmp_path, ["*"], CLASSES, LABEL_MAP)
    with pytest.raises(InputError, match=r"instances/a\.png: the instance 3 is used in two classes, 0 and 1|1 and 0"):
        _ = scene.instances


def test_a_scene_folder_has_its_column(tmp_path):
    coords = np.zeros((4, 3))
    ids = np.array([-1, 3, 3, 8], np.int32)
    scene = write_scene(tmp_path / "a", coords, labels=np.array([0, 1, 1, 1]), class_names=CLASSES, instances=ids)
    np.testing.assert_array_equal(scene.instances, ids)
    np.testing.assert_array_equal(ScenePart(scene, np.array([1, 3])).instances, [3, 8])
    assert ScenePart(write_scene(tmp_path / "b", coords)).instances is None
    bad = write_scene(tmp_path / "c", coords, instances=ids.astype(np.float32))
    with pytest.raises(InputError, match="must be one signed integer a point, got float32"):
        _ = bad.instances
    hidden = HiddenLabels(scene, np.array([3]))
    assert (
        hidden.instances.tolist() == [-1, -1, -1, 8]
        and HiddenLabels(bad.open(tmp_path / "b"), np.array([0])).instances is None
    )


def test_objects_to_click_are_the_instances_of_images_too():
    labels = np.zeros(64, np.int16)
    grid = noise_image(8, 8, labels=labels, instances=np.repeat([0, 1, IGNORE, 1], 16).astype(np.int32))
    assert len(np.unique(objects_of(grid, None))) == 3, "two things, and the component of the others"


# Batches


def two_scenes(tmp_path):
    """Cells of 1 m with points of several labels and instances; the second scene has no instances."""
    coords = np.repeat([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [2.5, 0.5, 0.5]], 4, axis=0)
    labels = np.array([1, 1, 0, 1, 0, 0, 0, 1, -1, -1, -1, -1])
    instances = np.array([7, 7, 2, 4, -1, -1, 2, 7, 5, 5, 6, -1], np.int32)
    color = np.zeros((12, 3), np.uint8)
    first = write_scene(tmp_path / "a", coords, labels=labels, class_names=CLASSES, instances=instances, color=color)
    return first, write_scene(tmp_path / "b", coords, labels=labels, class_names=CLASSES, color=color)


def test_a_voxel_has_an_instance_of_its_own_label(tmp_path):
    scene, other = two_scenes(tmp_path)
    contract = unit_contract()
    built = VoxelScene.build(scene, contract, 1.0)
    assert built.labels.tolist() == [1, 0, IGNORE] and built.instances.tolist() == [7, 2, 5]
    visible = np.isin(np.arange(12), [3, 4, 10])
    seen = VoxelScene.build(scene, contract, 1.0, visible=visible)
    assert seen.labels.tolist() == [1, 0, IGNORE] and seen.instances.tolist() == [4, IGNORE, 6]
    hidden = VoxelScene.build(HiddenLabels(scene, np.flatnonzero(visible)), contract, 1.0)
    assert hidden.instances.tolist() == seen.instances.tolist()
    assert VoxelScene.build(other, contract, 1.0).instances is None


def test_crops_of_scenes_with_and_without_instances_make_one_batch(tmp_path):
    contract = unit_contract()
    scenes = [VoxelScene.build(scene, contract, 1.0) for scene in two_scenes(tmp_path)]
    items = CropDataset(scenes, contract, CropConfig(max_voxels=3), AugmentConfig(rotate=True, jitter=0.1), seed=1)
    batch = cat([items[index] for index in range(12)])
    known = torch.cat([scenes[0].instances, torch.full((3,), IGNORE)])
    assert torch.equal(batch.instances, known[batch.rows]) and len(torch.unique(batch.rows)) == 6
    assert CropDataset(scenes[1:], contract, CropConfig(max_voxels=3), seed=1)[0].instances is None


def test_windows_carry_the_instance_of_the_pixel_that_a_cell_stands_for():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400).astype(np.int16)
    instances = np.where(labels == 1, np.arange(400), IGNORE).astype(np.int32)
    first = noise_image(20, 20, labels=labels, instances=instances)
    second = noise_image(20, 20, 1, labels=labels, name="second")
    augment = AugmentConfig(rotate=True, flip=0.5, scale=(0.7, 1.4))
    items = WindowDataset(
        [ScenePart(first), ScenePart(second)], unit_contract(), CropConfig(window=12), augment, seed=3
    )
    known = torch.cat([torch.from_numpy(instances).long(), torch.full((400,), IGNORE)])
    both = set()
    for index in range(10):
        item = items[index]
        inside = item.labels != IGNORE
        assert torch.equal(item.instances[inside], known[item.rows[inside]])
        assert (item.instances[~inside] == IGNORE).all()
        both |= set((item.rows // 400).tolist())
    assert both == {0, 1}
    part = ScenePart(first, np.arange(200))
    item = WindowDataset([part], unit_contract(), CropConfig(window=20), seed=3)[0]
    assert (item.instances[item.rows >= 200] == IGNORE).all() and (item.instances[item.rows < 200] >= 0).any()
    assert WindowDataset([ScenePart(second)], unit_contract(), CropConfig(window=8), seed=0)[0].instances is None
