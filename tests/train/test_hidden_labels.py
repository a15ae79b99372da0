"""No method learns from a label that its mask hides: other hidden labels give the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pcseg.config import TrainConfig
from pcseg.datasets.scene_part import open_sources
from pcseg.datasets.weak_draw import draw_labels
from pcseg.datasets.weak_labels import WeakLabels
from pcseg.datasets.weak_recipes import PointsRecipe
from pcseg.run_setup import set_up
from tests.train.test_methods import METHODS
from tests.train.test_weak_training import garble, with_mask
from tests.train.toy import toy_config, write_scenes
from tests.train.toy_images import image_config, write_images

KINDS = {"cloud": (write_scenes, toy_config), "image": (write_images, image_config)}
IMAGE_METHODS = ("erda_queries", "soft_split", "hard_graph_cut", "ipixmatch_unimatch")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], TrainConfig]:
    """On true labels, on data whose hidden labels are garbage, and on true labels of which others are shown."""
    found = {}
    for kind, (write, make) in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        for change, seed in (("true", 0), ("garbled", 0), ("others", 1)):
            config = make(write(folder / change), steps=3, average=0.9)
            config = config.model_copy(update={"data": config.data.model_copy(update={"val_scenes": ()})})
            voxel_size = config.model.voxel_size if kind == "cloud" else None
            sources = open_sources(config.data, config.data.train_scenes)
            weak = draw_labels(sources, PointsRecipe(count=9), seed=seed, voxel_size=voxel_size)
            mask = folder / f"{change}.npz"
            weak.save(mask)
            config = found[kind, change] = with_mask(config, mask)
            if change != "garbled":
                continue
            clean = {source.name: np.array(source.labels) for source in sources}
            garble(config)
            sources = open_sources(config.data, config.data.train_scenes)
            for source in sources:
                changed = source.labels != clean[source.name]
                assert not changed[weak.rows[source.name]].any() and changed.mean() > 0.3
            garbled = WeakLabels.of_rows(sources, weak.rows, weak.info.recipe, seed=0, voxel_size=voxel_size)
            garbled.save(mask)
    return found


def trained(config: TrainConfig, method: str, folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a method has learnt after three steps, and the running average of it."""
    config = TrainConfig.model_validate(config.model_copy(update={"method": METHODS[method]}).model_dump())
    folder.mkdir()
    trainer, _ = set_up(config, folder, init=None, fresh=True, device="cpu")
    trainer.run()
    assert trainer.step == 3
    average = {f"average.{name}": value for name, value in trainer.average.weights.items()}
    return {**trainer.method.state_dict(), **average}


CASES = [*(("cloud", name) for name in METHODS), *(("image", name) for name in IMAGE_METHODS)]


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_hidden_labels_change_no_weight(runs, tmp_path, kind, method):
    one, other = (trained(runs[kind, change], method, tmp_path / change) for change in ("true", "garbled"))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("kind", KINDS)
def test_shown_labels_do_change_weights(runs, tmp_path, kind):
    """The counterpart: what is compared above depends on the labels that are shown."""
    one, other = (trained(runs[kind, change], "soft_split", tmp_path / change) for change in ("true", "others"))
    assert not all(torch.equal(value, other[name]) for name, value in one.items())
