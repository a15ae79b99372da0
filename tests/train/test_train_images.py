"""Runs on pictures and volumes: a point network on their cells, and one that reads whole windows."""

import json

import numpy as np
import pytest
import torch

import pcseg
from pcseg import run_setup
from pcseg.checkpoint import load_checkpoint
from pcseg.config import DeepLabConfig, KPConvConfig, ModelConfig, SwinConfig, ViTConfig
from pcseg.errors import InputError
from pcseg.evaluate import main as evaluate
from pcseg.evaluate import title_of
from pcseg.train import train
from tests.train.toy_images import CODES, image_config, toy_image

VIT = ViTConfig(hidden=32, layers=1, heads=2, patch_size=2, image_size=24)
"""The least of the networks that read windows."""


def accuracy(found: np.ndarray, codes: np.ndarray) -> float:
    return float((np.asarray(CODES)[found] == codes)[codes != 9].mean())


def test_a_point_network_learns_pixels(pixel_run, pictures, command):
    metrics = json.loads((pixel_run / "metrics.json").read_text())
    assert metrics["miou"] > 0.7 and metrics["protocol"] == "voxels/votes=1/scene"
    _, codes = toy_image(2, (24, 70))
    assert metrics["num_points"] == int((codes != 9).sum()), "each labelled pixel once"
    network = pcseg.load(pixel_run)
    image, codes = toy_image(7, (30, 33))
    probs = network.predict_image(image)
    assert probs.shape == (30, 33, 2) and accuracy(probs.argmax(2), codes) > 0.85
    y, x = np.indices((30, 33))
    coords = np.stack([x, y], 2).reshape(-1, 2)
    rows = network.predict(coords + 100.0, image.reshape(-1, 3) / 255)
    assert rows.shape == (990, 2)
    np.testing.assert_allclose(rows, probs.reshape(-1, 2), atol=1e-4)
    assert isinstance(network.predict_image(torch.from_numpy(image), votes=2), torch.Tensor)
    for protocol in ("full/votes=3/scene", "voxels/votes=1/tile"):
        code, out, err = command(evaluate, [pixel_run, "--protocol", protocol, "--scenes", "*"])
        assert code == 0, err
        assert "train_a, train_b, val_a" in out


def test_a_network_of_windows_learns_images(pictures, tmp_path):
    train(image_config(pictures, steps=60, model=VIT, eval_protocol="full/votes=2/scene"), tmp_path)
    card = load_checkpoint(tmp_path).card
    assert card.tile_size == 24 and card.scores["miou"] > 0.7
    network = pcseg.load(tmp_path)
    image, codes = toy_image(7, (30, 33))
    probs = network.predict_image(image, votes=2)
    np.testing.assert_allclose(probs.sum(2), 1.0, atol=1e-5)
    assert accuracy(probs.argmax(2), codes) > 0.85
    with pytest.raises(ValueError, match="use predict_image"):
        network.predict(np.zeros((4, 2)), np.zeros((4, 3)))


@pytest.mark.parametrize(
    "model",
    [
        DeepLabConfig(backbone="mobilenet_v2", decoder_channels=8, encoder={"depth_multiplier": 0.35}),
        SwinConfig(embed=8, depths=(1, 1), heads=(1, 2), window=3, decoder_channels=8),
    ],
    ids=lambda model: model.kind,
)
def test_networks_of_windows_train_and_predict(pictures, tmp_path, model: ModelConfig):
    train(image_config(pictures, steps=2, model=model), tmp_path)
    probs = pcseg.load(tmp_path).predict_image(toy_image(7, (30, 33))[0], votes=2)
    np.testing.assert_allclose(probs.sum(2), 1.0, atol=1e-5)


def test_a_frozen_encoder_is_thawed_by_a_second_run(pictures, tmp_path):
    """A head first, then all of it: freezing and dropout are no other network, another width is."""
    first = image_config(pictures, steps=2, model=VIT.model_copy(update={"freeze": True}))
    train(first, tmp_path / "head")
    second = image_config(pictures, steps=1, model=VIT.model_copy(update={"dropout": 0.1}))
    train(second, tmp_path / "all", init=tmp_path / "head")
    before, after = (load_checkpoint(tmp_path / name).weights for name in ("head", "all"))
    moved = [name for name in before if "encoder" in name and not torch.equal(before[name], after[name])]
    assert moved and max(float((before[n].float() - after[n].float()).abs().max()) for n in moved) < 0.05
    with pytest.raises(InputError, match=r"is of another model: model\.layers is 1 there and 2 here"):
        train(
            image_config(pictures, steps=1, model=VIT.model_copy(update={"layers": 2})),
            tmp_path / "deep",
            init=tmp_path / "head",
        )


def test_a_killed_run_of_windows_goes_on_exactly(pictures, tmp_path, monkeypatch):
    config = image_config(pictures, model=VIT, prefetch=0)
    train(config, tmp_path / "whole")
    original = run_setup.WindowDataset.__getitem__

    def item(self, index):
        if index == 10:
            raise KeyboardInterrupt
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(run_setup.WindowDataset, "__getitem__", item)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "killed")
    train(config, tmp_path / "killed")
    one, other = (load_checkpoint(tmp_path / name / "checkpoints/last.safetensors") for name in ("whole", "killed"))
    assert one.card.step == other.card.step == 8
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_a_strip_of_images_is_scored_alone(pictures, tmp_path):
    config = image_config(pictures, model=VIT)
    strip = config.data.strip.model_copy(update={"fraction": 0.25, "margin": 2.0})
    config = config.model_copy(update={"data": config.data.model_copy(update={"strip": strip})})
    train(config, tmp_path)
    scored = json.loads((tmp_path / "metrics.json").read_text())["num_points"]
    total = sum(int((toy_image(seed)[1][:, 36:] != 9).sum()) for seed in (0, 1))
    assert scored == total


def test_a_point_network_learns_a_volume(volume_run):
    metrics = json.loads((volume_run / "metrics.json").read_text())
    assert metrics["num_points"] == 20 * 18 * 8 and metrics["miou"] > 0.7
    with pytest.raises(ValueError, match="reads clouds in space, no images"):
        pcseg.load(volume_run).predict_image(np.zeros((4, 4, 3), np.uint8))


def test_dimensions_must_fit(pictures, tmp_path):
    config = image_config(pictures, model=KPConvConfig(voxel_size=1.0))
    with pytest.raises(InputError, match=r"model\.dim is 3, and images have 2; change one of them"):
        train(config, tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [(np.zeros((4, 4)), r"image must be \(H, W, 3\)"), (np.zeros((4, 4, 4)), r"image must be \(H, W, 3\)")],
)
def test_images_of_another_shape(pixel_run, image, message):
    with pytest.raises(ValueError, match=message):
        pcseg.load(pixel_run).predict_image(image)


def test_many_names_are_counted(pictures):
    class Part:
        def __init__(self, name):
            self.name = name

    assert title_of([Part("a"), Part("b")]) == "a, b"
    assert title_of([Part(f"img{number}") for number in range(18)]) == "img0 and 17 others"
