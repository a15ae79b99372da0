"""Panoptic runs on toy scenes: supervision, and every variant of learning from points."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.config import DataConfig, ErdaConfig, PointPanopticConfig, TrainConfig
from pcseg.errors import InputError
from pcseg.methods.point_panoptic import PointPanoptic
from pcseg.run_setup import set_up
from pcseg.train import train
from tests.train.test_train import assert_goes_on_exactly
from tests.train.toy_yard import CLASSES, POINTS, yard_config

VARIANTS = {
    "learned": {},
    "regression": {"distance_loss": "regression", "rounds": 1},
    "two_stage": {"schedule": "two_stage"},
    "learned_by_path": {"place": "path", "assign_by": "distance"},
    "learnt_queries": {"query_init": "learned", "rounds": 0},
    "plain_rounds": {"aggregate": False, "enhance": False, "dilation": 0.3},
    "smoothed": {"smoothing": 3.0},
    "path": {"distance": "path", "length_weight": 0.5},
    "nearest": {"distance": "nearest", "presence": False},
    "color": {"distance": "color"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(yards, clicks, tmp_path, variant):
    method = PointPanopticConfig(**POINTS, **VARIANTS[variant], warmup=0.0)
    config = yard_config(yards, method, weak_labels=clicks)
    train(config, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= metrics["panoptic"]["overall"]["pq"] <= 1 and set(metrics["panoptic"]["pq"]) == set(CLASSES)
    terms = _terms(config, tmp_path / "terms")
    assert "masks" in terms and all(np.isfinite(list(terms.values())))
    assert ("distance" in terms) == (method.distance == "learned" and method.schedule == "joint")


def _terms(config: TrainConfig, folder: Path, progress: float = 1.0) -> dict[str, float]:
    folder.mkdir()
    trainer, _ = set_up(config, folder, init=None, fresh=True, device="cpu")
    ((streams, levels),) = trainer._chunks(0)
    return {name: float(value.detach()) for name, value in trainer.method(streams, levels, progress).items()}


def test_stages_and_warmup(yards, clicks, tmp_path):
    joint = yard_config(yards, PointPanopticConfig(**POINTS, warmup=0.5), weak_labels=clicks)
    assert "masks" not in _terms(joint, tmp_path / "a", 0.0)
    half, whole = _terms(joint, tmp_path / "b", 0.25), _terms(joint, tmp_path / "c", 0.5)
    assert half["masks"] == pytest.approx(whole["masks"] / 2, rel=1e-4)
    staged = yard_config(yards, PointPanopticConfig(**POINTS, schedule="two_stage"), weak_labels=clicks)
    assert set(_terms(staged, tmp_path / "d", 0.4)) == {"cross_entropy", "class_prior", "distance", "distance_prior"}
    assert set(_terms(staged, tmp_path / "e", 0.6)) == {"cross_entropy", "masks"}


def test_an_interrupted_run_goes_on_exactly(yards, clicks, tmp_path, monkeypatch, one_thread):
    config = yard_config(yards, PointPanopticConfig(**POINTS, warmup=0.0), weak_labels=clicks, save_every=1)
    assert_goes_on_exactly(config, tmp_path, monkeypatch)


def test_folds_need_normals(yards, clicks, tmp_path):
    config = yard_config(yards, PointPanopticConfig(**POINTS, max_concavity=0.2), weak_labels=clicks)
    with pytest.raises(InputError, match=r"max_concavity: the run reads no feature 'normals'; it reads \w+"):
        train(config, tmp_path / "run")


def test_no_hidden_label_reaches_the_method(yards, clicks, tmp_path):
    """Labels and instances of the scenes, as the run sees them, are those of the clicks."""
    config = yard_config(yards, PointPanopticConfig(**POINTS), weak_labels=clicks)
    (tmp_path / "run").mkdir()
    trainer, _ = set_up(config, tmp_path / "run", init=None, fresh=True, device="cpu")
    for step in range(4):
        ((streams, _),) = trainer._chunks(step)
        batch = streams["labelled"]
        for number in range(len(batch)):
            cloud = slice(int(batch.offsets[number]), int(batch.offsets[number + 1]))
            seen = batch.labels[cloud] != IGNORE
            assert int(seen.sum()) <= 20 and 4 <= int((batch.instances[cloud] != IGNORE).sum()) <= 16


def batch_of(labels, instances) -> PointBatch:
    count = len(labels)
    return PointBatch(
        coords=torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 2,
        feats=torch.randn(count, 1, generator=torch.Generator().manual_seed(1)),
        offsets=offsets_of([count]),
        labels=torch.tensor(labels),
        instances=torch.tensor(instances),
    )


@pytest.mark.parametrize("settings", [{}, {"place": "path"}, {"distance": "path"}, {"distance": "nearest"}], ids=str)
@pytest.mark.parametrize(
    ("labels", "instances"),
    [
        ([IGNORE] * 60, [IGNORE] * 60),  # no target
        ([1] + [IGNORE] * 59, [3] + [IGNORE] * 59),  # one thing alone
        ([0] + [IGNORE] * 59, [IGNORE] * 60),  # stuff alone
        ([1] * 5 + [IGNORE] * 55, [IGNORE] * 60),  # a crowd alone
        ([1, 1, 2, 1] + [IGNORE] * 56, [3, IGNORE, 5, 3] + [IGNORE] * 56),  # a crowd beside things
    ],
)
def test_clouds_with_few_targets(yards, clicks, tmp_path, settings, labels, instances):
    config = yard_config(yards, PointPanopticConfig(**POINTS, **settings, warmup=0.0), weak_labels=clicks)
    (tmp_path / "run").mkdir()
    trainer, _ = set_up(config, tmp_path / "run", init=None, fresh=True, device="cpu")
    batch = batch_of(labels, instances)
    levels = {"labelled": trainer.model.levels(batch)}
    terms = trainer.method({"labelled": batch}, levels, 1.0)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    assert torch.isfinite(loss)
    method = trainer.method
    assert isinstance(method, PointPanoptic)
    ((pseudo, clicked),) = method.pseudo_targets(batch, trainer.model(batch, levels["labelled"]))
    known = clicked.of_row != IGNORE
    assert torch.equal(pseudo.of_row[known], clicked.of_row[known])
    if not len(clicked):
        assert (pseudo.of_row == IGNORE).all()


def test_supervision_with_all_labels_learns_things(yards, tmp_path):
    train(yard_config(yards, steps=200, average=0.9), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["panoptic"]["overall"]["pq"] > 0.6


def test_configs_that_do_not_fit(yards, clicks):
    points = PointPanopticConfig(**POINTS)
    with pytest.raises(ValidationError, match="there is none; set panoptic"):
        yard_config(yards, points, panoptic=None)
    with pytest.raises(ValidationError, match="best_metric pq needs a panoptic branch"):
        yard_config(yards, panoptic=None, best_metric="pq")
    with pytest.raises(ValidationError, match="supervised or point_panoptic, got erda"):
        yard_config(yards, ErdaConfig())  # pyright: ignore[reportArgumentType]
    plain = yard_config(yards)
    with pytest.raises(ValidationError, match=r"name them in data\.things"):
        TrainConfig.model_validate(plain.model_dump() | {"data": plain.data.model_dump() | {"things": ()}})
    with pytest.raises(ValidationError, match="things names tree, which class_names lacks"):
        DataConfig.model_validate(plain.data.model_dump() | {"things": ("tree",)})
    with pytest.raises(ValidationError, match="window must be odd"):
        PointPanopticConfig(window=4)
