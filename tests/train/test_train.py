"""A run leaves what it should, goes on exactly where it was, and says in one line what is wrong."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pcseg import checkpoint as checkpoint_module
from pcseg.batch import PointBatch
from pcseg.checkpoint import Checkpoint, load_checkpoint
from pcseg.config import TrainConfig
from pcseg.config_file import load_config, write_config
from pcseg.datasets.streams import StreamDataset
from pcseg.datasets.views import CropDataset
from pcseg.errors import InputError
from pcseg.train import alone_in, main, train
from tests.train.toy import toy_config, write_scene


def last(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / "checkpoints/last.safetensors")


def assert_same(one: object, other: object, where: str = "") -> None:
    """Bit for bit the same, tensors and all."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor) and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert isinstance(other, list) and len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    assert last(one).card.step == last(other).card.step
    assert_same(last(one).weights, last(other).weights, "weights")
    assert_same(last(one).training, last(other).training, "training")


def assert_goes_on_exactly(config: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails at its sixth item and is started again ends as one that was never interrupted."""
    train(config, folder / "whole")
    original = StreamDataset.__getitem__

    def failing(self, index):
        if 5 <= index < 100:
            raise OSError("stop here")
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(StreamDataset, "__getitem__", failing)
        with pytest.raises(OSError, match="stop here"):
            train(config, folder / "run")
    torch.manual_seed(1234)
    train(config, folder / "run")
    assert_same_run(folder / "run", folder / "whole")


@pytest.fixture
def stop_at(monkeypatch):
    """Makes item number i of a run call a function first, once."""

    def install(number: int, action) -> None:
        original, done = CropDataset.__getitem__, []

        def item(self: CropDataset, index: int) -> PointBatch:
            if index == number and not done:
                done.append(index)
                action()
            return original(self, index)

        monkeypatch.setattr(CropDataset, "__getitem__", item)

    return install


def test_a_run_leaves_everything(scenes, tmp_path, command):
    config = toy_config(scenes, steps=30, eval_every=15)
    write_config(config, tmp_path / "toy.yaml")
    code, out, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "run", "--optim.lr", "0.01"])
    assert code == 0, err
    assert "mIoU" in out and "voxels/votes=1/scene" in out
    folder = tmp_path / "run"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoints", "config.yaml", "metrics.json", "tensorboard"]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["best.safetensors", "last.safetensors"]
    resolved = load_config(folder)
    assert resolved.optim.lr == 0.01
    caps = resolved.model.max_neighbors
    assert caps is not None and len(caps) == 2 and min(caps) > 3
    metrics = json.loads((folder / "metrics.json").read_text())
    wanted = {"protocol", "miou", "macc", "oa", "iou", "confusion", "num_points", "train_seconds"}
    assert wanted <= metrics.keys()
    assert metrics["protocol"] == "voxels/votes=1/scene"
    assert list(metrics["iou"]) == ["flat", "tall"]
    assert sum(map(sum, metrics["confusion"])) == metrics["num_points"] > 200
    assert metrics["miou"] > 0.8, "a wall on a plane is learnt in a moment"
    card = load_checkpoint(folder).card
    assert card.scores["miou"] >= metrics["miou"]
    assert last(folder).card.finished
    assert 2.0 < card.tile_size < 12.0


@pytest.mark.parametrize("change", [{}, {"average": 0.9, "accumulate": 2}, {"optim": {"kind": "sgd"}, "prefetch": 0}])
def test_an_interrupted_run_goes_on_exactly(scenes, tmp_path, command, stop_at, change):
    config = toy_config(scenes, **change)
    train(config, tmp_path / "whole")
    stop_at(7, lambda: signal.raise_signal(signal.SIGINT))
    write_config(config, tmp_path / "toy.yaml")
    code, _, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "run"])
    assert code == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    step = last(tmp_path / "run").card.step
    assert 1 <= step < 8
    assert not list(tmp_path.glob("**/*.part"))
    torch.manual_seed(99)  # whatever the process did before must not matter
    code, _, err = command(main, [tmp_path / "run"])
    assert code == 0, err
    assert f"goes on at step {step} of 8" in err
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_killed_run_goes_on_exactly(scenes, tmp_path):
    config = toy_config(scenes, steps=40, save_every=1, eval_every=20)
    train(config, tmp_path / "whole")
    write_config(config, tmp_path / "toy.yaml")
    path = tmp_path / "run/checkpoints/last.safetensors"
    program = [sys.executable, "-m", "pcseg.train", str(tmp_path / "toy.yaml"), "--run", str(tmp_path / "run")]
    process = subprocess.Popen(program, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it was killed, it did not end by itself"
    assert 1 <= last(tmp_path / "run").card.step < 40
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_stays(scenes, tmp_path, capfd):
    config = toy_config(scenes, steps=2)
    train(config, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    train(config, tmp_path)
    assert "is finished, with these settings; --fresh trains it anew" in capfd.readouterr().err
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds a finished run of other settings: steps is 2 there and 3 here"):
        train(config.model_copy(update={"steps": 3}), tmp_path)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_fresh_run_leaves_nothing_of_the_former(scenes, tmp_path, stop_at):
    train(toy_config(scenes, steps=2), tmp_path)
    stop_at(1, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(toy_config(scenes, steps=3), tmp_path, fresh=True)
    assert last(tmp_path).card.step == 1
    assert not (tmp_path / "checkpoints" / "best.safetensors").exists() and not (tmp_path / "metrics.json").exists()


def test_what_stops_the_last_validation_costs_no_step(scenes, tmp_path, monkeypatch):
    config = toy_config(scenes, steps=3, save_every=100)
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("pcseg.run_setup.evaluate_scenes", raised(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    assert last(tmp_path / "run").card.step == 3 and not last(tmp_path / "run").card.finished
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert (tmp_path / "run" / "metrics.json").exists()


def raised(error):
    def call(*_, **__):
        raise error

    return call


def test_nothing_to_learn_and_nothing_to_score(scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    config = toy_config(tmp_path / "data", steps=1)
    for part in ("val", "train"):
        for file in (tmp_path / "data").glob(f"{part}_*/labels.npy"):
            np.save(file, np.full_like(np.load(file), -1))
        kind = {"val": "validation", "train": "training"}[part]
        with pytest.raises(InputError, match=f"no row of the {kind} scenes has a label; name others in data.{part}_sc"):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_unfinished_run_of_other_settings(scenes, tmp_path, command, stop_at):
    config = toy_config(scenes)
    write_config(config, tmp_path / "toy.yaml")
    stop_at(4, lambda: signal.raise_signal(signal.SIGINT))
    arguments = [tmp_path / "toy.yaml", "--run", tmp_path / "run"]
    assert command(main, arguments)[0] == 130
    code, _, err = command(main, [*arguments, "--optim.lr", "0.5", "--steps", "9"])
    assert code == 2
    assert err.count("\n") == 1
    assert "optim.lr is 0.005 there and 0.5 here; " in err and "steps is 8 there and 9 here" in err and "--fresh" in err
    code, _, err = command(main, [*arguments, "--steps", "2", "--fresh"])
    assert code == 0, err
    assert last(tmp_path / "run").card.step == 2


def test_fine_tuning_on_another_class_table(scenes, tmp_path, command):
    train(toy_config(scenes, steps=2), tmp_path / "first")
    classes = ("floor", "wall", "roof")
    write_scene(tmp_path / "data", "train_a", 5, class_names=classes)
    config = toy_config(tmp_path / "data", steps=1)
    data = config.data.model_copy(update={"class_names": classes, "label_map": {1: 0, 2: 1, 6: 2}, "val_scenes": ()})
    write_config(config.model_copy(update={"data": data}), tmp_path / "toy.yaml")
    arguments = [tmp_path / "toy.yaml", "--run", tmp_path / "second", "--init", tmp_path / "first"]
    code, _, err = command(main, arguments)
    assert code == 0, err
    assert "2 tensors are new" in err
    assert "classifier.weight is (2, 16) there and (3, 16) here" in err
    assert "classifier.bias is (2,) there and (3,) here" in err
    first, second = load_checkpoint(tmp_path / "first"), load_checkpoint(tmp_path / "second")
    assert first.card.feature_contract == second.card.feature_contract
    assert not (tmp_path / "second/metrics.json").exists(), "nothing to score, no scores"
    moved = (first.weights["head.weight"] - second.weights["head.weight"]).abs().max()
    assert 0 < moved < 0.01, "one small step from where it started"


def test_fine_tuning_from_another_model(scenes, tmp_path, command):
    train(toy_config(scenes, steps=1), tmp_path / "first")
    write_config(toy_config(scenes, steps=1), tmp_path / "toy.yaml")
    arguments = ["--run", tmp_path / "second", "--init", tmp_path / "first", "--model.width", "24"]
    code, _, err = command(main, [tmp_path / "toy.yaml", *arguments])
    assert code == 2
    assert err.count("\n") == 1
    assert "is of another model: model.width is 16 there and 24 here" in err


def test_full_disk_keeps_the_former_checkpoint(scenes, tmp_path, command, monkeypatch):
    write_config(toy_config(scenes), tmp_path / "toy.yaml")
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(checkpoint_module.os, "fsync", fsync)
    code, _, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "run"])
    path = tmp_path / "run/checkpoints/last.safetensors"
    assert code == 2
    assert err.splitlines()[-1] == f"error: {path}: No space left on device"
    assert "Traceback" not in err
    assert last(tmp_path / "run").card.step == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_unwritable_folder(scenes, tmp_path, command):
    (tmp_path / "file").write_text("")
    write_config(toy_config(scenes), tmp_path / "toy.yaml")
    code, _, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "file/run"])
    assert code == 2
    assert err.count("\n") == 1
    assert "file/run: Not a directory" in err


def test_a_second_run_in_the_same_folder_is_kept_out(scenes, tmp_path, command):
    write_config(toy_config(scenes, steps=2), tmp_path / "toy.yaml")
    run = tmp_path / "run"
    run.mkdir()
    with alone_in(run):
        code, _, err = command(main, [tmp_path / "toy.yaml", "--run", run])
        assert code == 2 and err.count("\n") == 1
        assert f"{run}: a run is going on there" in err
        assert not (run / "config.yaml").exists() and not (run / "checkpoints").exists()
    assert command(main, [tmp_path / "toy.yaml", "--run", run])[0] == 0


def test_scene_without_labels(tmp_path, command):
    write_scene(tmp_path / "data", "train_a", 0, labels=False)
    write_config(toy_config(tmp_path / "data"), tmp_path / "toy.yaml")
    code, _, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "run", "--data.val-scenes"])
    assert code == 2
    assert err.count("\n") == 1
    assert "train_a: has no labels to train on" in err
    assert not (tmp_path / "run/checkpoints").exists()


def test_scene_of_another_class_table(tmp_path, command):
    write_scene(tmp_path / "data", "train_a", 0, class_names=("flat", "steep"))
    write_config(toy_config(tmp_path / "data"), tmp_path / "toy.yaml")
    code, _, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "run", "--data.val-scenes"])
    assert code == 2
    assert err.count("\n") == 1
    assert "prepared with the classes flat, steep, the run has flat, tall" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "nowhere.py: no such config"),
        ([], "the first argument is a config"),
        (["{config}", "--optim.lr", "fast"], "--optim.lr"),
        (["{config}", "--nothing", "1"], "--nothing"),
        (["{config}", "--data.train-scenes", "north_*"], "no scene matches 'north_*'"),
        (["{config}", "--data.features", "intensity"], "has no column 'intensity'"),
        (["{config}", "--eval-protocol", "rooms"], "protocol 'rooms': expected"),
        (["{config}", "--device", "gpu"], "device 'gpu': give auto, cpu or cuda"),
        (["{config}", "--device", "cuda:99"], "device 'cuda:99': torch finds "),
        (["{config}", "--init", "nowhere"], "nowhere: no such checkpoint"),
    ],
)
def test_bad_input_is_one_line(scenes, tmp_path, command, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_config(toy_config(scenes), tmp_path / "toy.yaml")
    code, out, err = command(main, [text.format(config="toy.yaml") for text in arguments])
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err


def test_a_loss_that_explodes(scenes, tmp_path, command):
    write_config(toy_config(scenes, steps=6, clip_norm=None, save_every=1), tmp_path / "toy.yaml")
    code, _, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "run", "--optim.lr", "1e30"])
    assert code == 2
    assert "the loss is nan at step 2; " in err.splitlines()[-1]
    assert "Traceback" not in err
    assert last(tmp_path / "run").card.step == 1


def test_time_limit_ends_a_run_early(scenes, tmp_path):
    train(toy_config(scenes, steps=100_000, time_limit=0.3, save_every=100_000), tmp_path)
    card = last(tmp_path).card
    assert card.finished
    assert 0 < card.step < 100_000
    assert 0.3 <= card.train_seconds < 20


def test_averaged_weights_are_what_is_kept(scenes, tmp_path):
    train(toy_config(scenes, average=0.5), tmp_path)
    saved = last(tmp_path)
    assert saved.training is not None
    assert saved.training["averaged"] == 8
    assert not torch.equal(saved.weights["classifier.weight"], saved.training["weights"]["classifier.weight"])
    assert_same(load_checkpoint(tmp_path).weights, saved.weights)


def test_a_strip_can_be_held_out(scenes, tmp_path):
    config = toy_config(scenes, steps=1)
    strip = config.data.strip.model_copy(update={"fraction": 0.3, "margin": 0.5})
    held_out = config.model_copy(
        update={"data": config.data.model_copy(update={"strip": strip, "val_scenes": ("no",)})}
    )
    train(held_out, tmp_path)
    scored = json.loads((tmp_path / "metrics.json").read_text())["num_points"]
    train(config, tmp_path / "other")
    assert 0 < scored < json.loads((tmp_path / "other/metrics.json").read_text())["num_points"]


def test_class_weights_come_from_the_labels(scenes, tmp_path):
    from pcseg.run_setup import set_up

    config = toy_config(scenes, loss={"class_weights": "inverse"})
    trainer, _ = set_up(config, tmp_path, init=None, fresh=False, device="cpu")
    weights = trainer.method.labelled.class_weights
    assert weights is not None
    assert float(weights.sum()) == pytest.approx(2.0)
    assert weights[1] > weights[0], "walls are rarer than floors"


def test_interrupted_twice_stops_at_once(scenes, tmp_path, stop_at):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stop_at(0, twice)
    with pytest.raises(KeyboardInterrupt):
        train(toy_config(scenes, steps=100_000, prefetch=0), tmp_path)


def test_checkpoint_without_training_state_cannot_go_on(scenes, tmp_path):
    config = toy_config(scenes, steps=4)
    train(config, tmp_path)
    saved = last(tmp_path)
    card = saved.card.model_copy(update={"finished": False})
    checkpoint_module.save_checkpoint(
        dataclasses.replace(saved, card=card, training=None), tmp_path / "checkpoints/last.safetensors"
    )
    with pytest.raises(InputError, match="holds weights only"):
        train(config, tmp_path)


def test_voxels_too_small_to_count_are_one_line(scenes, tmp_path, command):
    write_config(toy_config(scenes), tmp_path / "toy.yaml")
    code, _, err = command(main, [tmp_path / "toy.yaml", "--run", tmp_path / "run", "--model.voxel-size", "1e-12"])
    assert code == 2 and err.count("\n") == 1 and "the voxel size 1e-12 is too small for coordinates up to" in err
