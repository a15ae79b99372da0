"""Scans to scene folders: content, repetition, and what is refused without a trace."""

import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_prep import las, ply
from pcseg import IGNORE
from pcseg.config import DataConfig
from pcseg.datasets.ground import GroundSettings
from pcseg.datasets.prepare import prepare_scan
from pcseg.datasets.releases import IMAGE_RELEASES, SCENE_RELEASES
from pcseg.datasets.scene_folder import Scene, find_scenes
from pcseg.datasets.scene_part import open_sources
from pcseg.errors import InputError, run_command
from pcseg.io import scan
from pcseg.io.ply import write_ply
from pcseg.label_map import LabelMap
from tests.io.scans import SAMPLES, file_size_limit, full_disk, left_behind, small_las

LABELS = LabelMap.from_pairs(["1=other", "2=ground", "6=ignore"])


def test_a_scene_holds_what_the_file_holds(tmp_path):
    las = small_las(tmp_path / "a.laz", 700, point_format=7)
    scene = prepare_scan(tmp_path / "a.laz", tmp_path / "out", label_map=LABELS, chunk_size=100)
    assert scene.name == "a" and scene.num_points == 700 and scene.path == tmp_path / "out" / "a"
    np.testing.assert_allclose(scene.coords + scene.origin, las.xyz, atol=1e-5)
    assert np.array_equal(scene.origin, np.round(scene.origin))
    np.testing.assert_array_equal(scene.column("intensity"), las.intensity)
    np.testing.assert_array_equal(scene.column("color"), np.stack([las.red, las.green, las.blue], 1))
    np.testing.assert_array_equal(scene.column("echo_width"), np.asarray(las["echo width"]))
    assert scene.column("normals").shape == (700, 3) and scene.column("color").dtype == np.uint16
    assert scene.column("height_above_ground").dtype == np.float32 and "gps_time" not in scene.column_names
    table = np.full(256, IGNORE)
    table[1], table[2] = 0, 1
    np.testing.assert_array_equal(scene.labels, table[las.classification])
    assert scene.class_names == ("other", "ground") and scene.info.class_codes == (1, 2)
    assert scene.info.class_histogram == {n: int((scene.labels == i).sum()) for i, n in enumerate(scene.class_names)}
    assert scene.source_rows is None and scene.to_source(scene.coords, 0) is not None
    assert left_behind(tmp_path / "out") == ["a"]
    info = json.loads((scene.path / "scene.json").read_text())
    assert info["source"]["file"] == "a.laz" and len(info["source"]["sha256"]) == 64


def test_chunks_of_any_size_give_the_same_scene_up_to_the_origin(tmp_path):
    small_las(tmp_path / "a.laz", 500)
    whole = prepare_scan(tmp_path / "a.laz", tmp_path / "one")
    parts = prepare_scan(tmp_path / "a.laz", tmp_path / "two", chunk_size=33)
    np.testing.assert_allclose(whole.coords + whole.origin, parts.coords + parts.origin, atol=1e-5)
    np.testing.assert_allclose(whole.column("height_above_ground"), parts.column("height_above_ground"), atol=1e-4)


def test_a_second_call_leaves_the_scene_alone_and_a_change_makes_it_anew(tmp_path):
    path = tmp_path / "a.laz"
    small_las(path, 200)
    options = {"label_map": LABELS, "features": ("intensity", "height_above_ground")}

    def stamp(**changes) -> int:
        return (prepare_scan(path, tmp_path / "out", **{**options, **changes}).path / "coords.npy").stat().st_mtime_ns

    first = stamp()
    assert stamp() == first
    other_map = stamp(label_map=LabelMap.from_pairs(["1=other", "2=ground", "6=building"]))
    assert other_map != first
    other_features = stamp(features=("intensity",))
    assert other_features != other_map
    other_ground = stamp(ground=GroundSettings(cell=2.0))
    assert other_ground != other_features
    small_las(path, 200, seed=5)
    other_file = stamp(ground=GroundSettings(cell=2.0))
    assert other_file != other_ground
    (tmp_path / "out" / "a" / "intensity.npy").write_bytes(b"damaged")
    assert stamp(ground=GroundSettings(cell=2.0)) != other_file
    assert left_behind(tmp_path / "out") == ["a"]


