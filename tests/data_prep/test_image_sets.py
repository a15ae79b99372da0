"""PASCAL VOC and Cityscapes as they are released: what image folders hold, and what is skipped by name."""

import json

import numpy as np
import pytest
from PIL import Image

from data_prep import cityscapes, voc
from pcseg.config import TrainConfig, ViTConfig
from pcseg.config_file import load_config
from pcseg.datasets import cityscapes as cityscapes_classes
from pcseg.datasets import voc as voc_classes
from pcseg.datasets.image_folder import find_images
from pcseg.datasets.scene_part import open_sources
from pcseg.datasets.weak_draw import draw_labels
from pcseg.datasets.weak_recipes import ScenesRecipe
from pcseg.errors import InputError
from pcseg.io.scribbles import scribble_mask
from pcseg.train import train
from tests.data_prep.releases import ROOT, content, zipped
from tests.io.scans import left_behind

SIZE = (24, 30)  # height, width


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def codes(seed: int, values=(0, 1, 15, 20, 255)) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, SIZE).astype(np.uint8)


def palette(path, mask) -> None:
    """As VOC stores masks: indices into a palette of colours."""
    image = Image.fromarray(mask, "P")
    image.putpalette([value for index in range(256) for value in (index * 7 % 256, index * 13 % 256, index)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def scribble(*lines) -> str:
    text = "<annotation><filename>x</filename>"
    for name, points in lines:
        text += f"<polygon><tag>{name}</tag>" + "".join(f"<point><X>{x}</X><Y>{y}</Y></point>" for x, y in points)
        text += "</polygon>"
    return text + "</annotation>"


@pytest.fixture
def voc_raw(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    names = [f"2007_00000{index}" for index in range(5)]
    for index, name in enumerate(names):
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index)).save(root / f"JPEGImages/{name}.jpg", quality=95)
        if index < 3:
            palette(root / f"SegmentationClass/{name}.png", codes(index))
    (root / "SegmentationClassAug").mkdir()
    for index in (0, 3):
        Image.fromarray(codes(index)).save(root / f"SegmentationClassAug/{names[index]}.png")
    (root / "scribbles").mkdir()
    for index in (0, 1, 3):
        lines = (("background", [(1, 1), (25, 1)]), ("person", [(5, 12), (20, 12)]))
        (root / f"scribbles/{names[index]}.xml").write_text(scribble(*lines))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"{names[0]}\n{names[1]}\n")
    (lists / "val.txt").write_text(f"{names[2]}\n")
    aug = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in (names[0], names[1], names[3])]
    (lists / "train_aug.txt").write_text("".join(aug))
    return root


def test_voc(voc_raw, tmp_path, command):
    out = tmp_path / "out"
    code, printed, err = command(voc.main, ["--raw", voc_raw, "--out", out])
    assert code == 0, err
    assert "voc (2012, masks): 4 prepared; 2,880 points" in printed
    assert "train: 2 images are listed, 1464 in the release" in printed
    images = find_images(out, ["@train_aug"], voc_classes.CLASS_NAMES, voc_classes.CODES)
    assert [image.name for image in images] == ["2007_000000", "2007_000001", "2007_000003"]
    expected = np.where(codes(3) == 255, -1, codes(3).astype(int)).reshape(-1)
    np.testing.assert_array_equal(images[2].labels, expected)
    assert (out / "images/2007_000001.jpg").read_bytes() == (voc_raw / "JPEGImages/2007_000001.jpg").read_bytes()
    first = content(out)
    code, printed, _ = command(voc.main, ["--raw", voc_raw, "--out", out])
    assert code == 0 and "4 left as it was" in printed and content(out) == first
    archive = zipped(voc_raw.parent, tmp_path / "voc.zip")
    assert command(voc.main, ["--raw", archive, "--out", tmp_path / "two", "--workers", 2])[0] == 0
    assert content(tmp_path / "two") == first
    assert command(voc.main, ["--out", out, "--verify"])[0] == 0
    (out / "masks/2007_000000.png").write_bytes(b"")
    (out / "images/2007_000001.jpg").unlink()
    (out / "records/2007_000002.json").write_text("{")
    code, printed, _ = command(voc.main, ["--out", out, "--verify"])
    assert code == 3 and "has changed" in printed and "is missing" in printed and "is no record" in printed


