"""ScanNet v2 as it is released: what scenes hold, with 20 and with 200 classes, and what is skipped by name."""

import json
import shutil

import numpy as np
import pytest
import torch

from data_prep.scannet import main
from pcseg.datasets import scannet, scannet200
from pcseg.datasets.scene_folder import Scene, find_scenes
from pcseg.io.ply_faces import vertex_normals
from tests.data_prep.releases import content, stamps, two_steps, zipped
from tests.data_prep.scannet_release import (
    ANGLE,
    LAYOUT,
    SIDE,
    groups,
    mesh,
    nyu40,
    segments,
    strips,
    write_mesh,
    write_release,
    write_scene,
)
from tests.io.scans import full_disk, left_behind

SCENES = ["scene0000_00", "scene0000_01", "scene0011_00", "scene0707_00"]


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "raw")


def turned(points: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(ANGLE), np.sin(ANGLE)
    return points @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).T + (1.5, -2.0, 0.25)


def test_a_scene_holds_the_vertices_of_its_mesh(release, tmp_path, command):
    code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 0, err
    assert "scannet (v2, 20 classes): 4 prepared; 576 points" in out
    assert "scannetv2_train.txt names 2 scenes, the release's 1201" in out
    assert "scene0707_00: no axis alignment is given" in out
    scene = Scene.open(tmp_path / "out" / "scene0000_01")
    vertices, colors, _ = mesh(1)
    np.testing.assert_allclose(scene.coords + scene.origin, turned(vertices.astype(np.float64)), atol=1e-5)
    np.testing.assert_array_equal(scene.column("color"), colors[:, :3])
    labels = np.array([1, 4, 0, -1])[strips()]  # floor, chair, wall, and nothing
    np.testing.assert_array_equal(scene.labels, labels)
    assert scene.info.class_codes[:2] == (1, 2) and scene.info.class_codes[-1] == 39 and len(scene.class_names) == 20
    np.testing.assert_array_equal(scene.column("instances"), np.array([0, 1, 2, -1])[strips()])
    assert scene.column("instances").dtype == np.int32
    normals = np.asarray(scene.column("normals"))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert (normals[:, 2] > 0.9).all(), "the floor looks up"
    test = Scene.open(tmp_path / "out" / "scene0707_00")
    assert test.labels is None and "instances" not in test.column_names and test.class_names == ()
    assert [s.name for s in find_scenes(tmp_path / "out", ["@train", "@val"])] == SCENES[:3]


def test_normals_are_those_of_a_known_solid():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [9, 9, 9]], float)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    normals = vertex_normals(corners, faces)
    np.testing.assert_allclose(normals[0], -np.ones(3) / np.sqrt(3), atol=1e-7)
    slant = np.cross(corners[2] - corners[1], corners[3] - corners[1])
    expected = slant + np.array([0, -1, -1])  # areas of two legs and the slanted face, doubled
    np.testing.assert_allclose(normals[1], expected / np.linalg.norm(expected), atol=1e-7)
    assert (normals[4] == 0).all() and normals.dtype == np.float32


def test_every_way_to_store_a_mesh_gives_the_same_scene(release, tmp_path, command):
    for name, options in (("little", {}), ("big", {"order": ">"}), ("text", {"ascii": True})):
        for end, labels in (("", None), (".labels", nyu40())):
            write_mesh(release / f"scans/scene0000_00/scene0000_00_vh_clean_2{end}.ply", 0, labels=labels, **options)
        assert command(main, ["--raw", release, "--out", tmp_path / name, "--quiet"])[0] == 0
    first = content(tmp_path / "little/scene0000_00")
    for name in ("big", "text"):
        other = content(tmp_path / name / "scene0000_00")
        assert {k: v for k, v in other.items() if k != "scene.json"} == {
            k: v for k, v in first.items() if k != "scene.json"
        }


def test_two_hundred_classes_come_from_the_objects(release, tmp_path, command):
    shutil.rmtree(release / "scans/scene0000_00")
    write_scene(release / "scans", "scene0000_00", 0, layout=("office chair", "odd thing", "object"))
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "out", "--classes", 200])
    assert code == 0, err
    scene = Scene.open(tmp_path / "out" / "scene0000_00")
    assert len(scene.class_names) == 200 and scene.class_names == scannet200.CLASS_NAMES
    names = [scene.class_names.index("office chair"), -1, scene.class_names.index("object"), -1]
    np.testing.assert_array_equal(scene.labels, np.array(names)[strips()])
    assert scene.info.class_codes[names[0]] == 10 and scene.info.class_codes[names[2]] == 1163
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 2 and "is that of scannet, version v2, 200 classes" in err
    (release / "scannetv2-labels.combined.tsv").unlink()
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "other", "--classes", 200])
    assert code == 2 and "has no scannetv2-labels.combined.tsv" in err