def test_a_file_of_the_same_name_does_not_replace_a_scene(tmp_path):
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        small_las(tmp_path / folder / "x.laz", 200, seed=seed)
    first, other, out = tmp_path / "a" / "x.laz", tmp_path / "b" / "x.laz", tmp_path / "out"
    scene = prepare_scan(first, out, features=("intensity",))
    before = np.array(scene.coords)
    with pytest.raises(InputError, match=f"{other}: would overwrite {scene.path}, the scene of {first}; prepare it"):
        prepare_scan(other, out, features=("intensity",))
    np.testing.assert_array_equal(Scene.open(scene.path).coords, before)
    moved = first.rename(tmp_path / "x.laz")  # the same bytes
    assert prepare_scan(moved, out, features=()).column_names == ()
    small_las(moved, 300, seed=3)  # other bytes at the same place
    assert prepare_scan(moved, out, features=()).num_points == 300
    info = json.loads((scene.path / "scene.json").read_text())
    del info["source"]["path"]  # as scenes were written before places were recorded
    (scene.path / "scene.json").write_text(json.dumps(info))
    assert prepare_scan(other, out, features=()).num_points == 200


def test_what_is_no_scene_is_not_replaced(tmp_path):
    small_las(tmp_path / "x.laz", 50)
    (tmp_path / "x").mkdir()
    assert prepare_scan(tmp_path / "x.laz", tmp_path).num_points == 50
    (tmp_path / "x" / "scene.json").unlink()
    with pytest.raises(InputError, match=r"would overwrite .*x, which is no scene; prepare it into another folder"):
        prepare_scan(tmp_path / "x.laz", tmp_path)
    assert (tmp_path / "x" / "coords.npy").is_file()


def test_memory_goes_by_the_chunk_and_not_by_the_file(tmp_path):
    def peak(num_points: int) -> tuple[int, int]:
        path = tmp_path / f"{num_points}.laz"
        small_las(path, num_points)
        classes, confidence = np.zeros(num_points, np.uint8), np.zeros(num_points, np.float32)
        peaks = []
        for work in (
            lambda: prepare_scan(path, tmp_path / "out", chunk_size=5_000, progress=False),
            lambda: scan.write_predictions(path, tmp_path / "copy.laz", classes, confidence, chunk_size=5_000),
        ):
            tracemalloc.start()
            work()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return peaks[0], peaks[1]

    small, large = peak(40_000), peak(100_000)  # files larger than the blocks that are hashed
    assert large[0] < 1.3 * small[0] and large[1] < 1.3 * small[1]


def test_features_are_chosen_by_name(tmp_path):
    small_las(tmp_path / "a.laz", 50)
    scene = prepare_scan(tmp_path / "a.laz", tmp_path, features=("ones", "return_ratio", "scan_angle"))
    assert set(scene.column_names) == {"return_number", "number_of_returns", "scan_angle"} and scene.labels is None
    bare = prepare_scan(tmp_path / "a.laz", tmp_path, name="bare", features=())
    assert bare.column_names == () and left_behind(bare.path) == ["coords.npy", "scene.json"]
    with pytest.raises(InputError, match=r"a\.laz: has no column 'color'; it has height_above_ground, .*intensity"):
        prepare_scan(tmp_path / "a.laz", tmp_path, features=("color",))


def test_eight_bit_colour_in_sixteen_and_no_colour_at_all(tmp_path):
    las = small_las(tmp_path / "a.laz", 300, point_format=7, color=255)
    scene = prepare_scan(tmp_path / "a.laz", tmp_path)
    assert scene.column("color").dtype == np.uint8 and "8 bits stored in 16" in scene.info.notes[0]
    np.testing.assert_array_equal(scene.column("color")[:, 0], las.red)
    small_las(tmp_path / "b.laz", 300, point_format=7, color=0)
    scene = prepare_scan(tmp_path / "b.laz", tmp_path)
    assert "color" not in scene.column_names and scene.info.notes == ("no colour: it is 0 at every point",)