def objects_of(mask: np.ndarray) -> np.ndarray:
    """The left and the right half of each class of things as an object of its own, 255 where the mask has it."""
    right = np.arange(SIZE[1]) >= SIZE[1] // 2
    numbers = np.select([mask == 1, mask == 15, mask == 20], [1, 3, 5], 0) + (right & np.isin(mask, (1, 15, 20)))
    return np.where(mask == 255, 255, numbers).astype(np.uint8)


def test_voc_objects_come_along(voc_raw, tmp_path, command):
    for index in range(3):
        palette(voc_raw / f"SegmentationObject/2007_00000{index}.png", objects_of(codes(index)))
    out = tmp_path / "out"
    code, _, err = command(voc.main, ["--raw", voc_raw, "--out", out])
    assert code == 0, err
    images = find_images(out, ["@train_aug"], voc_classes.CLASS_NAMES, voc_classes.CODES)
    expected = objects_of(codes(1)).astype(int)
    expected[(expected == 0) | (expected == 255)] = -1
    np.testing.assert_array_equal(images[1].instances, expected.reshape(-1))
    assert images[2].instances is None, "SBD's mask has no objects of VOC"
    scribbled = tmp_path / "scribbled"
    assert command(voc.main, ["--raw", voc_raw, "--out", scribbled, "--labels", "scribbles"])[0] == 0
    assert [file.name for file in (scribbled / "instances").iterdir()] == ["2007_000002.png"], "of the val list"
    wrong = objects_of(codes(1))
    wrong[wrong == 5] = 1
    palette(voc_raw / "SegmentationObject/2007_000001.png", wrong)
    code, printed, err = command(voc.main, ["--raw", voc_raw, "--out", tmp_path / "bad"])
    assert code == 3 and "instance 1 is used in two classes, 20 and 1" in printed + err
    assert not (tmp_path / "bad/masks/2007_000001.png").exists() and (tmp_path / "bad/masks/2007_000000.png").exists()


def test_voc_scribbles(voc_raw, tmp_path, command):
    code, _, err = command(voc.main, ["--raw", voc_raw, "--out", tmp_path / "out", "--labels", "scribbles"])
    assert code == 0, err
    train, val = (
        find_images(tmp_path / "out", [split], voc_classes.CLASS_NAMES, voc_classes.CODES)
        for split in ("@train", "@val")
    )
    labels = train[0].labels.reshape(SIZE)
    assert labels[1, 10] == 0 and labels[12, 10] == 15 and labels[20, 10] == -1
    assert 0.05 < (labels >= 0).mean() < 0.3
    np.testing.assert_array_equal(val[0].labels.reshape(SIZE) == -1, codes(2) == 255)
    code, _, err = command(voc.main, ["--raw", voc_raw, "--out", tmp_path / "out"])
    assert code == 2 and "is that of voc, version 2012, scribbles" in err


def write_points(root, points: dict[str, list[tuple[int, int, int]]], *, folder: str) -> None:
    """Pixels (x, y, segment id) of each image, as the point labels of panoptic segmentation are released."""
    (root / "annotations" / folder).mkdir(parents=True, exist_ok=True)
    for name, pixels in points.items():
        mask = np.zeros((*SIZE, 3), np.uint8)
        for x, y, number in pixels:
            mask[y, x] = number % 256, number // 256 % 256, number // 65536
        Image.fromarray(mask).save(root / f"annotations/{folder}/{name}.png")


