"""Image folders: pixels as rows, masks as labels, one clear line where something is wrong, and training on them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pcseg.config import CropConfig, KPConvConfig, StripConfig, TrainConfig
from pcseg.datasets.array_cache import ArrayCache
from pcseg.datasets.color import unit_colors
from pcseg.datasets.feature_contract import COLORS, OPPONENT, FeatureContract
from pcseg.datasets.image_folder import find_images, read_classes
from pcseg.datasets.scene_part import hold_out_strip, open_sources, training_parts, validation_parts
from pcseg.datasets.views import CropDataset
from pcseg.datasets.voxel_scene import VoxelScene, check_trainable
from pcseg.errors import InputError
from pcseg.io import images as image_files
from pcseg.io.images import write_mask
from pcseg.train import train
from tests.data.pictures import CLASSES, LABEL_MAP, SAMPLES, data_config, write_picture


def find(root, patterns=("*",), label_map=LABEL_MAP):
    return find_images(root, patterns, CLASSES, label_map)


def test_an_image_is_a_row_source(tmp_path):
    write_picture(tmp_path, "a", (20, 30))
    (scene,) = find(tmp_path)
    assert (scene.name, scene.num_points, scene.grid_shape) == ("a", 600, (20, 30))
    assert scene.class_names == CLASSES and scene.column_names == ("color",)
    assert scene.coords.dtype == np.float32 and scene.coords[2 * 30 + 7].tolist() == [7.0, 2.0]
    with Image.open(tmp_path / "images" / "a.png") as picture:
        np.testing.assert_array_equal(scene.column("color").reshape(20, 30, 3), np.asarray(picture))
    labels = scene.labels.reshape(20, 30)
    assert labels.dtype == np.int16 and (labels[0] == -1).all() and (labels == 1).sum() == 100
    with pytest.raises(InputError, match=r"a\.png: has no column 'intensity'; images have color"):
        scene.column("intensity")
    assert open_sources(data_config(tmp_path, "images"), ["a"]) == [scene]


def test_names_follow_the_patterns_and_sizes_are_read_without_decoding(tmp_path, monkeypatch):
    for name in ("b", "a", "c"):
        write_picture(tmp_path, name)
    Image.new("L", (5, 5)).save(tmp_path / "images" / "D.JPG")
    (tmp_path / "images" / ".hidden.png").touch()
    (tmp_path / "images" / "notes.txt").touch()
    monkeypatch.setattr(image_files, "_decoded", None)
    assert [s.name for s in find(tmp_path, ["c", "*"])] == ["c", "D", "a", "b"]
    assert find(tmp_path, ["D"])[0].grid_shape == (5, 5) and find(tmp_path, ["D"])[0].labels is None
    with pytest.raises(InputError, match=r"images: no image matches 'x\*'; there are D, a, b, c"):
        find(tmp_path, ["x*"])


def test_arrays_are_decoded_once_while_they_fit(tmp_path, monkeypatch):
    for name in "abc":
        write_picture(tmp_path, name)
    calls = []
    decode = image_files._decoded
    monkeypatch.setattr(image_files, "_decoded", lambda path, image: calls.append(path.name) or decode(path, image))
    scenes = find(tmp_path)
    for _ in range(3):
        for scene in scenes:
            scene.column("color"), scene.labels
    assert len(calls) == 6
    with pytest.raises(ValueError, match="read-only"):
        scenes[0].column("color")[0] = 0
    cache = ArrayCache(max_bytes=250)
    first = cache.get("a", lambda: np.zeros(100, np.uint8))
    cache.get("b", lambda: np.ones(100, np.uint8))
    assert cache.get("a", lambda: np.ones(0)) is first
    cache.get("c", lambda: np.ones(100, np.uint8))  # b is the oldest
    assert cache.num_bytes == 200 and cache.get("a", lambda: np.ones(0)) is first
    assert len(cache.get("b", lambda: np.ones(7))) == 7
    cache.get("big", lambda: np.zeros(1000))
    assert cache.num_bytes <= 250


# What is wrong is said


def test_an_image_without_a_mask_cannot_teach(tmp_path):
    write_picture(tmp_path, "a")
    write_picture(tmp_path, "b", mask=False)
    scenes = find(tmp_path)
    check_trainable(scenes[:1], CLASSES)
    with pytest.raises(InputError, match=r"b\.png: has no labels to train on; add masks/b\.png .* leave 'b' out of"):
        check_trainable(scenes, CLASSES)


def test_a_mask_of_another_size_is_refused(tmp_path):
    write_picture(tmp_path, "a")
    write_mask(tmp_path / "masks" / "a.png", np.zeros((32, 24), int))
    message = r"masks/a\.png: has 24 x 32 pixels, the image a\.png has 32 x 24 \(upright, .*\); give it the image's"
    with pytest.raises(InputError, match=message):
        _ = find(tmp_path)[0].labels


def test_a_code_outside_the_map_is_named_with_its_pixel(tmp_path):
    write_picture(tmp_path, "a")
    with pytest.raises(InputError, match=r"masks/a\.png: pixel \(0, 0\) has the class code 255, which label_map lacks"):
        _ = find(tmp_path, label_map={0: 0, 7: 1})[0].labels
    codes = np.zeros((24, 32), int)
    codes[3, 5] = 9
    write_mask(tmp_path / "masks" / "a.png", codes)
    with pytest.raises(InputError, match=r"pixel \(5, 3\) has the class code 9, .* add it to data\.label_map"):
        check_trainable(find(tmp_path), CLASSES)


def test_names_that_are_there_twice_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match=r"has no folder 'images'; put the images into"):
        find(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"images: holds no image; give files that end in \.jpg"):
        find(tmp_path)
    write_picture(tmp_path, "a")
    Image.new("L", (5, 5)).save(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg and a\.png have one name; rename or remove one"):
        find(tmp_path)


def test_a_damaged_image_is_refused_where_it_is_read(tmp_path):
    write_picture(tmp_path, "a")
    path = tmp_path / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"images/a\.png: is damaged"):
        FeatureContract.fit(("color",), find(tmp_path))


def test_turned_pictures_have_turned_sizes(tmp_path):
    write_picture(tmp_path, "a", (24, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "images" / "a.png") as picture:
        picture.save(tmp_path / "images" / "a.png", exif=exif)
    (scene,) = find(tmp_path)
    assert scene.grid_shape == (32, 24) and scene.column("color").shape == (768, 3)
    with pytest.raises(InputError, match="upright, as its EXIF orientation says"):
        _ = scene.labels


# classes.json


def test_classes_json_brings_colours_and_ignored_codes(tmp_path):
    write_picture(tmp_path, "a", (20, 20))
    (tmp_path / "classes.json").write_text('{"0": "field", "7": "house", "255": "ignore"}')
    (scene,) = find(tmp_path, label_map={0: 0, 7: 1})
    assert scene.labels.min() == -1
    table = {"0": {"name": "field", "color": "#3C1098"}, "7": {"name": "house", "color": [132, 41, 246]}}
    (tmp_path / "classes.json").write_text(json.dumps(table))
    colors = np.zeros((20, 20, 3), np.uint8)
    colors[:], colors[4, 5] = (60, 16, 152), (132, 41, 246)
    Image.fromarray(colors).save(tmp_path / "masks" / "a.png")
    labels = find(tmp_path)[0].labels
    assert labels[4 * 20 + 5] == 1 and labels.sum() == 1
    colors[9, 2] = (1, 2, 3)
    Image.fromarray(colors).save(tmp_path / "masks" / "a.png")
    with pytest.raises(InputError, match=r"masks/a\.png: pixel \(2, 9\) has the colour \(1, 2, 3\)"):
        _ = find(tmp_path)[0].labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "expected {"),
        ('{"x": "field"}', "'x': expected a code"),
        ('{"0": 5}', "'0': expected a code"),
        ('{"0": {"name": "a", "color": [0, 0]}}', "no color"),
        ('{"0": {"name": "a", "color": [0, 0, 0]}, "1": {"name": "b", "color": "#000000"}}', "there twice"),
        ('{"0": {"name": "a", "color": [0, 0, 0]}, "1": "b"}', "only 1 of 2 codes have a color"),
    ],
)
def test_a_classes_json_that_says_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(InputError, match=rf"classes\.json: .*{message}"):
        read_classes(tmp_path / "classes.json")


# Features, strips, crops and training


def test_colour_scales(tmp_path):
    for seed, name in enumerate("ab"):
        write_picture(tmp_path, name, seed=seed)
    deep = np.random.default_rng(0).integers(0, 65536, (24, 32)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "images" / "deep.png")
    scenes = find(tmp_path)
    contract = FeatureContract.fit(("color",), scenes)
    feats = np.concatenate([contract.feats(scene) for scene in scenes])
    assert np.abs(feats.mean(0)).max() < 0.01 and np.abs(feats.std(0) - 1).max() < 0.01
    fixed = FeatureContract.fit(("imagenet_color",), scenes)
    assert fixed.columns == ("color",) and fixed.channel_names[0] == "imagenet_color_red"
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for scene, largest in zip(scenes, (255, 255, 65535), strict=True):
        np.testing.assert_allclose(fixed.feats(scene), (scene.column("color") / largest - mean) / std, atol=1e-5)
    assert FeatureContract.from_values(fixed.model_dump(mode="json"), where="x") == fixed
    one = FeatureContract.fit(("imagenet_color",), scenes[:1])
    assert one == fixed  # whatever the training images hold


def test_opponent_colours_have_a_scale_each(tmp_path):
    """Red and blue lie a tenth as far apart as dark and bright do; as opponents they weigh the same."""
    write_picture(tmp_path, "a")
    rng = np.random.default_rng(0)
    bright, hue = rng.uniform(60, 190, (24, 32)), rng.normal(0, 6, (24, 32))
    pixels = np.stack([bright + hue, bright, bright - hue], 2).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    scenes = find(tmp_path)
    contract = FeatureContract.fit(("opponent_color",), scenes)
    assert contract.columns == ("color",) and contract.channel_names[1] == "opponent_color_red_blue"
    feats, rgb = contract.feats(scenes[0]), pixels.reshape(-1, 3) / 255.0
    assert np.abs(feats.mean(0)).max() < 0.01 and np.abs(feats.std(0) - 1).max() < 0.01
    assert np.corrcoef(feats[:, 1], rgb[:, 0] - rgb[:, 2])[0, 1] > 0.999
    assert np.corrcoef(feats[:, 0], rgb.mean(1))[0, 1] > 0.999
    assert abs(np.corrcoef(feats[:, 0], feats[:, 1])[0, 1]) < 0.1
    undone = unit_colors(torch.from_numpy(feats), contract.features[0]).numpy()
    assert (np.abs(undone - rgb).max(1) < 1e-5).mean() > 0.99  # all but the tails, which are clipped


@pytest.mark.parametrize("name", COLORS)
def test_unscaled_colours_run_from_0_to_1(tmp_path, name):
    write_picture(tmp_path, "a")
    (scene,) = find(tmp_path)
    rgb = scene.column("color").reshape(-1, 3) / 255.0
    expected = rgb @ np.array(OPPONENT).T if name == "opponent_color" else rgb
    np.testing.assert_allclose(FeatureContract.unscaled((name,), scene).feats(scene), expected, atol=1e-6)


def test_voxels_of_an_image_are_its_cells(tmp_path):
    write_picture(tmp_path, "a", (24, 32))
    (scene,) = find(tmp_path)
    contract = FeatureContract.fit(("color",), [scene])
    fine, coarse = VoxelScene.build(scene, contract, 1.0), VoxelScene.build(scene, contract, 4.0)
    assert fine.num_voxels == 768 and (fine.point_counts == 1).all()
    assert coarse.num_voxels == 48 and (coarse.point_counts == 16).all() and coarse.coords[0].tolist() == [1.5, 1.5]
    item = CropDataset([coarse], contract, CropConfig(max_voxels=20), seed=0)[3]
    assert item.coords.shape == (20, 2) and item.feats.shape == (20, 3)


def test_a_strip_of_each_image_is_held_out(tmp_path):
    write_picture(tmp_path, "a", (24, 32))
    write_picture(tmp_path, "b", (30, 20))
    train, held = hold_out_strip(find(tmp_path)[0], StripConfig(fraction=0.25, margin=3))
    assert train.coords[:, 0].max() < 24 - 3 and held.coords[:, 0].min() >= 23
    assert 0.2 < held.num_points / 768 < 0.35 and train.labels is not None
    data = data_config(tmp_path, "images", strip=StripConfig(axis="y", fraction=0.25))
    assert [p.name for p in training_parts(data)] == ["a.rest", "b.rest"]
    assert all(len(p.coords) == p.num_points > 0 for p in validation_parts(data))


def test_kpconv_trains_on_images(tmp_path):
    for seed, name in enumerate("abc"):
        write_picture(tmp_path, name, seed=seed)
    config = TrainConfig(
        name="toy",
        data=data_config(tmp_path, "images", crop=CropConfig(max_voxels=150)),
        model=KPConvConfig(dim=2, voxel_size=2.0, num_levels=2, width=16),
        steps=6,
        batch_size=2,
    )
    torch.manual_seed(0)
    train(config, tmp_path / "run", device="cpu")
    from pcseg.checkpoint import load_checkpoint

    card = load_checkpoint(tmp_path / "run").card
    assert card.finished and card.in_channels == 3 and card.step == 6


def test_the_shipped_images_have_masks_of_known_codes():
    labels = {code: code for code in range(5)}
    scenes = find_images(SAMPLES / "dubai_aerial", ["*"], ("building", "land", "road", "vegetation", "water"), labels)
    assert len(scenes) == 72 and max(max(scene.grid_shape) for scene in scenes) == 768
    counts = np.zeros(6, np.int64)
    for scene in scenes[::9]:
        assert scene.labels is not None and len(scene.labels) == scene.num_points == len(scene.column("color"))
        counts += np.bincount(scene.labels + 1, minlength=6)
    assert (counts[1:] > 0).all()