def test_codes_outside_the_map_are_named_and_counted(tmp_path):
    las = small_las(tmp_path / "a.laz", 300)
    counts = {code: int((las.classification == code).sum()) for code in (2, 6)}
    with pytest.raises(InputError) as caught:
        prepare_scan(tmp_path / "a.laz", tmp_path / "out", label_map=LabelMap.from_pairs(["1=other"]), chunk_size=50)
    assert f"2 ({counts[2]} points), 6 ({counts[6]} points)" in str(caught.value)
    assert left_behind(tmp_path / "out") == []
    table = LabelMap.from_pairs(["1=other", "default=ignore"])
    assert prepare_scan(tmp_path / "a.laz", tmp_path / "out", label_map=table).info.class_histogram == {
        "other": 300 - sum(counts.values())
    }


def test_points_without_finite_coordinates_are_dropped_counted_and_found_again(tmp_path):
    coords = np.random.default_rng(0).random((50, 3)) * 10
    coords[3, 0], coords[4, 2], coords[49, 1], coords[10:20] = np.nan, np.inf, -np.inf, np.nan
    columns = {"x": coords[:, 0], "y": coords[:, 1], "z": coords[:, 2], "class": np.arange(50) % 2}
    types = {"x": np.float64, "y": np.float64, "z": np.float64, "class": np.uint8}
    write_ply(tmp_path / "a.ply", types, 50, [columns])
    table = LabelMap.from_pairs(["0=a", "1=b"])
    scene = prepare_scan(tmp_path / "a.ply", tmp_path / "out", label_map=table, chunk_size=10)
    kept = np.flatnonzero(np.isfinite(coords).all(1))
    assert scene.num_points == len(kept) == 37 and scene.info.source.num_points == 50
    assert scene.info.notes == ("13 of 50 points dropped: non-finite coordinates",)
    np.testing.assert_array_equal(scene.source_rows, kept)
    np.testing.assert_allclose(scene.coords + scene.origin, coords[kept], atol=1e-5)
    np.testing.assert_array_equal(scene.labels, kept % 2)
    assert np.isfinite(scene.column("height_above_ground")).all()
    whole = scene.to_source(np.arange(37), -1)
    assert whole.shape == (50,) and (whole[kept] == np.arange(37)).all() and (np.delete(whole, kept) == -1).all()
    write_ply(tmp_path / "b.ply", types, 50, [{**columns, "x": np.full(50, np.nan)}])
    with pytest.raises(InputError, match=r"b\.ply: none of its 50 points has finite coordinates"):
        prepare_scan(tmp_path / "b.ply", tmp_path / "out")
    write_ply(tmp_path / "c.ply", types, 50, [{**columns, "x": np.where(np.arange(50) == 7, 1e30, columns["x"])}])
    with pytest.raises(InputError, match=r"c\.ply: point 7 lies more than 1000000 m from the others"):
        prepare_scan(tmp_path / "c.ply", tmp_path / "out")
    assert left_behind(tmp_path / "out") == ["a"]


def test_a_ply_without_classes_has_none_to_map(tmp_path):
    columns = {name: np.arange(5.0) for name in "xyzrgb"}
    types = dict.fromkeys("xyzrgb", np.float32)
    write_ply(tmp_path / "a.ply", types | {"odd/../name": np.int16}, 5, [columns | {"odd/../name": np.arange(5)}])
    with pytest.raises(InputError, match=r"a\.ply: no attribute looks like class codes; name it \(it has r, g, b, odd"):
        prepare_scan(tmp_path / "a.ply", tmp_path, label_map=LABELS)
    scene = prepare_scan(tmp_path / "a.ply", tmp_path)
    assert set(scene.column_names) == {"height_above_ground", "color", "odd_.._name"}
    np.testing.assert_allclose(scene.column("color")[:, 0], np.arange(5) / 255)
    assert scene.info.notes == ("colour: 0 to 255 stored as floats",)
    labelled = prepare_scan(
        tmp_path / "a.ply", tmp_path, label_map=LabelMap.from_pairs(["0=z", "default=ignore"]), label_column="r"
    )
    assert labelled.labels.tolist() == [0, -1, -1, -1, -1]


