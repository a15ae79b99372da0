"""Clicks that teach nothing are told once, before the training begins; those that are well are not spoken of."""

import numpy as np
import pytest

from pcseg.config import CropConfig, PointPanopticConfig
from pcseg.datasets.scene_folder import find_scenes
from pcseg.datasets.scene_part import training_parts
from pcseg.datasets.weak_labels import WeakLabels
from pcseg.datasets.weak_recipes import PointsRecipe
from pcseg.pseudo.target_survey import survey_targets
from pcseg.run_setup import fitted_contract, training_items
from pcseg.train import train
from tests.train.toy_panoptic import panoptic_config
from tests.train.toy_yard import CLASSES, POINTS, write_yard, yard_config


@pytest.fixture
def yard(tmp_path):
    """Two scenes of a ground, two posts and two balls, whose rows may be labelled one by one."""
    for name in ("train_a", "train_b"):
        write_yard(tmp_path / "yards", name, seed=len(name))
    return tmp_path


def clicked_config(yard, rows_of, **change):
    """A run that sees the labels of the given rows of each scene."""
    scenes = find_scenes(yard / "yards", ["*"])
    rows = {scene.name: np.asarray(rows_of(scene), np.int64) for scene in scenes}
    weak = WeakLabels.of_rows(scenes, rows, PointsRecipe(count=1), seed=0)
    weak.save(yard / "clicks.npz")
    method = change.pop("method", PointPanopticConfig(**POINTS))
    config = yard_config(yard / "yards", method, weak_labels=yard / "clicks.npz", **change)
    return config.model_copy(update={"data": config.data.model_copy(update={"val_scenes": ()})})


def one_each(scene) -> list[int]:
    """A row of the ground and of each thing."""
    ids = np.asarray(scene.instances)
    return [int(np.flatnonzero(ids == number)[0]) for number in np.unique(ids)]


def told(config, presence: bool = True) -> list[str]:
    parts = training_parts(config.data)
    items = training_items(config, parts, fitted_contract(config, parts, None), few=config.data.weak_labels is not None)
    return survey_targets(parts, items.labelled, config.data.is_thing, config.data.class_names, presence=presence)


def test_nothing_is_said_where_all_is_well(yard):
    assert told(clicked_config(yard, one_each)) == []


def test_scenes_without_a_target_and_with_one_alone(yard):
    config = clicked_config(yard, lambda scene: [] if scene.name == "train_a" else one_each(scene)[:1])
    assert told(config) == [
        "1 of 2 scenes have no target, and teach no distance: train_a",
        "1 of 2 scenes have one target alone, and teach no distance: train_b",
    ]


def test_two_clicks_in_one_voxel(yard):
    """One voxel holds a post and much more of a ball: the post is lost, and the run says which."""
    config = clicked_config(yard, one_each)
    coarse = config.model_copy(update={"model": config.model.model_copy(update={"voxel_size": 50.0})})
    (line,) = [line for line in told(coarse) if "lost" in line]
    assert line.startswith("8 of 10 targets lost, their voxels have more labels of others; a smaller model.voxel_size")
    assert "in train_a" in line and line.endswith("and 5 more")
    assert any(name in line for name in CLASSES)


def test_clicks_that_are_cropped_away(yard):
    config = clicked_config(yard, one_each)
    data = config.data.model_copy(update={"crop": CropConfig(shape="sphere", max_voxels=60, balanced=0.0)})
    small = config.model_copy(update={"data": data})
    (line,) = told(small)
    assert line.startswith("16 sampled items hold ") and "of their scenes' targets" in line
    assert line.endswith("a larger data.crop holds more, and method.presence should be false")
    share = int(line.split("hold ")[1].split("%")[0])
    assert 5 < share < 60
    assert told(small, presence=False)[0].endswith("a larger data.crop holds more")


def test_a_run_says_it_once_and_goes_on(yard, capsys):
    config = clicked_config(yard, lambda scene: [] if scene.name == "train_a" else one_each(scene), steps=2)
    train(config, yard / "run")
    assert capsys.readouterr().err.count("targets: 1 of 2 scenes have no target, and teach no distance: train_a") == 1


def test_windows_of_images_are_surveyed_too(panoptic_images):
    """All labels, as clicks would be: windows of 16 pixels lose targets, those that hold a whole image do not."""
    method = PointPanopticConfig(alike={"color": 1.0}, width=16, heads=2)
    lines = {}
    for window in (16, 56):
        config = panoptic_config(panoptic_images, method)
        data = config.data.model_copy(update={"crop": CropConfig(window=window, balanced=0.0)})
        lines[window] = told(config.model_copy(update={"data": data}))
    assert lines[56] == [] and len(lines[16]) == 1
    assert 25 <= int(lines[16][0].split("hold ")[1].split("%")[0]) < 75
