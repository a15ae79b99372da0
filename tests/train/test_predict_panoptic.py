"""Pictures in, segments in COCO's panoptic format out: what is written reads back and is scored as it was predicted."""

import json

import numpy as np
import pytest
from PIL import Image

from pcseg.datasets.panoptic_images import find_panoptic_images
from pcseg.evaluate import validation_parts
from pcseg.io.coco_panoptic import read_index, read_segments
from pcseg.io.images import read_image
from pcseg.io.palette import class_colors, thing_colors
from pcseg.io.render import outlines
from pcseg.metrics.panoptic import PanopticCounts, panoptic_counts, panoptic_scores
from pcseg.panoptic_inference import evaluate_panoptic, segment_part
from pcseg.predict import main
from pcseg.predictor import Predictor
from tests.train.toy_panoptic import CATEGORIES, CLASSES, CODES, THINGS, toy_scene


def test_pictures_become_a_panoptic_folder(mask2former_run, panoptic_images, tmp_path, command):
    pictures = sorted((panoptic_images / "val2017").iterdir())
    code, out, err = command(main, [mask2former_run, *pictures, "-o", tmp_path / "out"])
    assert code == 0, err
    assert f"{tmp_path}/out/panoptic.json: things and stuff in COCO's panoptic format" in out
    names = {"_confidence.png", "_overlay.png", ".png"}
    files = {f"val_{number}{name}" for number in (0, 1) for name in names} | {"panoptic", "panoptic.json"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files
    index = read_index(tmp_path / "out" / "panoptic.json")
    assert index.categories == CATEGORIES, "ids are the codes of the source"
    predictor = Predictor.load(mask2former_run)
    parts = validation_parts(predictor.card.config.data)
    counts = PanopticCounts.none(len(CLASSES))
    for part in parts:
        record = index.records[part.name]
        assert (record.height, record.width) == part.scene.grid_shape and record.image_file == f"{part.name}.png"
        found, (expected, _) = read_segments(record, CODES), segment_part(predictor, part)
        np.testing.assert_array_equal(found.labels, expected.labels)
        pairs = np.unique(np.stack([found.ids, expected.ids]), axis=1)
        assert pairs.shape[1] == len(np.unique(expected.ids)), "the same rows together"
        (truth,) = find_panoptic_images(panoptic_images, [f"val2017/{part.name}"], CLASSES, CODES)
        counts += panoptic_counts(found, truth.segments, len(CLASSES))
    scored = panoptic_scores(counts, THINGS)
    assert scored.overall.pq == pytest.approx(evaluate_panoptic(predictor, parts).scores.overall.pq) and (
        scored.overall.pq > 0.4
    )


def test_images_named_by_numbers_have_these_as_ids(mask2former_run, tmp_path, command):
    Image.fromarray(toy_scene(0)[0]).save(tmp_path / "000000000285.png")
    Image.fromarray(toy_scene(1)[0]).save(tmp_path / "street.png")
    inputs = [tmp_path / "000000000285.png", tmp_path / "street.png"]
    code, _, err = command(main, [mask2former_run, *inputs, "-o", tmp_path / "out", "--no-pictures"])
    assert code == 0, err
    table = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [image["id"] for image in table["images"]] == [285, "street"]
    assert [image["file_name"] for image in table["images"]] == ["000000000285.png", "street.png"]
    assert not (tmp_path / "out" / "street_overlay.png").exists()


def test_an_overlay_shows_things_in_shades_of_their_class(mask2former_run, tmp_path, command):
    image, _ = toy_scene(5)
    Image.fromarray(image).save(tmp_path / "a.png")
    code, _, err = command(main, [mask2former_run, tmp_path / "a.png", "-o", tmp_path / "out" / "b.png"])
    assert code == 0, err
    assert (tmp_path / "out" / "b_panoptic.json").exists() and (tmp_path / "out" / "b_panoptic" / "a.png").exists()
    found = read_segments(read_index(tmp_path / "out" / "b_panoptic.json").records["a"], CODES)
    overlay = read_image(tmp_path / "out" / "b_overlay.png").astype(int)
    lines = outlines(found.ids.reshape(48, 56))
    assert lines.any() and (overlay[lines] == 255).all()
    colors = class_colors(CLASSES)
    ground = (found.labels.reshape(48, 56) == 0) & ~lines
    assert np.abs(overlay[ground] - (image[ground].astype(int) + colors[0]) / 2).max() <= 1
    void = (found.ids.reshape(48, 56) < 0) & ~lines
    np.testing.assert_array_equal(overlay[void], image[void])
    seen = set()
    for number in np.flatnonzero(found.classes > 0):
        inside = (found.ids.reshape(48, 56) == number) & ~lines
        color = np.median(2 * overlay[inside] - image[inside].astype(int), axis=0)
        seen.add(tuple((color // 4).astype(int)))
    assert len(seen) == (found.classes > 0).sum() > 1, "no two alike"


def test_former_segments_are_not_replaced(mask2former_run, tmp_path, command):
    Image.fromarray(toy_scene(0)[0]).save(tmp_path / "a.png")
    (tmp_path / "out" / "panoptic").mkdir(parents=True)
    code, out, err = command(main, [mask2former_run, tmp_path / "a.png", "-o", tmp_path / "out"])
    assert code == 2 and not out and err.count("\n") == 1
    assert "panoptic: exists already, perhaps with segments of other pictures; choose another -o" in err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["panoptic"]


def test_bad_pictures_do_not_stop_the_good_ones(mask2former_run, tmp_path, command):
    Image.fromarray(toy_scene(0)[0]).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("hello")
    inputs = [tmp_path / "text.png", tmp_path / "a.png"]
    code, _, err = command(main, [mask2former_run, *inputs, "-o", tmp_path / "out"])
    assert code == 2 and "text.png: is no picture" in err and "1 of 2 images done" in err
    assert list(read_index(tmp_path / "out" / "panoptic.json").records) == ["a"]
    code, _, _ = command(main, [mask2former_run, tmp_path / "text.png", "-o", tmp_path / "none"])
    assert code == 2 and not list((tmp_path / "none").iterdir()), "nothing was done, nothing is there"


def test_things_of_a_class_keep_its_hue_and_differ():
    import colorsys

    colors = class_colors(["car", "tree", "road", "ball"])
    kinds = np.array([0] * 15 + [1] + [3] * 6)
    found = thing_colors(kinds, colors)
    np.testing.assert_array_equal(found[15], colors[1])
    for kind, least in ((0, 16), (3, 30)):
        own = found[kinds == kind].astype(int)
        apart = np.abs(own[:, None] - own[None]).max(2) + 999 * np.eye(len(own), dtype=int)
        assert apart.min() >= least
        hue = colorsys.rgb_to_hls(*(colors[kind] / 255))[0]
        turned = [abs(colorsys.rgb_to_hls(*(color / 255))[0] - hue) for color in own]
        assert max(min(turn, 1 - turn) for turn in turned) < 0.03
    assert thing_colors(np.zeros(0, int), colors).shape == (0, 3)