@pytest.mark.parametrize("room", [10, 1000, 5000])
def test_a_full_disk_leaves_the_old_scene(tmp_path, monkeypatch, room):
    small_las(tmp_path / "a.laz", 1000)
    old = prepare_scan(tmp_path / "a.laz", tmp_path / "out", features=("intensity",))
    with full_disk(monkeypatch, room), pytest.raises(OSError, match=r"No space left on device: .*out/a'"):
        prepare_scan(tmp_path / "a.laz", tmp_path / "out")
    with file_size_limit(room), pytest.raises(OSError, match="File too large"):
        prepare_scan(tmp_path / "a.laz", tmp_path / "out")
    assert left_behind(tmp_path / "out") == ["a"] and Scene.open(old.path).column_names == ("intensity",)


def test_a_folder_that_cannot_be_made(tmp_path):
    small_las(tmp_path / "a.laz", 20)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        prepare_scan(tmp_path / "a.laz", tmp_path / "file" / "out")


def test_scenes_are_found_by_pattern(tmp_path):
    for name in ("b_1", "a_1", "a_2"):
        small_las(tmp_path / f"{name}.laz", 20)
        prepare_scan(tmp_path / f"{name}.laz", tmp_path / "out", features=())
    assert [s.name for s in find_scenes(tmp_path / "out")] == ["a_1", "a_2", "b_1"]
    assert [s.name for s in find_scenes(tmp_path / "out", ["b_*", "*_1"])] == ["b_1", "a_1"]
    with pytest.raises(InputError, match=r"no scene matches 'c_.'; there are a_1, a_2, b_1"):
        find_scenes(tmp_path / "out", ["c_?"])
    with pytest.raises(InputError, match="no such folder"):
        find_scenes(tmp_path / "none")


@pytest.mark.parametrize(
    ("folder", "kind", "command"),
    [
        ("s3dis", "scenes", "prepare scenes with python -m data_prep.s3dis --raw DOWNLOAD --out data/s3dis"),
        ("scannet200", "scenes", "data_prep.scannet --raw"),
        ("voc_p10", "images", "prepare images with python -m data_prep.voc --raw DOWNLOAD --out data/voc_p10"),
        ("vocal", "images", "has no folder 'images'"),
        ("mine", "scenes", "python -m data_prep.las"),
    ],
)
def test_a_folder_that_is_not_there_says_how_to_make_it(tmp_path, monkeypatch, folder, kind, command):
    monkeypatch.chdir(tmp_path)
    values = {"class_names": ("a", "b"), "label_map": {0: 0, 1: 1}, "train_scenes": ("*",)}
    data = DataConfig.model_validate({"kind": kind, "root": Path("data") / folder, **values})
    with pytest.raises(InputError, match=re.escape(command)):
        open_sources(data, ("*",))


def test_the_commands_of_releases_are_there():
    for name in (*IMAGE_RELEASES, *SCENE_RELEASES):
        assert (SAMPLES.parent / "data_prep" / f"{name}.py").is_file()


