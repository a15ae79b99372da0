"""Scans in, segmented scans out: nothing lost, nothing half-written."""

import errno
import os
from pathlib import Path

import laspy
import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

import pcseg
from pcseg.checkpoint import load_checkpoint, save_checkpoint
from pcseg.evaluate import main as evaluate
from pcseg.io import scan
from pcseg.predict import main
from pcseg.train import train
from tests.train.toy import toy_cloud, toy_config, write_scene

ORIGIN = (84000.0, 447000.0, 0.0)


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    train(toy_config(scenes, steps=30, optim={"lr": 0.01}), folder)
    return folder


def write_las(path: Path, seed: int = 2) -> np.ndarray:  # (N,) true classes
    coords, labels = toy_cloud(seed)
    las = laspy.create(point_format=6, file_version="1.4")
    las.header.offsets, las.header.scales = ORIGIN, (0.001, 0.001, 0.001)
    las.x, las.y, las.z = (coords.astype(np.float64) + ORIGIN).T
    las.intensity = np.arange(len(coords)) % 1000
    las.classification = np.full(len(coords), 1)
    las.add_extra_dim(laspy.ExtraBytesParams("quality", np.float32))
    las.quality = np.linspace(0, 1, len(coords))
    las.write(str(path))
    return labels


def write_ply(path: Path, seed: int = 2) -> np.ndarray:
    coords, labels = toy_cloud(seed)
    vertex = np.zeros(len(coords), [("x", "f8"), ("y", "f8"), ("z", "f8"), ("mark", "u2")])
    for axis, name in enumerate("xyz"):
        vertex[name] = coords[:, axis] + ORIGIN[axis]
    vertex["mark"] = np.arange(len(coords))
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(path))
    return labels


def accuracy(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found == truth)[truth >= 0].mean())


def test_las_keeps_everything_and_gains_classes(run, tmp_path, command):
    truth = write_las(tmp_path / "scan.laz")
    code, out, err = command(main, [run, tmp_path / "scan.laz", "-o", tmp_path / "out"])
    assert code == 0, err
    assert "600 points: flat" in out
    before, after = laspy.read(tmp_path / "scan.laz"), laspy.read(tmp_path / "out/scan.laz")
    for name in before.point_format.dimension_names:
        assert np.array_equal(before[name], after[name]), name
    assert accuracy(np.asarray(after.pred_class), truth) > 0.8
    assert 0.5 <= after.confidence.min() <= after.confidence.max() <= 1.0
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == ["scan.laz", "scan.png", "scan_classes.ply"]
    assert (tmp_path / "out/scan.png").read_bytes()[:4] == b"\x89PNG"
    cloud = PlyData.read(str(tmp_path / "out/scan_classes.ply"))["vertex"]
    assert len(cloud) == 600
    assert len(np.unique(np.stack([cloud[c] for c in ("red", "green", "blue")]), axis=1).T) >= 2


def test_overwriting_writes_the_codes_of_the_source(run, tmp_path, command):
    write_las(tmp_path / "scan.las")
    arguments = [run, tmp_path / "scan.las", "-o", tmp_path / "new.las", "--overwrite-classification", "--no-pictures"]
    code, _, err = command(main, arguments)
    assert code == 0, err
    after = laspy.read(tmp_path / "new.las")
    assert set(np.unique(after.classification)) == {2, 6}
    assert np.array_equal(np.asarray(after.classification) == 6, np.asarray(after.pred_class) == 1)
    assert set(np.unique(after.orig_class)) == {1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.las", "scan.las"]


def test_ply(run, tmp_path, command):
    truth = write_ply(tmp_path / "scan.ply")
    code, _, err = command(
        main, [run, tmp_path / "scan.ply", "-o", tmp_path / "out", "--votes", "2", "--projection", "3"]
    )
    assert code == 0, err
    after = PlyData.read(str(tmp_path / "out/scan.ply"))["vertex"]
    assert np.array_equal(after["mark"], np.arange(600))
    assert accuracy(np.asarray(after["pred_class"]), truth) > 0.8


def test_bad_scans_do_not_stop_the_good_ones(run, tmp_path, command):
    (tmp_path / "text.laz").write_text("hello")
    write_las(tmp_path / "good.las")
    scans = [tmp_path / name for name in ("text.laz", "missing.las", "good.las")]
    code, out, err = command(main, [run, *scans, "-o", tmp_path / "out", "--no-pictures"])
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == 3
    assert "text.laz: is no LAS or LAZ file" in lines[0]
    assert "missing.las: no such file" in lines[1]
    assert lines[2].startswith("1 of 3 scans done; not done: ")
    assert "good.las: 600 points" in out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.las"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the first argument is a checkpoint or a run folder"),
        (["{run}"], "name the scans, images or volumes to segment"),
        (["{run}", "scan.xyz", "-o", "out"], "scan.xyz: expected a .las, .laz, .ply, .jpg, "),
        (["{run}", "scan.las"], "out"),
        (["nowhere", "scan.las", "-o", "out"], "nowhere: no such checkpoint"),
        (["scan.las", "scan.las", "-o", "out"], "scan.las: is no checkpoint"),
        (["{run}", "scan.las", "-o", "."], "would overwrite the scan itself"),
        (["{run}", "scan.las", "-o", "file/out"], "file/out: Not a directory"),
        (["{run}", "scan.las", "scan.las", "-o", "out"], "would overwrite those of"),
        (["{run}", "scan.las", "-o", "scan.ply"], "can only be written as its own kind"),
        (["{run}", "scan.las", "-o", "out", "--votes", "0"], "--votes: from 1 to 999 views, got 0"),
        (["{run}", "scan.las", "-o", "out", "--projection", "0"], "projection"),
        (["{run}", "scan.las", "-o", "out", "--device", "gpu"], "device 'gpu': give auto, cpu or cuda"),
        (["{run}", "scan.las", "-o", "out", "--device", "cuda:99"], "device 'cuda:99': torch finds "),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, command, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_las(tmp_path / "scan.las")
    (tmp_path / "file").write_text("")
    code, out, err = command(main, [text.format(run=run) for text in arguments])
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err
    assert not list(tmp_path.glob("out/*"))


