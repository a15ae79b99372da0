"""Panoptic runs on toy scenes: supervision, every variant of learning from points, merging, commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData
from pydantic import ValidationError

from pcseg import evaluate, predict, pseudo_labels, weaken
from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.config import (
    CropConfig,
    DataConfig,
    ErdaConfig,
    KPConvConfig,
    PointPanopticConfig,
    QueryDecoderConfig,
    TrainConfig,
)
from pcseg.config_file import write_config
from pcseg.datasets.prepare import prepare_scan
from pcseg.datasets.scene_folder import ColumnInfo, SceneInfo, find_scenes, write_info
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError
from pcseg.io.ply import write_ply
from pcseg.methods.point_panoptic import PointPanoptic
from pcseg.models.heads import Proposals
from pcseg.panoptic_inference import evaluate_panoptic, merge_proposals, proposed_things, segment_part
from pcseg.predictor import Predictor
from pcseg.run_setup import set_up
from pcseg.train import train
from tests.train.test_train import assert_goes_on_exactly

CLASSES = ("ground", "post", "ball")
BRANCH = QueryDecoderConfig(queries=8, layers=1, channels=16, heads=2)
POINTS = {"alike": {"shade": 0.5}, "width": 16, "heads": 2, "k": 6}


def yard(seed: int, count: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ground with two posts and two balls on it, apart from each other: coords, labels, instances, shade."""
    rng = np.random.default_rng(seed)
    places = rng.permutation([(1.0, 1.0), (1.0, 4.0), (4.0, 1.0), (4.0, 4.0)]) + rng.uniform(-0.3, 0.3, (4, 2))
    coords = np.concatenate([rng.random((count // 2, 2)) * 5, np.zeros((count // 2, 1))], 1)
    labels, instances = [np.zeros(count // 2, int)], [np.full(count // 2, IGNORE)]
    parts = [coords]
    for number, (x, y) in enumerate(places):
        n, kind = count // 8, 1 + number // 2
        if kind == 1:
            turn = rng.random(n) * 2 * np.pi
            part = np.stack([x + 0.1 * np.cos(turn), y + 0.1 * np.sin(turn), 0.2 + 1.8 * rng.random(n)], 1)
        else:
            way = rng.normal(size=(n, 3))
            part = np.array([x, y, 0.6]) + 0.5 * way / np.linalg.norm(way, axis=1, keepdims=True)
        parts.append(part)
        labels.append(np.full(n, kind))
        instances.append(np.full(n, 10 + number))
    labels = np.concatenate(labels)
    shade = labels + rng.normal(size=len(labels)) * 0.1
    return np.concatenate(parts).astype(np.float32), labels.astype(np.int16), np.concatenate(instances), shade


def write_yard(root: Path, name: str, seed: int) -> None:
    coords, labels, instances, shade = yard(seed)
    folder = root / name
    folder.mkdir(parents=True)
    for column, values in (("coords", coords), ("labels", labels)):
        np.save(folder / f"{column}.npy", values)
    np.save(folder / "instances.npy", instances.astype(np.int32))
    np.save(folder / "shade.npy", shade.astype(np.float32))
    count = (len(coords),)
    columns = {"instances": ColumnInfo(dtype="int32", shape=count), "shade": ColumnInfo(dtype="float32", shape=count)}
    write_info(
        folder,
        SceneInfo(name=name, num_points=len(coords), origin=(0.0, 0.0, 0.0), class_names=CLASSES, class_codes=(0, 1, 2),
                  columns=columns),
    )  # fmt: skip


@pytest.fixture(scope="session")
def yards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("yards")
    for seed, name in enumerate([*(f"train_{letter}" for letter in "abcdefghij"), "val_a"]):
        write_yard(root, name, seed)
    return root


def config_of(root: Path, method: PointPanopticConfig | None = None, **change) -> TrainConfig:
    data = DataConfig(
        root=root,
        train_scenes=("train_*",),
        val_scenes=("val_*",),
        class_names=CLASSES,
        label_map={0: 0, 1: 1, 2: 2},
        things=("post", "ball"),
        features=("shade",),
        crop=CropConfig(shape="sphere", max_voxels=100_000, balanced=0.0),
        weak_labels=change.pop("weak_labels", None),
    )
    model = KPConvConfig(voxel_size=0.15, num_levels=3, width=16, norm_momentum=0.2)
    values = {"name": "yard", "data": data, "model": model,
              "panoptic": BRANCH, "steps": 4, "batch_size": 2, "save_every": 2}  # fmt: skip
    if method is not None:
        values["method"] = method
    return TrainConfig(**values | change)


@pytest.fixture(scope="session")
def clicks(yards, tmp_path_factory) -> Path:
    """Four clicks for each thing and for the ground of each scene."""
    folder = tmp_path_factory.mktemp("clicks")
    write_config(config_of(yards), folder / "config.yaml")
    mask = folder / "clicks.npz"
    weaken.main([str(folder / "config.yaml"), "clicks", "--radius", "2", "--count", "4", "-o", str(mask)])
    return mask


# Merging, by hand


def proposals(classes: list[list[float]], masks: list[list[float]]) -> Proposals:
    return Proposals(torch.tensor([classes]).log(), torch.logit(torch.tensor(masks).T, eps=1e-6))


def test_merging_by_hand():
    found = merge_proposals(
        proposals(
            # class 0 is stuff, class 1 things; the last is "nothing"
            [
                [0.9, 0.05, 0.05],
                [0.05, 0.9, 0.05],
                [0.02, 0.95, 0.03],
                [0.6, 0.1, 0.3],
                [0.1, 0.1, 0.8],
                [0.4, 0.3, 0.3],
            ],
            [
                [0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1],  # stuff; row 1 goes to a thing, which comes first
                [0.1, 0.6, 0.9, 0.9, 0.1, 0.1, 0.1],  # a thing, the surest: 0.9 * 0.8
                [0.1, 0.1, 0.1, 0.6, 0.9, 0.1, 0.1],  # another, 0.95 * 0.75; row 3 is taken
                [0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1],  # the same stuff once more
                [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9],  # nothing
                [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9],  # not sure enough
            ],
        ),
        (False, True),
        min_score=0.5,
        min_overlap=0.4,
    )
    assert found.ids.tolist() == [2, 0, 0, 0, 1, 2, IGNORE]
    assert found.classes.tolist() == [1, 1, 0] and not found.crowd.any()
    np.testing.assert_allclose(found.scores, [0.9, 0.95, 0.9], atol=1e-6)


def test_what_little_is_left_of_is_dropped():
    both = proposals([[0.1, 0.8, 0.1], [0.1, 0.7, 0.2]], [[0.9, 0.9, 0.9, 0.1], [0.8, 0.8, 0.8, 0.8]])
    kept = merge_proposals(both, (False, True), min_score=0.5, min_overlap=0.5)
    assert kept.ids.tolist() == [0, 0, 0, IGNORE] and len(kept) == 1
    every = merge_proposals(both, (False, True), min_score=0.5, min_overlap=0.2)
    assert every.ids.tolist() == [0, 0, 0, 1]
    none = merge_proposals(both, (False, True), min_score=0.95, min_overlap=0.5)
    assert len(none) == 0 and none.ids.tolist() == [IGNORE] * 4
    nowhere = proposals([[0.1, 0.8, 0.1]], [[0.1, 0.2]])
    assert len(merge_proposals(nowhere, (False, True), min_score=0.5, min_overlap=0.0)) == 0


def test_proposed_things_may_overlap_and_are_scored():
    found = proposed_things(
        proposals(
            [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]],
            [[0.9, 0.7, 0.1], [0.9] * 3, [0.1, 0.8, 0.1], [0.1] * 3],
        ),
        (False, True),
    )
    # The second is stuff, the last has no row; "nothing" being likelier leaves a low score, not none.
    assert found.classes.tolist() == [1, 1] and found.masks.tolist() == [[True, True, False], [False, True, False]]
    np.testing.assert_allclose(found.scores, [0.5 * 0.8, 0.2 * 0.8], rtol=1e-5)


def test_copies_of_a_surer_thing_are_left_out():
    three = proposals(
        [[0.1, 0.6, 0.3], [0.1, 0.9, 0.0], [0.1, 0.7, 0.2]], [[0.9, 0.9, 0.1], [0.9, 0.9, 0.9], [0.1, 0.1, 0.9]]
    )
    assert proposed_things(three, (False, True), max_copy=0.5).masks.tolist() == [[True] * 3, [False, False, True]]
    assert len(proposed_things(three, (False, True), max_copy=0.3).masks) == 1


# Runs

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
    config = config_of(yards, method, weak_labels=clicks)
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
    joint = config_of(yards, PointPanopticConfig(**POINTS, warmup=0.5), weak_labels=clicks)
    assert "masks" not in _terms(joint, tmp_path / "a", 0.0)
    half, whole = _terms(joint, tmp_path / "b", 0.25), _terms(joint, tmp_path / "c", 0.5)
    assert half["masks"] == pytest.approx(whole["masks"] / 2, rel=1e-4)
    staged = config_of(yards, PointPanopticConfig(**POINTS, schedule="two_stage"), weak_labels=clicks)
    assert set(_terms(staged, tmp_path / "d", 0.4)) == {"cross_entropy", "class_prior", "distance", "distance_prior"}
    assert set(_terms(staged, tmp_path / "e", 0.6)) == {"cross_entropy", "masks"}


def test_an_interrupted_run_goes_on_exactly(yards, clicks, tmp_path, monkeypatch, one_thread):
    config = config_of(yards, PointPanopticConfig(**POINTS, warmup=0.0), weak_labels=clicks, save_every=1)
    assert_goes_on_exactly(config, tmp_path, monkeypatch)


def test_folds_need_normals(yards, clicks, tmp_path):
    config = config_of(yards, PointPanopticConfig(**POINTS, max_concavity=0.2), weak_labels=clicks)
    with pytest.raises(InputError, match=r"max_concavity: the run reads no feature 'normals'; it reads \w+"):
        train(config, tmp_path / "run")


def test_no_hidden_label_reaches_the_method(yards, clicks, tmp_path):
    """Labels and instances of the scenes, as the run sees them, are those of the clicks."""
    config = config_of(yards, PointPanopticConfig(**POINTS), weak_labels=clicks)
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
    config = config_of(yards, PointPanopticConfig(**POINTS, **settings, warmup=0.0), weak_labels=clicks)
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


@pytest.fixture(scope="session")
def yard_run(yards, clicks, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("yard_run")
    method = PointPanopticConfig(**POINTS, prior_weight=0.3, distance_prior_weight=0.3)
    train(
        config_of(yards, method, weak_labels=clicks, steps=250, average=0.9, loss={"class_weights": "inverse"}), folder
    )
    return folder


def test_pseudo_labels_are_written_and_scored(yard_run, yards, tmp_path, command):
    code, out, _ = command(pseudo_labels.main, [yard_run, "--out", tmp_path / "out", "--score"])
    assert code == 0 and "PQ 0." in out
    scores = json.loads(out[: out.rindex("}") + 1])
    assert scores["things"]["pq"] > 0.5 and scores["stuff"]["pq"] > 0.6 and "ap" not in scores
    with np.load(tmp_path / "out" / "train_a.npz", allow_pickle=False) as arrays:
        scene = find_scenes(yards, ["train_a"])[0]
        assert arrays["labels"].shape == arrays["instances"].shape == (scene.num_points,)
        assert (arrays["labels"] == scene.labels).mean() > 0.8
        assert set(np.unique(arrays["instances"])) - {IGNORE} <= set(range(5))


def test_pseudo_labels_go_on_where_they_were(yard_run, tmp_path, command, monkeypatch):
    asked = [yard_run, "--out", tmp_path / "out", "--score"]
    whole = command(pseudo_labels.main, asked)
    assert whole[0] == 0
    files = sorted((tmp_path / "out").glob("*.npz"))
    assert len(files) > 1
    made, make = [], pseudo_labels.pseudo_labels_of
    monkeypatch.setattr(pseudo_labels, "pseudo_labels_of", lambda *a: made.append(a[2].scene.name) or make(*a))
    files[0].unlink()
    assert command(pseudo_labels.main, asked)[:2] == whole[:2] and made == [files[0].stem]
    arrays = dict(np.load(files[1]))
    np.savez(files[1], **(arrays | {"sha256": "another checkpoint"}))
    assert command(pseudo_labels.main, asked)[:2] == whole[:2] and made == [files[0].stem, files[1].stem]
    files[0].write_bytes(files[0].read_bytes()[:100])
    assert command(pseudo_labels.main, asked)[:2] == whole[:2] and made[2:] == [files[0].stem]


def test_evaluation_tells_of_segments(yard_run, command):
    code, out, _ = command(evaluate.main, [yard_run])
    metrics = json.loads((yard_run / "metrics.json").read_text())
    assert code == 0 and "PQ" in out and metrics["panoptic"]["stuff"]["classes"] == 1
    assert set(metrics["panoptic"]) == {"overall", "things", "stuff", "pq", "ap", "ap50", "ap75"}


def test_segments_of_a_scene_are_its_rows(yard_run):
    predictor = Predictor.load(yard_run)
    part = evaluate.validation_parts(predictor.card.config.data)[0]
    segments, proposed = segment_part(predictor, part)
    assert len(segments.ids) == part.num_points == proposed.masks.shape[1]
    assert evaluate_panoptic(predictor, [part]).scores.stuff.pq > 0.5


def test_a_predicted_scan_numbers_its_things(yard_run, tmp_path, command):
    coords, _, _, shade = yard(50)
    values = dict(zip("xyz", coords.T, strict=True)) | {"shade": shade.astype(np.float32)}
    write_ply(tmp_path / "yard.ply", dict.fromkeys(values, np.float32), len(coords), [values])
    code, _, err = command(predict.main, [yard_run, tmp_path / "yard.ply", "-o", tmp_path / "out"])
    assert code == 0, err
    vertices = PlyData.read(tmp_path / "out" / "yard.ply")["vertex"]
    (tmp_path / "same").mkdir()
    scene = prepare_scan(tmp_path / "yard.ply", tmp_path / "same", name="yard", features=("shade",), progress=False)
    segments, _ = segment_part(Predictor.load(yard_run), ScenePart(scene))
    np.testing.assert_array_equal(vertices["pred_instance"], segments.instances((False, True, True)))
    assert len(np.unique(vertices["pred_instance"])) > 2
    shown = PlyData.read(tmp_path / "out" / "yard_classes.ply")["vertex"]
    np.testing.assert_array_equal(shown["pred_instance"], vertices["pred_instance"])
    colors = np.stack([shown[name] for name in ("red", "green", "blue")], 1)
    things = np.unique(vertices["pred_instance"][vertices["pred_instance"] >= 0])
    assert len({tuple(colors[vertices["pred_instance"] == number][0]) for number in things}) == len(things)


def test_supervision_with_all_labels_learns_things(yards, tmp_path):
    train(config_of(yards, steps=200, average=0.9), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["panoptic"]["overall"]["pq"] > 0.6


# What does not fit


def test_configs_that_do_not_fit(yards, clicks):
    points = PointPanopticConfig(**POINTS)
    with pytest.raises(ValidationError, match="there is none; set panoptic"):
        config_of(yards, points, panoptic=None)
    with pytest.raises(ValidationError, match="best_metric pq needs a panoptic branch"):
        config_of(yards, panoptic=None, best_metric="pq")
    with pytest.raises(ValidationError, match="supervised or point_panoptic, got erda"):
        config_of(yards, ErdaConfig())  # pyright: ignore[reportArgumentType]
    plain = config_of(yards)
    with pytest.raises(ValidationError, match=r"name them in data\.things"):
        TrainConfig.model_validate(plain.model_dump() | {"data": plain.data.model_dump() | {"things": ()}})
    with pytest.raises(ValidationError, match="things names tree, which class_names lacks"):
        DataConfig.model_validate(plain.data.model_dump() | {"things": ("tree",)})
    with pytest.raises(ValidationError, match="window must be odd"):
        PointPanopticConfig(window=4)


def test_runs_without_things_have_no_pseudo_labels(scenes, tmp_path, command):
    from tests.train.toy import toy_config

    train(toy_config(scenes, steps=2), tmp_path / "run")
    code, _, err = command(pseudo_labels.main, [tmp_path / "run", "--score"])
    assert code == 2 and "has no pseudo-labels of things; its method is supervised" in err
    code, _, err = command(pseudo_labels.main, [tmp_path / "run"])
    assert code == 2 and "nothing to do" in err