def test_the_tables():
    assert len(scannet.CLASS_NAMES) == 20 and max(scannet.CODES) == 39
    codes = scannet200.CODES
    assert len(codes) == len(set(codes.values())) == 200 and sorted(codes) == list(codes)
    assert (codes[1], codes[2], codes[3], codes[1191]) == ("wall", "chair", "floor", "mattress")


def test_zip_and_folder_and_two_workers_give_the_same_bytes(release, tmp_path, command):
    archive = zipped(release, tmp_path / "scannet.zip")
    for name, arguments in (
        ("folder", [release]),
        ("zip", [archive]),
        ("two", [release, "--workers", 2]),
        ("zip_two", [archive, "--workers", 2]),
    ):
        code, _, err = command(main, ["--raw", *arguments, "--out", tmp_path / name])
        assert code == 0, err
    first = content(tmp_path / "folder")
    for name in ("zip", "two", "zip_two"):
        assert content(tmp_path / name) == first, name
    before = stamps(tmp_path / "folder")
    code, out, _ = command(main, ["--raw", archive, "--out", tmp_path / "folder"])
    assert code == 0 and "4 left as it was" in out and stamps(tmp_path / "folder") == before


def _labels(folder, labels):
    write_mesh(folder / f"{folder.name}_vh_clean_2.labels.ply", 0, labels=labels)


def _json(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def _cut(file, keep):
    file.write_bytes(file.read_bytes()[:keep])


LABELS, MESH = "scene0000_00_vh_clean_2.labels.ply", "scene0000_00_vh_clean_2.ply"
SEGMENTS, OBJECTS = "scene0000_00_vh_clean_2.0.010000.segs.json", "scene0000_00_vh_clean.aggregation.json"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / LABELS).unlink(), f"scene0000_00: is in scannetv2_train.txt, but has no {LABELS}"),
        (lambda f: (f / MESH).unlink(), f"has no {MESH}"),
        (lambda f: _labels(f, np.where(strips() == 1, 41, 2)), "class codes outside the label map: 41 (36 points)"),
        (lambda f: _cut(f / MESH, 3000), f"{MESH}: promises 242 faces, ends after"),
        (lambda f: _cut(f / MESH, 1500), f"{MESH}: promises 144 vertices, its 1500 bytes hold"),
        (lambda f: _cut(f / LABELS, 200), f"{LABELS}: header"),
        (lambda f: _cut(f / SEGMENTS, 100), f"{SEGMENTS}: line 1: no JSON"),
        (lambda f: _json(f / SEGMENTS, lambda v: v["segIndices"].pop()), f"{SEGMENTS}: segIndices are (143,)"),
        (lambda f: _json(f / SEGMENTS, lambda v: v.pop("segIndices")), f"{SEGMENTS}: has no segIndices"),
        (
            lambda f: _json(f / OBJECTS, lambda v: v["segGroups"][1].pop("objectId")),
            f"{OBJECTS}: segGroups need objectId",
        ),
        (
            lambda f: (f / "scene0000_00.txt").write_text("a = 1\naxisAlignment = 1 0 0\n"),
            "scene0000_00.txt: line 2: axis",
        ),
    ],
)
def test_a_damaged_scene_is_skipped_by_file(release, tmp_path, command, damage, message):
    damage(release / "scans/scene0000_00")
    code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 3 and "3 prepared, 1 skipped" in out
    assert err.startswith("skipped scene0000_00: ") and message in err and err.count("\n") == 1
    assert "scene0000_00" not in left_behind(tmp_path / "out")
    assert [s.name for s in find_scenes(tmp_path / "out", ["@train"])] == ["scene0000_01"], (
        "the list says what is there"
    )
    code, out, err = command(main, ["--raw", release, "--check"])
    assert code == 3 and "1 skipped" in out and "3 checked" in out


def test_objects_listed_twice_and_labels_without_objects(release, tmp_path, command):
    _json(release / "scans/scene0000_00" / OBJECTS, lambda v: v["segGroups"].extend(groups(("wall", "wall"))))
    other = release / "scans/scene0000_01"
    (other / "scene0000_01_vh_clean_2.0.010000.segs.json").unlink()
    code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 0, err
    assert "scene0000_00: 2 objects are listed twice; taken once" in out
    assert "scene0000_01: no instances" in out
    np.testing.assert_array_equal(Scene.open(tmp_path / "out/scene0000_00").column("instances")[:3], [0, 0, 0])
    scene = Scene.open(tmp_path / "out/scene0000_01")
    assert "instances" not in scene.column_names and scene.info.class_histogram["floor"] == SIDE * SIDE // 4
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "out200", "--classes", 200])
    assert code == 3 and "is in scannetv2_train.txt, but has no scene0000_01_vh_clean_2.0.010000.segs.json" in err


