"""SemanticKITTI's layout and PandaSet: what scenes hold, and what is skipped by name."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_prep import pandaset, semantickitti
from pcseg.datasets.pandaset import CLASS_NAMES as PANDASET
from pcseg.datasets.scene_folder import Scene, find_scenes
from pcseg.datasets.semantickitti import CLASS_NAMES, LABEL_MAP
from tests.data_prep.releases import content, two_steps, zipped
from tests.io.scans import left_behind

GENUINE = Path(os.environ.get("PCSEG_SEMANTICKITTI_FRAME", "/nowhere"))


def frame(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 4) float32 and labels (N,) uint32, instances in the upper half."""
    rng = np.random.default_rng(seed)
    points = (rng.random((count, 4)) * (80, 80, 4, 1) - (40, 40, 2, 0)).astype(np.float32)
    classes = rng.choice([0, 10, 30, 40, 60, 70, 252], count).astype(np.uint32)
    instances = np.where(np.isin(classes, (10, 30, 252)), rng.integers(1, 4, count), 0).astype(np.uint32)
    return points, classes | (instances << 16)


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "dataset" / "sequences"
    for sequence, frames, labelled in (("00", 3, True), ("08", 1, True), ("11", 1, False)):
        for folder in ("velodyne", *(["labels"] if labelled else [])):
            (root / sequence / folder).mkdir(parents=True)
        for index in range(frames):
            points, labels = frame(int(sequence) * 10 + index)
            points.tofile(root / sequence / f"velodyne/{index:06d}.bin")
            if labelled:
                labels.tofile(root / sequence / f"labels/{index:06d}.label")
        (root / sequence / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    return tmp_path / "dataset"


def test_a_frame_becomes_a_scene(release, tmp_path, command):
    code, out, err = command(semantickitti.main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 0, err
    assert "semantickitti (1): 5 prepared; 1,500 points" in out
    scene = Scene.open(tmp_path / "out/00_000002")
    points, labels = frame(2)
    np.testing.assert_allclose(scene.coords + scene.origin, points[:, :3], atol=1e-5)
    np.testing.assert_array_equal(scene.column("intensity"), points[:, 3])
    names = {10: "car", 252: "car", 30: "person", 40: "road", 60: "road", 70: "vegetation"}
    expected = [CLASS_NAMES.index(names[code]) if code in names else -1 for code in (labels & 0xFFFF).tolist()]
    np.testing.assert_array_equal(scene.labels, expected)
    instances = np.asarray(scene.column("instances"))
    assert ((instances >= 0) == (labels >> 16 > 0)).all()
    assert len({*zip(labels[instances >= 0].tolist(), instances[instances >= 0].tolist())}) == instances.max() + 1
    assert [s.name for s in find_scenes(tmp_path / "out", ["@val"])] == ["08_000000"]
    assert Scene.open(tmp_path / "out/11_000000").labels is None
    assert len(find_scenes(tmp_path / "out", ["@train"])) == 3 and len(CLASS_NAMES) == 19


def test_zip_workers_and_fewer_frames(release, tmp_path, command):
    archive = zipped(release, tmp_path / "a.zip")
    for name, arguments in (("folder", [release]), ("two", [archive, "--workers", 2])):
        assert command(semantickitti.main, ["--raw", *arguments, "--out", tmp_path / name])[0] == 0
    assert content(tmp_path / "folder") == content(tmp_path / "two")
    code, out, _ = command(semantickitti.main, ["--raw", release, "--out", tmp_path / "few", "--every", 2])
    assert code == 0 and "4 prepared" in out and "00_000001" not in left_behind(tmp_path / "few")


def test_damaged_frames_are_skipped_by_file(release, tmp_path, command):
    root = release / "sequences"
    (root / "00/velodyne/000000.bin").write_bytes(bytes(15))
    (root / "00/labels/000001.label").unlink()
    labels = root / "00/labels/000002.label"
    labels.write_bytes(labels.read_bytes()[:-4])
    wrong = np.fromfile(root / "08/labels/000000.label", np.uint32)
    wrong[0] = 77
    wrong.tofile(root / "08/labels/000000.label")
    (root / "00/labels/000009.label").write_bytes(bytes(4))
    for options in (["--out", tmp_path / "out"], ["--check"]):
        code, out, err = command(semantickitti.main, ["--raw", release, *options])
        assert code == 3 and "5 skipped" in out
        for message in (
            "000000.bin: its 15 bytes are no whole number of points",
            "000001.bin: is of the train list and has no labels/000001.label",
            "000002.label: its 1196 bytes hold 299 labels, the frame has 300 points",
            "class codes outside the label map: 77",
            "000009.label: its frame has no points",
        ):
            assert message in err
    (tmp_path / "none").mkdir()
    code, _, err = command(semantickitti.main, ["--raw", tmp_path / "none", "--out", tmp_path / "x"])
    assert code == 2 and "holds no frame" in err


def test_a_label_map_of_ones_own(release, tmp_path, command):
    (tmp_path / "map.yaml").write_text(
        "classes: [road, other]\ncodes: {40: road, 60: road, 0: ignore}\ndefault: other\n"
    )
    arguments = ["--raw", release, "--out", tmp_path / "out", "--label-map", tmp_path / "map.yaml"]
    assert command(semantickitti.main, arguments)[0] == 0
    assert Scene.open(tmp_path / "out/00_000000").class_names == ("road", "other")
    assert sorted(LABEL_MAP.codes) == sorted({*LABEL_MAP.codes}) and len(LABEL_MAP.codes) == 34


@pytest.mark.skipif(
    not GENUINE.is_dir(), reason="PCSEG_SEMANTICKITTI_FRAME names no folder of NN/velodyne/ and NN/labels/"
)
def test_a_genuine_frame(tmp_path, command):
    code, out, err = command(semantickitti.main, ["--raw", GENUINE, "--out", tmp_path / "out"])
    assert code == 0, err
    scene = find_scenes(tmp_path / "out")[0]
    assert scene.num_points > 100_000 and scene.info.class_histogram["road"] > 1000 and "1 prepared" in out


def write_panda(file: Path, seed: int, **change) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    arrays = {
        "xyz_world_mm": rng.integers(-50_000, 50_000, (200, 3)).astype(np.int32),
        "intensity": rng.integers(0, 256, 200).astype(np.uint8),
        "sensor": rng.integers(0, 2, 200).astype(np.uint8),
        "label": rng.integers(1, 43, 200).astype(np.uint8),
        "ego_position": np.array([3.0, -4.0, 1.5]),
        "ego_rotation": turn,
    } | change
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **{name: values for name, values in arrays.items() if values is not None})
    return arrays


def test_pandaset_frames_are_in_the_frame_of_the_car(tmp_path, command):
    raw = tmp_path / "raw"
    made = write_panda(raw / "001/00.npz", 0)
    write_panda(raw / "003/07.npz", 1, label=np.full(200, 43, np.uint8))
    write_panda(raw / "003/08.npz", 2, sensor=np.zeros(5, np.uint8))
    write_panda(raw / "003/09.npz", 3, label=None)
    (raw / "003/10.npz").write_bytes(b"PK nothing")
    (raw / "002/lidar").mkdir(parents=True)
    (raw / "002/lidar/00.pkl.gz").write_bytes(b"\x80\x04.")
    code, out, err = command(pandaset.main, ["--raw", raw, "--out", tmp_path / "out"])
    assert code == 3 and "1 prepared" in out and "5 skipped" in out
    for message in (
        "002/lidar/00.pkl.gz: is a pickle",
        "43 (200 points)",
        "200 points, but",
        "09.npz: is no whole frame",
    ):
        assert message in err
    scene = Scene.open(tmp_path / "out/001_00")
    world = (scene.coords + scene.origin) @ made["ego_rotation"].T + made["ego_position"]
    np.testing.assert_allclose(world, made["xyz_world_mm"] / 1000, atol=1e-4)
    np.testing.assert_array_equal(scene.labels, made["label"].astype(int) - 1)
    assert scene.class_names == PANDASET and len(PANDASET) == 42 and PANDASET[40] == "Building"
    for name in ("intensity", "sensor"):
        np.testing.assert_array_equal(scene.column(name), made[name])
    code, _, err = command(pandaset.main, ["--raw", raw / "002", "--out", tmp_path / "x"])
    assert code == 2 and "holds no frame" in err
    only = tmp_path / "only"
    (only / "002/lidar").mkdir(parents=True)
    (only / "002/lidar/00.pkl.gz").write_bytes(b"")
    code, _, err = command(pandaset.main, ["--raw", only, "--out", tmp_path / "x"])
    assert code == 2 and "opening one can run code" in err


@pytest.mark.parametrize("network", ["kpconv", "point_transformer"])
def test_the_shipped_configs_train_on_frames(release, tmp_path, command, network):
    assert command(semantickitti.main, ["--raw", release, "--out", tmp_path / "out", "--quiet"])[0] == 0
    found = two_steps(f"semantickitti/{network}.py", tmp_path / "out", tmp_path / "run")
    assert list(found["iou"]) == list(CLASS_NAMES) and found["num_points"] > 0
    for name in ("001/00", "009/00"):
        write_panda(tmp_path / f"panda/{name}.npz", int(name[:3]))
    assert command(pandaset.main, ["--raw", tmp_path / "panda", "--out", tmp_path / "out2", "--quiet"])[0] == 0
    found = two_steps(f"pandaset/{network}.py", tmp_path / "out2", tmp_path / "run2")
    assert list(found["iou"]) == list(PANDASET) and found["num_points"] == 200
