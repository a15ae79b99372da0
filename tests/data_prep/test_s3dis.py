"""S3DIS as it is released: what scenes hold, which defects are mended, and what is skipped by name."""

import json
import re
import shutil
import zipfile

import numpy as np
import pytest

from data_prep.s3dis import main
from pcseg.datasets.s3dis import CLASS_NAMES, CODES, ROOMS, fold
from pcseg.datasets.scene_folder import Scene
from tests.data_prep.releases import content, stamps, two_steps, zipped
from tests.data_prep.s3dis_release import (
    ALIGNED,
    OBJECTS,
    PLAIN,
    lines,
    objects,
    replace_line,
    write_release,
    write_room,
)
from tests.io.scans import full_disk, left_behind


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "raw")


def test_a_room_holds_its_objects_in_order(release, tmp_path, command):
    code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 0, err
    assert "s3dis (v1.2 aligned): 3 prepared" in out and "Area_5: 1 of 68 rooms are here" in out
    scene = Scene.open(tmp_path / "out" / "Area_2_hallway_12")
    truth = objects(1)
    order = sorted(truth, key=lambda name: (name.split("_")[0], int(name.split("_")[1])))
    assert order.index("wall_10") == order.index("wall_2") + 1
    points = np.concatenate([truth[name][0] for name in order])
    np.testing.assert_allclose(scene.coords + scene.origin, points, atol=2e-6)
    np.testing.assert_array_equal(scene.column("color"), np.concatenate([truth[name][1] for name in order]))
    sizes = [len(truth[name][0]) for name in order]
    np.testing.assert_array_equal(scene.column("instances"), np.repeat(np.arange(len(order)), sizes))
    labels = [CLASS_NAMES.index(name.split("_")[0]) for name in order]
    np.testing.assert_array_equal(scene.labels, np.repeat(labels, sizes))
    assert scene.class_names == CLASS_NAMES and scene.column("instances").dtype == np.int32
    assert scene.info.class_histogram["wall"] == sum(len(truth[f"wall_{i}"][0]) for i in (1, 2, 10))
    assert scene.info.source.file == "Area_2/hallway_12/Annotations" and scene.info.notes == ()
    assert left_behind(tmp_path / "out") == ["Area_1_office_1", "Area_2_hallway_12", "Area_5_office_2", "data_set.json"]


def test_the_tables(tmp_path):
    assert len(CLASS_NAMES) == 13 and sum(ROOMS.values()) == 272 and ROOMS["Area_5"] == 68
    assert CODES["stairs"] == CLASS_NAMES.index("clutter") == 12
    assert fold(5) == (("Area_1_*", "Area_2_*", "Area_3_*", "Area_4_*", "Area_6_*"), ("Area_5_*",))
    with pytest.raises(ValueError, match="areas 1 to 6"):
        fold(7)


def test_zip_and_folder_and_two_workers_give_the_same_bytes(release, tmp_path, command):
    archive = zipped(release, tmp_path / f"{ALIGNED}.zip")
    runs = (
        ("folder", [release]),
        ("parent", [release.parent]),
        ("zip", [archive]),
        ("two", [release, "--workers", 2]),
        ("zip_two", [archive, "--workers", 2]),
    )
    for name, (raw, *more) in runs:
        code, _, err = command(main, ["--raw", raw, "--out", tmp_path / name, *more])
        assert code == 0, err
    first = content(tmp_path / "folder")
    assert len(first) == 3 * 6 + 1
    for name, _ in runs[1:]:
        assert content(tmp_path / name) == first, name


def test_a_restart_goes_on_where_it_stopped(release, tmp_path, command):
    out = tmp_path / "out"
    assert command(main, ["--raw", release, "--out", out])[0] == 0
    before = stamps(out)
    code, printed, _ = command(main, ["--raw", release, "--out", out])
    assert code == 0 and "3 left as it was" in printed and stamps(out) == before
    shutil.rmtree(out / "Area_1_office_1")
    (out / ".Area_1_office_1.4194305.part").mkdir()  # beyond the largest process id: of a run that was killed
    replace_line(release / "Area_5/office_2/Annotations/chair_1.txt", 3, b" ", b" 1")
    code, printed, _ = command(main, ["--raw", release, "--out", out])
    assert code == 0 and "2 prepared" in printed and "1 left as it was" in printed
    assert left_behind(out) == ["Area_1_office_1", "Area_2_hallway_12", "Area_5_office_2", "data_set.json"]
    assert stamps(out)["Area_2_hallway_12"] == before["Area_2_hallway_12"]