@pytest.fixture
def voc_points(voc_raw):
    """Two segments in each image: the background and a person or a tvmonitor, whose ids need two and three bytes."""
    names = ["2007_000000", "2007_000001", "2007_000003"]
    ids = {"background": 1000, "person": 70_000, "tvmonitor": 300}
    categories = [{"id": number, "name": name, "isthing": number > 1} for number, name in enumerate(ids, start=1)]
    table = {"images": [], "annotations": [], "categories": categories}
    for number, name in enumerate(names):
        thing = 2 if number < 2 else 3
        segments = [{"id": 1000, "category_id": 1}, {"id": ids[categories[thing - 1]["name"]], "category_id": thing}]
        table["images"].append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
        table["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    things = dict(zip(names, (70_000, 70_000, 300)))
    write_points(
        voc_raw,
        {name: [(1, 2, 1000), (20, 10, number)] for name, number in things.items()},
        folder="voc_panoptic_train_aug_1pnt_uniform",
    )
    (voc_raw / "annotations/voc_panoptic_train_aug.json").write_text(json.dumps(table))
    return voc_raw


def test_voc_points(voc_points, tmp_path, command):
    code, _, err = command(voc.main, ["--raw", voc_points, "--out", tmp_path / "out", "--labels", "p1"])
    assert code == 0, err
    train, val = (
        find_images(tmp_path / "out", [split], voc_classes.CLASS_NAMES, voc_classes.CODES)
        for split in ("@train_aug", "@val")
    )
    for image, thing in zip(train, (15, 15, 20)):
        labels = image.labels.reshape(SIZE)
        assert labels[2, 1] == 0 and labels[10, 20] == thing and (labels >= 0).sum() == 2
    np.testing.assert_array_equal(val[0].labels.reshape(SIZE) == -1, codes(2) == 255)


def test_voc_points_that_do_not_fit(voc_points, tmp_path, command):
    folder = voc_points / "annotations/voc_panoptic_train_aug_1pnt_uniform"
    write_points(voc_points, {"2007_000000": [(0, 0, 5)]}, folder=folder.name)
    (folder / "2007_000001.png").write_bytes((folder / "2007_000001.png").read_bytes()[:60])
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "2007_000003.png")
    code, _, err = command(voc.main, ["--raw", voc_points, "--out", tmp_path / "out", "--labels", "p1"])
    assert code == 3 and "segment 5 is not in the JSON" in err and "2007_000001.png: no whole PNG" in err
    assert "is RGB, 9 x 9; segment ids are RGB, and the image has 30 x 24 pixels" in err
    code, _, err = command(voc.main, ["--raw", voc_points, "--out", tmp_path / "ten", "--labels", "p10"])
    assert code == 2 and "holds 0 point labels and 1 files voc_panoptic_train_aug.json" in err
    table = voc_points / "annotations/voc_panoptic_train_aug.json"
    table.write_text(table.read_text().replace("tvmonitor", "ghost"))
    code, _, err = command(voc.main, ["--raw", voc_points, "--out", tmp_path / "ten", "--labels", "p1"])
    assert code == 2 and "'ghost' is no class of VOC" in err


@pytest.mark.parametrize("method", ["erda", "soft_self_label", "ipixmatch"])
@pytest.mark.parametrize("data_set", ["voc", "cityscapes"])
def test_the_shipped_configs_for_few_labels_train(voc_raw, tmp_path, command, data_set, method):
    """On VOC's small release: the two have the network in common, and the classes of their own."""
    assert command(voc.main, ["--raw", voc_raw, "--out", tmp_path / "out", "--quiet"])[0] == 0
    config = load_config(ROOT / f"configs/{data_set}/deeplab_resnet101_{method}.py")
    values = config.model_dump()
    values["data"] |= {"root": tmp_path / "out", "weak_labels": tmp_path / "mask.npz", "val_scenes": ("@val",)}
    values["data"] |= {"train_scenes": ("@train",), "class_names": voc_classes.CLASS_NAMES}
    values["data"]["label_map"] = voc_classes.CODES
    values["data"]["crop"]["window"] = 16
    values["model"] = ViTConfig(hidden=32, layers=1, heads=2, patch_size=2, image_size=16).model_dump()
    values |= {"steps": 2, "batch_size": 2, "eval_protocol": "full/votes=1/scene"}
    run = TrainConfig.model_validate(values)
    draw_labels(open_sources(run.data, ("@train",)), ScenesRecipe(count=1), seed=0).save(tmp_path / "mask.npz")
    assert run.method.kind == method
    train(run, tmp_path / "run", device="cpu")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["num_points"] > 0