def test_a_raw_category_outside_the_table(release, tmp_path, command):
    _json(release / "scans/scene0000_00" / OBJECTS, lambda v: v["segGroups"][0].update(label="spaceship"))
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "out", "--classes", 200])
    assert code == 3 and f"{OBJECTS}: 'spaceship' is not in the label table" in err
    table = release / "scannetv2-labels.combined.tsv"
    table.write_text(table.read_text().replace("3\tfloor", "x\tfloor"))
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "out", "--classes", 200])
    assert code == 2 and "scannetv2-labels.combined.tsv: line 3: 'x' is no id" in err


def test_lists_that_do_not_fit(release, tmp_path, command):
    (release / "Tasks/scannetv2_train.txt").write_text("scene0000_00\nscene0000_01\nscene0500_00\n")
    code, out, _ = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 0 and "train: 1 of 3 listed scenes are not here: scene0500_00" in out
    shutil.move(release / "Tasks", tmp_path / "lists")
    code, out, _ = command(main, ["--raw", release, "--out", tmp_path / "out2"])
    assert code == 0 and "no scannetv2_train.txt" in out and not (tmp_path / "out2/splits").exists()
    code, out, _ = command(main, ["--raw", release, "--out", tmp_path / "out2", "--lists", tmp_path / "lists"])
    assert code == 0 and (tmp_path / "out2/splits/val.txt").read_text() == "scene0011_00\n"
    (tmp_path / "lists/scannetv2_val.txt").write_text("../../etc\n")
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "out2", "--lists", tmp_path / "lists"])
    assert code == 2 and "scannetv2_val.txt: '../../etc' is no scene's name" in err


def test_the_data_efficient_lists(release, tmp_path, command):
    efficient = tmp_path / "efficient"
    (efficient / "points").mkdir(parents=True)
    (efficient / "scenes").mkdir()
    (efficient / "scenes/20.txt").write_text("scene0000_01\n")
    for count, kind in ((20, list), (50, np.array), (100, torch.tensor)):
        rng = np.random.default_rng(count)
        lists = {s: kind(rng.permutation(SIDE * SIDE)[:count].tolist()) for s in ("scene0000_00", "scene0000_01")}
        torch.save(lists, efficient / f"points/points{count}")
    torch.save({"scene0000_00": [5, 144], "scene0000_01": [1]}, efficient / "points/points200")
    for name in ("scannetv2_train.txt", "scannetv2_val.txt", "scannetv2_test.txt"):
        shutil.copy(release / "Tasks" / name, efficient / name)
    code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out", "--lists", efficient])
    assert code == 3 and "points20: 40 labelled points of 2 of 2 listed scenes" in out
    assert "skipped points200, scene0000_00: point 144 is listed, the scene has 144" in err
    for count in (20, 50, 100):
        rng = np.random.default_rng(count)
        rows = np.load(tmp_path / f"out/point_labels/points{count}/scene0000_00.npy")
        np.testing.assert_array_equal(rows, np.sort(rng.permutation(SIDE * SIDE)[:count]))
        assert rows.dtype == np.int64
    recipe = json.loads((tmp_path / "out/point_labels/points20/recipe.json").read_text())
    assert recipe["num_points"] == 40 and len(recipe["sha256"]) == 64
    assert [s.name for s in find_scenes(tmp_path / "out", ["@train_20_percent"])] == ["scene0000_01"]


def test_a_list_that_would_run_code_is_refused(release, tmp_path, command):
    import os

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    (release / "points").mkdir()
    torch.save({"scene0000_00": Evil()}, release / "points/points20")
    (release / "points/points50").write_bytes(b"nothing of the kind")
    torch.save([1, 2], release / "points/points100")
    torch.save({"scene0000_00": [-1]}, release / "points/points200")
    code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 3 and "4 prepared" in out and not (tmp_path / "evil").exists()
    for count, message in ((20, "read safely"), (50, "read safely"), (100, "holds list"), (200, "no list of point")):
        assert any(f"skipped points{count}: " in line and message in line for line in err.splitlines())
    assert not (tmp_path / "out/point_labels/points20").exists()


def test_no_room_on_the_disk(release, tmp_path, command, monkeypatch):
    with full_disk(monkeypatch, 1000):
        code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 3 and "4 skipped" in out and err.count("No space left on device") == 4
    archive = zipped(release, tmp_path / "scannet.zip")
    with full_disk(monkeypatch, 1000):
        code, out, err = command(main, ["--raw", archive, "--out", tmp_path / "zip"])
    assert code == 3 and err.count("No space left on device") == 4


@pytest.mark.parametrize("network", ["kpconv", "point_transformer"])
def test_the_shipped_configs_train_on_it(release, tmp_path, command, network):
    assert command(main, ["--raw", release, "--out", tmp_path / "out", "--quiet"])[0] == 0
    found = two_steps(f"scannet/{network}.py", tmp_path / "out", tmp_path / "run")
    assert list(found["iou"]) == list(scannet.CLASS_NAMES) and found["num_points"] > 0


def test_the_maker_makes_what_the_release_has():
    assert len(segments()) == SIDE * SIDE and len(set(segments())) == 8 and len(LAYOUT) == 3
