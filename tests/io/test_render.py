"""Pictures and coloured clouds: what they show, and that they appear whole or not at all."""

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from pcseg.io.palette import Things, class_colors, thing_colors
from pcseg.io.render import render_classes, write_class_ply
from tests.io.scans import file_size_limit, left_behind

NAMES = ("ground", "building", "shed")


def scene(num_points: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Ground with a block on its right half."""
    coords = np.random.default_rng(0).random((num_points, 3)).astype(np.float32) * [20, 20, 0.1]
    block = coords[:, 0] > 10
    coords[block, 2] += 4
    return coords.astype(np.float32), block.astype(np.int16)


def shares(path, colors) -> np.ndarray:
    """Share of the picture that has the hue of each colour, whatever its brightness."""
    pixels = np.asarray(Image.open(path), np.float32).reshape(-1, 3)
    hue = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    wanted = np.asarray(colors, np.float32) / np.linalg.norm(np.asarray(colors, np.float32), axis=1, keepdims=True)
    return (hue @ wanted.T > 0.999).mean(0)


def test_a_picture_shows_the_classes_that_are_there(tmp_path):
    coords, classes = scene()
    render_classes(tmp_path / "a.png", coords, classes, NAMES, width=400)
    image = Image.open(tmp_path / "a.png")
    assert image.format == "PNG" and 350 < image.width <= 420 and left_behind(tmp_path) == ["a.png"]
    ground, building, shed = shares(tmp_path / "a.png", class_colors(NAMES))
    assert ground > 0.08 and building > 0.08 and shed < 0.01


def test_truth_adds_columns_and_errors_are_marked(tmp_path):
    coords, classes = scene()
    wrong = classes.copy()
    wrong[(coords[:, 1] > 10) & (classes == 1)] = 0
    truth = classes.copy()
    truth[coords[:, 1] < 2] = -1
    render_classes(tmp_path / "a.png", coords, wrong, NAMES, truth=truth, width=600)
    render_classes(tmp_path / "b.png", coords, classes, NAMES, truth=truth, width=600)
    red = [(214, 30, 48)]
    assert shares(tmp_path / "a.png", red)[0] > 0.02 > 0.005 > shares(tmp_path / "b.png", red)[0]


def test_the_nearer_point_hides_the_farther_one_and_order_plays_no_part(tmp_path):
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2)
    below, above = (np.column_stack([grid, np.full(1600, z)]) for z in (0, 10))
    coords = np.concatenate([below, above]).astype(np.float32)
    classes = np.repeat([0, 1], 1600)
    for name, order in (("a", slice(None)), ("b", slice(None, None, -1))):
        render_classes(tmp_path / f"{name}.png", coords[order], classes[order], NAMES, width=300)
    top = np.asarray(Image.open(tmp_path / "a.png"))[60:100, 60:100].reshape(-1, 3).astype(np.float32)
    building = class_colors(NAMES)[1].astype(np.float32)
    cosine = (top @ building) / np.linalg.norm(top, axis=1) / np.linalg.norm(building)
    assert (cosine > 0.999).all()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("coords", [np.zeros((1, 3)), np.ones((50, 3)), np.stack([np.arange(50.0)] * 3, 1)])
def test_degenerate_clouds_still_make_a_picture(tmp_path, coords):
    render_classes(tmp_path / "a.png", coords.astype(np.float32), np.full(len(coords), -1), NAMES, width=200)
    assert Image.open(tmp_path / "a.png").width > 100
    with pytest.raises(ValueError, match="no points"):
        render_classes(tmp_path / "b.png", coords[:0], np.zeros(0, np.int64), NAMES)


def test_the_coloured_cloud_is_in_the_files_frame(tmp_path):
    coords, classes = scene(500)
    classes[7] = -1
    write_class_ply(tmp_path / "a.ply", coords, classes, NAMES, origin=(84900.0, 447500.0, 0.0))
    vertex = PlyData.read(tmp_path / "a.ply")["vertex"]
    np.testing.assert_array_equal(vertex["x"], coords[:, 0].astype(np.float64) + 84900)
    colors = np.stack([vertex["red"], vertex["green"], vertex["blue"]], 1)
    np.testing.assert_array_equal(np.delete(colors, 7, 0), class_colors(NAMES)[np.delete(classes, 7)])
    assert colors[7].tolist() == [150, 150, 150] and vertex["pred_class"][7] == 255
    assert PlyData.read(tmp_path / "a.ply").comments[1] == "class 1 building"


def test_a_full_disk_leaves_no_half_written_file(tmp_path):
    coords, classes = scene(2000)
    with file_size_limit(500):
        with pytest.raises(OSError):
            render_classes(tmp_path / "a.png", coords, classes, NAMES, width=200)
        with pytest.raises(OSError):
            write_class_ply(tmp_path / "a.ply", coords, classes, NAMES)
    assert left_behind(tmp_path) == []


def test_classes_have_colours_of_their_own():
    names = ["ground", "Building", "high vegetation", *(f"class {i}" for i in range(9))]
    colors = class_colors(names)
    assert len({tuple(c) for c in colors.tolist()}) == len(names) and colors.dtype == np.uint8
    assert (class_colors(["building"])[0] == colors[1]).all() and class_colors([]).shape == (0, 3)
    assert len(class_colors([f"c{i}" for i in range(40)])) == 40


def test_things_are_told_apart_in_the_picture_and_in_the_cloud(tmp_path):
    """Four quarters of the block are things; the ground is none."""
    coords, classes = scene()
    number = (coords[:, 1] > 10) + 2 * (coords[:, 0] > 15)
    things = Things(np.where(classes == 1, number, -1), np.ones(4, np.int64))
    render_classes(tmp_path / "a.png", coords, classes, NAMES, things=things, width=400)
    render_classes(tmp_path / "b.png", coords, classes, NAMES, width=400)
    shades = thing_colors(things.classes, class_colors(NAMES))
    assert (shares(tmp_path / "a.png", shades) > 0.015).all()
    with_lines, without = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) < 60 for name in "ab")
    assert with_lines.mean() > without.mean() + 0.002, "dark lines between them"
    write_class_ply(tmp_path / "a.ply", coords, classes, NAMES, things=things)
    vertices = PlyData.read(tmp_path / "a.ply")["vertex"]
    np.testing.assert_array_equal(vertices["pred_instance"], things.of_row)
    np.testing.assert_array_equal(vertices["pred_class"], classes)
    colors = np.stack([vertices[name] for name in ("red", "green", "blue")], 1)
    expected = np.where((classes == 1)[:, None], shades[number], class_colors(NAMES)[0])
    np.testing.assert_array_equal(colors, expected)