def test_known_defects_are_mended_and_named(tmp_path, command):
    top = tmp_path / "raw" / PLAIN
    hallway = write_room(top, "Area_5", "hallway_6", 0)
    replace_line(hallway / "ceiling_1.txt", 39, b" ", b"\x10")
    office = write_room(top, "Area_5", "office_19", 1, floats=True)
    row = objects(1)["ceiling_1"][1][23].tolist()
    replace_line(office / "ceiling_1.txt", 24, b"%.6f" % row[1], b"%d.0\x100000" % row[1])
    write_room(top, "Area_6", "copyRoom_1", 2)
    (top / "Area_6/copyRoom_1/copyRoom_1.txt").rename(top / "Area_6/copyRoom_1/copy_Room_1.txt")
    write_room(top, "Area_3", "hallway_2", 3)
    text = top / "Area_3/hallway_2/hallway_2.txt"
    third = objects(3)["floor_1"][0][0]
    number = 61  # the first line of the floor
    assert text.read_bytes().splitlines()[number - 1].startswith(b"%.3f" % third[0])
    replace_line(text, number, b" 0.000", b" 0.0\x100")

    code, out, _ = command(main, ["--raw", top, "--check"])
    assert code == 3, "rooms are missing"
    assert "Area_5_hallway_6: ceiling_1.txt: line 39: control byte read as a blank" in out
    assert "Area_5_office_19: ceiling_1.txt: line 24: control byte read as a digit with one bit lost" in out
    assert f"Area_3_hallway_2: hallway_2.txt: line {number}: control byte read as a digit" in out
    assert "Area_6_copyRoom_1: the room's text is named copy_Room_1.txt" in out
    assert "Area_6: 1 of 48 rooms are here" in out and "4 checked" in out

    code, out, err = command(main, ["--raw", top, "--out", tmp_path / "out"])
    assert code == 0, err
    assert "s3dis (v1.2): 4 prepared" in out and "Area_5_office_19: colours are written as floats" in out
    assert "Area_5_hallway_6: ceiling_1.txt: line 39: control byte" in out
    for name, seed in (("Area_5_hallway_6", 0), ("Area_5_office_19", 1)):
        scene, truth = Scene.open(tmp_path / "out" / name), objects(seed)["ceiling_1"]
        np.testing.assert_allclose(scene.coords[:60] + scene.origin, truth[0], atol=2e-6)
        np.testing.assert_array_equal(scene.column("color")[:60], truth[1])
        assert scene.column("color").dtype == np.uint8


def test_stairs_are_clutter_and_windows_line_ends_are_read(tmp_path, command):
    folder = write_room(tmp_path / "raw" / PLAIN, "Area_1", "hallway_1", 0)
    (folder / "chair_1.txt").rename(folder / "stairs_1.txt")
    wall = folder / "wall_1.txt"
    wall.write_bytes(wall.read_bytes().replace(b"\n", b"\r\n"))
    code, out, err = command(main, ["--raw", tmp_path / "raw", "--out", tmp_path / "out"])
    assert code == 0, err
    assert "Area_1_hallway_1: wall_1.txt: Windows line ends" in out
    scene = Scene.open(tmp_path / "out" / "Area_1_hallway_1")
    assert scene.info.class_histogram["clutter"] == sum(len(objects(0)[n][0]) for n in ("chair_1", "clutter_1"))
    assert scene.num_points == sum(len(points) for points, _ in objects(0).values())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: _cut(f / "wall_2.txt", 1000),
            r"wall_2.txt: line \d+: \d values where 6 are due and the file ends there",
        ),
        (lambda f: replace_line(f / "chair_1.txt", 7, b" ", b" 5 "), "chair_1.txt: line 7: 7 values where 6 are due"),
        (lambda f: replace_line(f / "chair_1.txt", 7, b" ", b" x"), "chair_1.txt: line 7: 'x.*' is no number"),
        (lambda f: _append(f / "chair_1.txt", b"1 2 3 4 5 256\n"), "chair_1.txt: line 66: blue is 256, from 0 to 255"),
        (lambda f: (f / "floor_1.txt").write_bytes(b""), "floor_1.txt: holds no points"),
        (
            lambda f: (f / "floor_1.txt").rename(f / "roof_1.txt"),
            "roof_1.txt: 'roof' is no class; the classes are ceiling",
        ),
        (lambda f: shutil.rmtree(f), "Area_1/office_1: has no Annotations"),
        (lambda f: replace_line(f / "floor_1.txt", 2, b" ", b"\xff"), "floor_1.txt: line 2: 5 values where 6"),
    ],
)
def test_a_damaged_room_is_skipped_by_file_and_line(release, tmp_path, command, damage, message):
    damage(release / "Area_1/office_1/Annotations")
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        code, printed, err = command(main, ["--raw", release, "--out", out, "--workers", workers])
        assert code == 3 and "2 prepared, 1 skipped" in printed and "Traceback" not in err
        line = next(line for line in err.splitlines() if line.startswith("skipped Area_1_office_1: "))
        assert re.search(message, line), line
        assert left_behind(out) == ["Area_2_hallway_12", "Area_5_office_2", "data_set.json"]
    assert command(main, ["--raw", release, "--check"])[0] == 3


