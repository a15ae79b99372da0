"""Scores of several runs together."""

import json

import numpy as np
import pytest

from pcseg.config_file import write_config
from pcseg.errors import InputError, run_command
from pcseg.metrics import scores
from pcseg.metrics.combine import combine, main
from tests.train.toy import toy_config


def write(folder, confusion, *, protocol="full/votes=1/scene", names=("a", "b")):
    folder.mkdir(parents=True, exist_ok=True)
    values = {"protocol": protocol, "iou": dict.fromkeys(names, 0.0), "confusion": np.asarray(confusion).tolist()}
    (folder / "metrics.json").write_text(json.dumps(values))
    return folder


def test_one_matrix_is_summed_and_scored_once(tmp_path, capsys):
    parts = [np.array([[90, 10], [0, 0]]), np.array([[5, 5], [1, 9]]), np.array([[0, 0], [4, 6]])]
    runs = [write(tmp_path / str(i), part) for i, part in enumerate(parts)]
    result = combine(runs, name="S3DIS 6-fold")
    expected = scores(np.sum(parts, axis=0))
    assert result["confusion"] == np.sum(parts, axis=0).tolist() and result["num_points"] == 130
    assert result["miou"] == expected.miou and result["oa"] == expected.oa and result["macc"] == expected.macc
    assert abs(result["miou"] - np.mean([scores(part).miou for part in parts])) > 0.01, "not the mean of the runs"
    assert result["protocol"] == "full/votes=1/scene, S3DIS 6-fold: confusion matrices of 3 runs summed"
    main([str(run) for run in runs] + ["-o", str(tmp_path / "all.json")])
    assert json.loads((tmp_path / "all.json").read_text())["miou"] == expected.miou
    assert "3-fold" in capsys.readouterr().out


def test_what_does_not_belong_together(tmp_path, capsys):
    first = write(tmp_path / "a", np.eye(2, dtype=int))
    for other, message in (
        (write(tmp_path / "b", np.eye(2, dtype=int), protocol="voxels/votes=1/scene"), "protocol voxels/votes=1/scene"),
        (write(tmp_path / "c", np.eye(2, dtype=int), names=("a", "c")), "classes a, c"),
        (write(tmp_path / "d", np.eye(3, dtype=int)), "is no metrics.json"),
        (first, "is named twice"),
        (tmp_path / "none", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            combine([first, other])
    with pytest.raises(InputError, match="at least two"):
        combine([first])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main([str(first), str(tmp_path / "none")]))
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_one_fold_counts_once(tmp_path):
    runs = [write(tmp_path / name, np.eye(2, dtype=int)) for name in ("a", "b")]
    for run in runs:
        write_config(toy_config(tmp_path), run / "config.yaml")
    with pytest.raises(InputError, match=r"was scored on the same scenes as .*: val_\*"):
        combine(runs)
