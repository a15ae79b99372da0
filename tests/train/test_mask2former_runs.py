"""Runs with Mask2Former on images: supervision, learning from clicks, resuming, scoring at other sizes, options."""

import json

import numpy as np
import pytest
import torch

from pcseg import evaluate, pseudo_labels, weaken
from pcseg.checkpoint import load_checkpoint
from pcseg.config import Mask2FormerConfig, PointPanopticConfig, ViTConfig
from pcseg.config_file import load_config, write_config
from pcseg.errors import InputError
from pcseg.panoptic_inference import segment_part
from pcseg.predictor import Predictor
from pcseg.run_setup import set_up
from pcseg.train import train
from tests.train.test_train import assert_goes_on_exactly
from tests.train.toy_panoptic import BRANCH, CLASSES, panoptic_config

POINTS = {"alike": {"color": 1.0}, "width": 16, "heads": 2, "window": 3, "dilation": 3.0, "presence": False}


@pytest.fixture(scope="session")
def clicks(panoptic_images, tmp_path_factory):
    """A click for each thing and for the grass of each image."""
    folder = tmp_path_factory.mktemp("clicks")
    write_config(panoptic_config(panoptic_images), folder / "config.yaml")
    mask = folder / "clicks.npz"
    weaken.main([str(folder / "config.yaml"), "clicks", "--radius", "1", "-o", str(mask)])
    return mask


def test_supervision_with_all_labels_learns_things(mask2former_run):
    found = json.loads((mask2former_run / "metrics.json").read_text())["panoptic"]
    assert found["overall"]["pq"] > 0.45 and found["pq"]["ball"] > 0.5 and found["pq"]["grass"] > 0.8


def test_images_of_every_size_are_segmented_whole(mask2former_run, command):
    predictor = Predictor.load(mask2former_run)
    parts = evaluate.validation_parts(predictor.card.config.data)
    assert {part.scene.grid_shape for part in parts} == {(48, 56), (40, 70)}
    for part in parts:
        segments, proposed = segment_part(predictor, part)
        assert len(segments.ids) == part.num_points == proposed.masks.shape[1]
        assert len(segments) >= 2
    code, out, _ = command(evaluate.main, [mask2former_run, "--scenes", "val_1"])
    assert code == 0 and "PQ" in out


@pytest.mark.parametrize("change", [{}, {"distance": "nearest"}, {"schedule": "two_stage"}], ids=str)
def test_clicks_train_it(panoptic_images, clicks, tmp_path, command, change):
    method = PointPanopticConfig(**POINTS | change, warmup=0.0)
    config = panoptic_config(panoptic_images, method, weak_labels=clicks)
    (tmp_path / "terms").mkdir()
    trainer, _ = set_up(config, tmp_path / "terms", init=None, fresh=True, device="cpu")
    ((streams, levels),) = trainer._chunks(0)
    terms = trainer.method(streams, levels, 1.0)
    torch.stack(list(terms.values())).sum().backward()
    branch = [p.grad for p in trainer.model.get_submodule("panoptic").parameters()]
    assert "masks" in terms and all(grad is not None and torch.isfinite(grad).all() for grad in branch)
    train(config, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= metrics["panoptic"]["overall"]["pq"] <= 1 and set(metrics["panoptic"]["pq"]) == set(CLASSES)
    code, out, _ = command(pseudo_labels.main, [tmp_path / "run", "--score"])
    assert code == 0 and "PQ 0." in out


def test_an_interrupted_run_goes_on_exactly(panoptic_images, clicks, tmp_path, monkeypatch):
    method = PointPanopticConfig(**POINTS, warmup=0.0)
    config = panoptic_config(panoptic_images, method, weak_labels=clicks, save_every=1)
    assert_goes_on_exactly(config, tmp_path, monkeypatch)


def test_a_checkpoint_needs_no_weights_to_start_from(panoptic_images, tmp_path):
    """The Mask2Former that a run began with is not looked for again."""
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers import SwinConfig as SwinSettings

    from pcseg.models import build_network
    from pcseg.models.mask2former import settings_of

    config = panoptic_config(panoptic_images, steps=2)
    scales = build_network(config, 3).scales
    settings = settings_of(BRANCH, len(CLASSES), scales)
    settings.backbone_config = SwinSettings(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], out_features=[f"stage{i}" for i in (1, 2, 3, 4)]
    )
    folder = tmp_path / "weights"
    Mask2FormerForUniversalSegmentation(settings).save_pretrained(folder)
    branch = BRANCH.model_copy(update={"weights": str(folder)})
    swin = {"kind": "swin", "embed": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1), "decoder_channels": 16}
    config = panoptic_config(panoptic_images, steps=2, panoptic=branch, model=swin)
    train(config, tmp_path / "run")
    folder.rename(tmp_path / "gone")
    assert len(Predictor.load(tmp_path / "run").class_names) == 3
    with pytest.raises(InputError, match="no such folder"):
        train(config, tmp_path / "again")


def test_the_branch_is_an_option(panoptic_images, tmp_path, command):
    from pcseg.train import main

    write_config(panoptic_config(panoptic_images), tmp_path / "config.yaml")
    assert isinstance(load_config(tmp_path / "config.yaml").panoptic, Mask2FormerConfig)
    code, _, err = command(
        main, [tmp_path / "config.yaml", "--run", tmp_path / "run", "--panoptic.queries", "5", "--steps", "1"]
    )
    assert code == 0, err
    card = load_checkpoint(tmp_path / "run").card
    assert isinstance(card.config.panoptic, Mask2FormerConfig) and card.config.panoptic.queries == 5


def test_a_network_of_one_scale_is_refused_in_one_line(panoptic_images, tmp_path):
    vit = ViTConfig(hidden=32, layers=1, heads=2, patch_size=8, image_size=48)
    with pytest.raises(InputError, match="reads maps of 3 scales or more, and the network gives 1"):
        train(panoptic_config(panoptic_images, model=vit), tmp_path / "run")


def test_merged_segments_keep_to_the_masks(mask2former_run):
    """Every pixel of a segment lies in a mask of its class at one half or more."""
    predictor = Predictor.load(mask2former_run)
    part = evaluate.validation_parts(predictor.card.config.data)[0]
    segments, proposed = segment_part(predictor, part)
    for number, kind in enumerate(segments.classes):
        if predictor.card.config.data.is_thing[kind]:
            inside = proposed.masks[proposed.classes == kind].any(0)
            assert inside[np.flatnonzero(segments.ids == number)].all()