def test_voc_damage(voc_raw, tmp_path, command):
    Image.fromarray(codes(0)[:-1]).save(voc_raw / "SegmentationClass/2007_000000.png")
    palette(voc_raw / "SegmentationClass/2007_000001.png", codes(1, (0, 21)))
    (voc_raw / "JPEGImages/2007_000002.jpg").unlink()
    (voc_raw / "SegmentationClassAug/2007_000003.png").unlink()
    for options in (["--out", tmp_path / "out"], ["--check"]):
        code, printed, err = command(voc.main, ["--raw", voc_raw, *options])
        assert code == 3 and "4 skipped" in printed
        for message in (
            "has the class code 21",
            "skipped 2007_000002: is in the lists, but has no JPEGImages/2007_000002.jpg",
            "2007_000003.jpg: is in train_aug, but has no mask",
        ):
            assert message in err
        assert "2007_000000.png: has " in err
    assert left_behind(tmp_path / "out") == ["data_set.json", "splits"]
    (voc_raw / "ImageSets/Segmentation/val.txt").write_text("2007_000000\nnothing here\n")
    code, _, err = command(voc.main, ["--raw", voc_raw, "--out", tmp_path / "out"])
    assert code == 2 and "val.txt: line 2: 'nothing here' names no image" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><polygon>", "line 1: no XML"),
        (scribble(("ghost", [(1, 2)])), "line 0 is of 'ghost'; the classes are a"),
        (scribble(("a", [("one", 2)])), "line 0: a point needs the numbers X and Y"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>&a;</annotation>', "declares a document type or entities"),
    ],
)
def test_scribbles_that_cannot_be_drawn(text, message):
    with pytest.raises(InputError, match=message):
        scribble_mask(text.encode(), "a.xml", SIZE, {"a": 1})


def test_a_single_point_is_a_pixel():
    mask = scribble_mask(scribble(("a", [(3, 4)])).encode(), "a.xml", SIZE, {"a": 1})
    assert mask[4, 3] == 1 and (mask == 1).sum() == 1 and mask.shape == SIZE


def test_cityscapes(tmp_path, command):
    raw = tmp_path / "cityscapes"
    for seed, (split, city) in enumerate((("train", "aachen"), ("val", "ulm"), ("test", "bonn"))):
        name = f"{city}_000000_00001{seed}"
        for kind, end, values in (("leftImg8bit", "leftImg8bit", picture(seed)), ("gtFine", "gtFine_labelIds", None)):
            folder = raw / kind / split / city
            folder.mkdir(parents=True)
            made = codes(seed, (0, 7, 26, 33, 255)) if values is None else values
            Image.fromarray(made).save(folder / f"{name}_{end}.png")
    out = tmp_path / "out"
    code, printed, err = command(cityscapes.main, ["--raw", raw, "--out", out])
    assert code == 0, err
    assert "cityscapes (fine): 3 prepared" in printed and "train: 1 of 2975 images are here" in printed
    assert left_behind(out / "masks") == ["aachen_000000_000010.png", "ulm_000000_000011.png"]
    found = find_images(out, ["@val"], cityscapes_classes.CLASS_NAMES, cityscapes_classes.CODES)[0]
    table = {0: -1, 255: -1, 7: 0, 26: 13, 33: 18}
    expected = [table[code] for code in codes(1, (0, 7, 26, 33, 255)).reshape(-1).tolist()]
    np.testing.assert_array_equal(found.labels, expected)
    assert len(cityscapes_classes.CLASS_NAMES) == 19 and len(voc_classes.CLASS_NAMES) == 21
    (raw / "gtFine/train/aachen/aachen_000000_000010_gtFine_labelIds.png").unlink()
    code, printed, err = command(cityscapes.main, ["--raw", raw, "--out", tmp_path / "b"])
    assert code == 3 and "is in the train part, but has no mask" in err and "2 prepared, 1 skipped" in printed
    (tmp_path / "none").mkdir()
    assert command(cityscapes.main, ["--raw", tmp_path / "none", "--out", tmp_path / "c"])[0] == 2