def _cut(file, size):
    file.write_bytes(file.read_bytes()[:size].rstrip()[:-5])


def _append(file, line):
    file.write_bytes(file.read_bytes() + line)


def test_a_missing_object_is_noticed_by_the_text_of_the_room(release, tmp_path, command):
    (release / "Area_1/office_1/Annotations/chair_1.txt").unlink()
    code, out, _ = command(main, ["--raw", release, "--out", tmp_path / "out"])
    total = sum(len(points) for points, _ in objects(0).values())
    left = total - len(objects(0)["chair_1"][0])
    assert code == 0 and f"Area_1_office_1: the room's text has {total} points, its annotations have {left}" in out


def test_zip_files_that_are_broken_or_lead_out(release, tmp_path, command):
    archive = zipped(release, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../evil/Area_1/office_9/Annotations/chair_1.txt", "1 2 3 4 5 6\n")
    code, out, err = command(main, ["--raw", archive, "--out", tmp_path / "out"])
    assert code == 3 and "3 prepared, 1 skipped" in out
    assert "../evil/Area_1/office_9/Annotations/chair_1.txt: its name leads out of the zip file" in err
    assert not (tmp_path / "evil").exists()

    data = bytearray(zipped(release, tmp_path / "b.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "b.zip") as file:
        entry = file.getinfo(f"{ALIGNED}/Area_2/hallway_12/Annotations/wall_2.txt")
    place = entry.header_offset + 30 + len(entry.filename) + 200
    data[place : place + 20] = bytes(20)
    (tmp_path / "b.zip").write_bytes(data)
    code, out, err = command(main, ["--raw", tmp_path / "b.zip", "--out", tmp_path / "out_b"])
    assert code == 3 and "2 prepared, 1 skipped" in out
    assert f"b.zip:{ALIGNED}/Area_2/hallway_12/Annotations/wall_2.txt: damaged zip file" in err

    (tmp_path / "c.zip").write_bytes(archive.read_bytes()[:3000])
    code, _, err = command(main, ["--raw", tmp_path / "c.zip", "--out", tmp_path / "out_c"])
    assert code == 2 and "c.zip: no whole zip file" in err and not (tmp_path / "out_c").exists()


def test_what_is_no_release_is_refused_before_anything_is_written(release, tmp_path, command):
    (tmp_path / "empty").mkdir()
    twice = tmp_path / "raw"
    write_room(twice / PLAIN, "Area_1", "office_1", 5)
    for arguments, message in (
        (["--raw", tmp_path / "none"], "none: no such folder or zip file"),
        (["--raw", tmp_path / "empty"], "holds no S3DIS rooms"),
        (["--raw", twice], f"rooms lie in {PLAIN}/ and in {ALIGNED}/"),
        (["--raw", release, "--workers", 0], "--workers must be at least 1"),
        ([], "name the download with --raw"),
    ):
        code, _, err = command(main, [*arguments, "--out", tmp_path / "out"])
        assert code == 2 and message in err and err.count("\n") == 1
    assert command(main, ["--raw", release])[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_version_is_left_alone(release, tmp_path, command):
    out = tmp_path / "out"
    assert command(main, ["--raw", release, "--out", out])[0] == 0
    before = content(out)
    other = write_release(tmp_path / "other", top=PLAIN)
    code, _, err = command(main, ["--raw", other, "--out", out])
    assert code == 2 and "data_set.json: the folder is that of s3dis, version v1.2 aligned, format 1" in err
    assert content(out) == before
    for text, message in (('{"format": 9}', "format 9"), ("{", "line 1: no JSON"), ("[]", "version None")):
        (out / "data_set.json").write_text(text)
        code, _, err = command(main, ["--raw", release, "--out", out])
        assert code == 2 and message in err


def test_no_room_on_the_disk(release, tmp_path, command, monkeypatch):
    with full_disk(monkeypatch, 3000):
        code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 3 and "3 skipped" in out
    assert err.count("No space left on device") == 3 and "out/Area_1_office_1: No space left" in err
    assert left_behind(tmp_path / "out") == ["data_set.json"]


def test_verify_finds_what_has_changed(release, tmp_path, command):
    out = tmp_path / "out"
    assert command(main, ["--raw", release, "--out", out])[0] == 0
    code, printed, _ = command(main, ["--out", out, "--verify"])
    assert code == 0 and "3 prepared, 3 as they were written" in printed
    labels = np.load(out / "Area_1_office_1/labels.npy")
    labels[5] = 13
    np.save(out / "Area_1_office_1/labels.npy", labels)
    np.save(out / "Area_2_hallway_12/color.npy", np.zeros((3, 3), np.uint8))
    (out / "Area_5_office_2/scene.json").unlink()
    code, printed, _ = command(main, ["--out", out, "--verify"])
    assert code == 3 and "3 prepared, 0 as they were written" in printed
    for text in (
        "labels.npy: has changed",
        "class 13 is outside the 13 classes",
        "holds uint8 (3, 3)",
        "no scene.json",
    ):
        assert text in printed
    code, _, err = command(main, ["--out", tmp_path / "none", "--verify"])
    assert code == 2 and "no such folder" in err


@pytest.mark.parametrize("network", ["kpconv", "point_transformer"])
def test_the_shipped_configs_train_on_it(release, tmp_path, command, network):
    for area in (3, 4, 6):
        write_room(release, f"Area_{area}", "office_1", area)
    assert command(main, ["--raw", release, "--out", tmp_path / "out", "--quiet"])[0] == 0
    found = two_steps(f"s3dis/{network}.py", tmp_path / "out", tmp_path / "run")
    assert list(found["iou"]) == list(CLASS_NAMES) and np.sum(found["confusion"]) == found["num_points"] > 0
    assert json.loads((tmp_path / "out/Area_5_office_2/scene.json").read_text())["num_points"] >= found["num_points"]


def test_text_of_a_release_looks_as_the_genuine_one():
    points, colors = np.array([[-15.609, 39.505, 0.1]]), np.array([[73, 4, 255]])
    assert lines(points, colors) == [b"-15.609 39.505 0.100 73 4 255\n"]
    assert lines(points, colors, floats=True)[0].endswith(b" 73.000000 4.000000 255.000000\n") and len(OBJECTS) == 7


def test_a_cluster_of_dask_gives_the_same_bytes(release, tmp_path, command):
    distributed = pytest.importorskip("distributed")
    assert command(main, ["--raw", release, "--out", tmp_path / "here"])[0] == 0
    (release / "Area_2/hallway_12/Annotations/floor_1.txt").rename(tmp_path / "floor_1.txt")
    (release / "Area_2/hallway_12/Annotations/floor_1.txt").write_bytes(b"1 2 3\n")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        code, out, err = command(main, ["--raw", release, "--out", tmp_path / "there", "--scheduler", address])
        assert code == 3 and "2 prepared, 1 skipped" in out and "floor_1.txt: line 1: 3 values where 6 are due" in err
        (tmp_path / "floor_1.txt").rename(release / "Area_2/hallway_12/Annotations/floor_1.txt")
        code, out, err = command(main, ["--raw", release, "--out", tmp_path / "there", "--scheduler", address])
        assert code == 0 and "1 prepared" in out and "2 left as it was" in out, err
    assert content(tmp_path / "there") == content(tmp_path / "here")
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "x", "--scheduler", "tcp://127.0.0.1:9"])
    assert code == 2 and "--scheduler tcp://127.0.0.1:9: cannot be reached" in err
