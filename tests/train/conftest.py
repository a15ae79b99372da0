"""Toy data and toy runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcseg import weaken
from pcseg.config import PointPanopticConfig
from pcseg.config_file import write_config
from pcseg.train import train
from tests.one_thread import one_thread
from tests.train.toy import write_scenes
from tests.train.toy_images import image_config, volume_config, write_images, write_volumes
from tests.train.toy_panoptic import panoptic_config, write_panoptic_images
from tests.train.toy_yard import POINTS, write_yard, yard_config

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy scenes; tests leave it as it is."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy pictures and their masks; tests leave it as it is."""
    return write_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="session")
def pixel_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a point network on the pixels of pictures."""
    folder = tmp_path_factory.mktemp("pixel_run")
    train(image_config(pictures, steps=25), folder)
    return folder


@pytest.fixture(scope="session")
def volume_run(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volume_run")
    train(volume_config(volumes, steps=15), folder)
    return folder


@pytest.fixture(scope="session")
def panoptic_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of toy pictures in COCO's panoptic layout; tests leave it as it is."""
    return write_panoptic_images(tmp_path_factory.mktemp("panoptic") / "data", 12)


@pytest.fixture(scope="session")
def mask2former_run(panoptic_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells the things of pictures apart, by all their labels."""
    folder = tmp_path_factory.mktemp("mask2former_run")
    optim = {"lr": 2e-3, "branch_factor": 1.0}
    train(panoptic_config(panoptic_images, steps=200, batch_size=4, optim=optim, average=0.9, clip_norm=1.0), folder)
    return folder


@pytest.fixture(scope="session")
def yards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("yards")
    for seed, name in enumerate([*(f"train_{letter}" for letter in "abcdefghij"), "val_a"]):
        write_yard(root, name, seed)
    return root


@pytest.fixture(scope="session")
def clicks(yards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clicks for each thing and for the ground of each scene."""
    folder = tmp_path_factory.mktemp("clicks")
    write_config(yard_config(yards), folder / "config.yaml")
    mask = folder / "clicks.npz"
    weaken.main([str(folder / "config.yaml"), "clicks", "--radius", "2", "--count", "4", "-o", str(mask)])
    return mask


@pytest.fixture(scope="session")
def yard_run(yards: Path, clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yard_run")
    method = PointPanopticConfig(**POINTS, prior_weight=0.3, distance_prior_weight=0.3)
    change = {"steps": 250, "average": 0.9, "loss": {"class_weights": "inverse"}}
    train(yard_config(yards, method, weak_labels=clicks, **change), folder)
    return folder
