"""A Point Transformer through the commands: trained, scored, and put to a scan."""

import json

import laspy
import numpy as np
import pytest

from pcseg.checkpoint import load_checkpoint
from pcseg.config import PointTransformerConfig
from pcseg.config_file import write_config
from pcseg.evaluate import main as evaluate
from pcseg.predict import main as predict
from pcseg.train import main as train
from tests.train.test_predict import accuracy, write_las
from tests.train.toy import toy_config


@pytest.mark.parametrize("pooling", ["farthest", "grid"])
def test_train_evaluate_predict(scenes, tmp_path, command, pooling):
    model = PointTransformerConfig(
        voxel_size=0.5,
        widths=(16, 32),
        encoder_blocks=(1, 1),
        decoder_blocks=(0, 1),
        neighbors=(8, 8),
        pooling=pooling,
    )
    write_config(toy_config(scenes, model=model, steps=30, optim={"lr": 0.01}), tmp_path / "toy.yaml")
    run = tmp_path / "run"
    code, _, err = command(train, [tmp_path / "toy.yaml", "--run", run])
    assert code == 0, err
    assert json.loads((run / "metrics.json").read_text())["miou"] > 0.8, "a wall on a plane is learnt in a moment"
    assert load_checkpoint(run).card.config.model == model
    code, _, err = command(evaluate, [run, "--protocol", "full/votes=2/scene", "--out", tmp_path / "m.json"])
    assert code == 0, err
    assert json.loads((tmp_path / "m.json").read_text())["miou"] > 0.8
    truth = write_las(tmp_path / "scan.las")
    code, _, err = command(predict, [run, tmp_path / "scan.las", "-o", tmp_path / "out", "--no-pictures"])
    assert code == 0, err
    assert accuracy(np.asarray(laspy.read(tmp_path / "out/scan.las").pred_class), truth) > 0.8