def test_a_scene_that_is_not_whole_is_refused_by_name(tmp_path):
    small_las(tmp_path / "a.laz", 40)
    scene = prepare_scan(tmp_path / "a.laz", tmp_path / "out")
    with pytest.raises(InputError, match="has no column 'color'; it has intensity"):
        scene.column("color")
    file = scene.path / "intensity.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(InputError, match=r"intensity\.npy: no whole array file"):
        scene.column("intensity")
    np.save(file, np.zeros(3, np.uint16))
    with pytest.raises(InputError, match=r"scene\.json says uint16 \(40,\), the file holds uint16 \(3,\)"):
        scene.column("intensity")
    file.unlink()
    with pytest.raises(InputError, match=r"intensity\.npy: no such file"):
        scene.column("intensity")
    for text, message in (("{", "scene.json"), ('{"format": 9}', "format"), ("\xff", "scene.json")):
        (scene.path / "scene.json").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=message):
            Scene.open(scene.path)
    with pytest.raises(InputError, match="is no scene folder"):
        Scene.open(tmp_path)


def test_a_column_name_cannot_lead_out_of_the_folder(tmp_path):
    small_las(tmp_path / "a.laz", 40)
    scene = prepare_scan(tmp_path / "a.laz", tmp_path / "out", features=("intensity",))
    text = (scene.path / "scene.json").read_text().replace('"intensity"', '"../intensity"', 1)
    (scene.path / "scene.json").write_text(text)
    with pytest.raises(InputError, match=r"'\.\./intensity' is no plain name"):
        Scene.open(scene.path)


def test_ground_of_the_shipped_scan_lies_near_zero(tmp_path):
    sample = SAMPLES / "ahn3_delft" / "crop_2.laz"
    table = LabelMap.from_pairs(["2=ground", "6=building", "default=ignore"])
    scene = prepare_scan(sample, tmp_path, label_map=table, features=("height_above_ground",), progress=False)
    height, labels = np.asarray(scene.column("height_above_ground")), np.asarray(scene.labels)
    assert np.median(np.abs(height[labels == 0])) < 0.05 and np.quantile(np.abs(height[labels == 0]), 0.95) < 0.25
    assert np.median(height[labels == 1]) > 6 and np.quantile(height[labels == 1], 0.05) > 1


def test_the_command_says_what_it_made_and_what_is_wrong(tmp_path, monkeypatch, capsys):
    small_las(tmp_path / "a.laz", 60)

    def command(*arguments: str | Path, module=las) -> int:
        monkeypatch.setattr("sys.argv", ["prepare", *map(str, arguments)])
        try:
            run_command(module.main)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    out = str(tmp_path / "out")
    assert command(tmp_path / "a.laz", "--out", out, "--label-map", "1=x", "2=y", "default=ignore") == 0
    printed = capsys.readouterr().out
    assert "60 points" in printed and "x " in printed and Scene.open(tmp_path / "out" / "a").class_names == ("x", "y")
    for pairs, message in (
        (["1=x", "default=ignore"], r"[0-9]+ of 60 points labelled: x 100\.0%\n"),
        (["77=x", "default=ignore"], r"none of its 60 points is labelled; does the label map fit the file\?\n"),
        (["default=x", "9=ignore", "--classes", "x"], r"only; x 100\.0%\n"),
    ):
        assert command(tmp_path / "a.laz", "--out", out, "--features", "--label-map", *pairs) == 0
        assert re.search(message, capsys.readouterr().out)
    for arguments, message in (
        ([tmp_path / "none.laz"], "none.laz: no such file"),
        ([tmp_path / "a.ply"], "expected a .las or .laz file"),
        ([], "no scans given"),
        ([tmp_path / "a.laz", tmp_path / "sub" / "a.laz"], "would overwrite the scene of"),
        ([tmp_path / "a.laz", "--label-map", "1=x"], "class codes outside the label map: 2"),
    ):
        assert command(*arguments, "--out", out) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and "Traceback" not in error
    write_ply(tmp_path / "p.ply", dict.fromkeys("xyz", np.float32), 5, [dict.fromkeys("xyz", np.arange(5))])
    assert command(tmp_path / "p.ply", "--out", out, "--features", "ones", module=ply) == 0
    assert "5 points; coordinates only; no labels" in capsys.readouterr().out
    assert command(tmp_path / "a.laz", "--out", out, module=ply) == 2
