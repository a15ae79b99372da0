"""Pseudo-labels, evaluation and predictions of panoptic runs on toy scenes, by their commands."""

import json

import numpy as np
from plyfile import PlyData

from pcseg import evaluate, predict, pseudo_labels
from pcseg.batch import IGNORE
from pcseg.datasets.prepare import prepare_scan
from pcseg.datasets.scene_folder import find_scenes
from pcseg.datasets.scene_part import ScenePart
from pcseg.io.ply import write_ply
from pcseg.panoptic_inference import evaluate_panoptic, segment_part
from pcseg.predictor import Predictor
from pcseg.train import train
from tests.train.toy import toy_config
from tests.train.toy_yard import yard


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


def test_runs_without_things_have_no_pseudo_labels(scenes, tmp_path, command):
    train(toy_config(scenes, steps=2), tmp_path / "run")
    code, _, err = command(pseudo_labels.main, [tmp_path / "run", "--score"])
    assert code == 2 and "has no pseudo-labels of things; its method is supervised" in err
    code, _, err = command(pseudo_labels.main, [tmp_path / "run"])
    assert code == 2 and "nothing to do" in err