def test_full_disk_leaves_nothing(run, tmp_path, command, monkeypatch):
    write_las(tmp_path / "scan.las")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out/scan.las"))

    monkeypatch.setattr(scan, "write_predictions", full)
    code, _, err = command(main, [run, tmp_path / "scan.las", "-o", tmp_path / "out"])
    assert code == 2
    assert err == f"error: {tmp_path}/out/scan.las: No space left on device\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_interrupt_leaves_nothing(run, tmp_path, command, monkeypatch):
    write_las(tmp_path / "scan.las")

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(scan, "write_predictions", interrupt)
    code, _, err = command(main, [run, tmp_path / "scan.las", "-o", tmp_path / "out"])
    assert (code, err) == (130, "interrupted\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_from_python(run):
    network = pcseg.load(run)
    coords, labels = toy_cloud(2)
    heights = coords[:, 2:3].copy()
    probs = network.predict(coords.astype(np.float64) + ORIGIN, heights)
    assert isinstance(probs, np.ndarray)
    assert probs.shape == (600, 2)
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-5)
    assert accuracy(probs.argmax(1), labels) > 0.8
    by_name = network.predict(coords.astype(np.float64) + ORIGIN, {"height_above_ground": heights[:, 0]})
    np.testing.assert_array_equal(by_name, probs)
    tensors = network.predict(torch.from_numpy(coords), torch.from_numpy(heights), votes=2)
    assert isinstance(tensors, torch.Tensor)
    assert accuracy(tensors.argmax(1).numpy(), labels) > 0.8
    assert network.predict(np.zeros((0, 3)), np.zeros((0, 1))).shape == (0, 2)
    assert (network.class_names, network.class_codes) == (("flat", "tall"), (2, 6))


@pytest.mark.parametrize(
    ("coords", "feats", "message"),
    [
        (np.zeros((4, 2)), np.zeros((4, 1)), r"coords must be \(N, 3\)"),
        (np.full((4, 3), np.nan), np.zeros((4, 1)), "finite"),
        (np.zeros((4, 3)), np.zeros((4, 2)), r"feats must be \(4, 1\): height_above_ground"),
        (np.zeros((4, 3)), None, r"feats must be \(4, 1\)"),
        (np.zeros((4, 3)), {"intensity": np.zeros(4)}, "lacks height_above_ground"),
    ],
)
def test_from_python_errors(run, coords, feats, message):
    with pytest.raises(ValueError, match=message):
        pcseg.load(run).predict(coords, feats)


def test_evaluate_names_its_protocol(run, scenes, tmp_path, command):
    for protocol in ("full/votes=1/scene", "voxels/votes=2/tile"):
        code, out, err = command(evaluate, [run, "--protocol", protocol, "--out", tmp_path / "m.json"])
        assert code == 0, err
        assert f"{protocol}: mIoU 0." in out
        assert protocol in (tmp_path / "m.json").read_text()
    code, out, err = command(evaluate, [run / "checkpoints/best.safetensors", "--scenes", "train_*"])
    assert code == 0, err
    assert "train_a, train_b" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "rooms"], "protocol 'rooms': expected"),
        (["--scenes", "south"], "no scene matches 'south'"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "bare"], "has no labels to score; "),
        (["--device", "gpu"], "device 'gpu': give auto, cpu or cuda"),
        (["--projection", "0"], "projection"),
    ],
)
def test_evaluate_bad_input(run, tmp_path, command, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "bare", "val_a", 0, labels=False)
    code, _, err = command(evaluate, [run, *arguments])
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err


def test_checkpoint_whose_weights_do_not_fit_its_model(run, tmp_path, command):
    saved = load_checkpoint(run)
    del saved.weights["head.weight"]
    save_checkpoint(saved, tmp_path / "broken.safetensors")
    code, _, err = command(evaluate, [tmp_path / "broken.safetensors"])
    assert code == 2
    assert "is of another model: head.weight is not in the checkpoint" in err
    assert err.count("\n") == 1
