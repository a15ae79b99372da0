"""Training without labels: none is read, clusters are matched to classes for scoring, it learns, it goes on exactly."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pcseg import evaluate, predict
from pcseg.checkpoint import load_checkpoint
from pcseg.config import ClustersConfig, ErdaConfig, OptimConfig, TrainConfig
from pcseg.datasets.scene_folder import Scene, write_info
from pcseg.io.ply import write_ply
from pcseg.train import train
from tests.train.test_train import assert_goes_on_exactly
from tests.train.toy import toy_cloud, toy_config, write_scenes
from tests.train.toy_images import CODES, image_config, write_images

METHOD = ErdaConfig(temperature=0.1, clusters=ClustersConfig(neighbors=4, share=0.7))


def unsupervised(config: TrainConfig, **change) -> TrainConfig:
    return TrainConfig.model_validate(config.model_copy(update={"method": METHOD, **change}).model_dump())


def test_a_cloud_is_learnt_without_labels(scenes, tmp_path, command):
    config = unsupervised(toy_config(scenes), steps=60, optim=OptimConfig(lr=0.01))
    train(config, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["protocol"] == "voxels/votes=1/scene, clusters matched"
    assert metrics["miou"] > 0.8, "the wall stands out in height"
    assert metrics["weak_labels"]["recipe"] == {"kind": "none"} and not any(metrics["weak_labels"]["labels"].values())
    code, out, _ = command(evaluate.main, [tmp_path, "--protocol", "full/votes=1/scene"])
    assert (
        code == 0
        and "full/votes=1/scene, clusters matched: mIoU" in out
        and "trained on no labels" in " ".join(out.split())
    )


def test_an_image_is_learnt_without_labels(pictures, tmp_path):
    config = unsupervised(image_config(pictures), steps=40)
    augment = config.data.augment.model_copy(update={"color": 0.0})
    config = config.model_copy(update={"data": config.data.model_copy(update={"augment": augment})})
    train(config, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["miou"] > 0.8, "red stands out of green"


@pytest.mark.parametrize("kind", ["scenes", "images"])
def test_no_label_is_read(kind, tmp_path):
    """Other labels in the training scenes, or none at all, leave every weight bit for bit the same."""
    write, make = {"scenes": (write_scenes, toy_config), "images": (write_images, image_config)}[kind]
    root = write(tmp_path / "data")
    config = unsupervised(make(root), steps=3)
    config = config.model_copy(update={"data": config.data.model_copy(update={"val_scenes": ()})})
    train(config, tmp_path / "one")
    rng = np.random.default_rng(0)
    for name in ("train_a", "train_b"):
        if kind == "images":
            mask = root / "masks" / f"{name}.png"
            shape = np.array(Image.open(mask)).shape
            Image.fromarray(rng.choice(np.array(CODES, np.uint8), shape)).save(mask)
        elif name == "train_a":
            labels = root / name / "labels.npy"
            np.save(labels, rng.integers(-1, 90, len(np.load(labels))).astype(np.int16))
        else:
            (root / name / "labels.npy").unlink()
            scene = Scene.open(root / name)
            assert scene.labels is None
            write_info(root / name, scene.info.model_copy(update={"class_names": (), "class_codes": ()}))
    train(config, tmp_path / "two")
    one, other = (load_checkpoint(tmp_path / name / "checkpoints/last.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def test_an_interrupted_run_goes_on_exactly(scenes, tmp_path, monkeypatch):
    config = unsupervised(toy_config(scenes), steps=4, save_every=1)
    assert_goes_on_exactly(config, tmp_path, monkeypatch)


def test_what_is_told(scenes, tmp_path, command):
    with pytest.raises(ValueError, match="reads no labels"):
        data = toy_config(scenes).data.model_copy(update={"weak_labels": tmp_path / "mask.npz"})
        unsupervised(toy_config(scenes), data=data)
    train(unsupervised(toy_config(scenes), steps=2), tmp_path / "run")
    coords, _ = toy_cloud(0)
    write_ply(tmp_path / "scan.ply", dict.fromkeys("xyz", np.dtype("f4")), len(coords), [dict(zip("xyz", coords.T))])
    code, _, err = command(predict.main, [tmp_path / "run", tmp_path / "scan.ply", "-o", tmp_path / "out"])
    assert code == 0 and "names of classes stand for numbered clusters" in err
