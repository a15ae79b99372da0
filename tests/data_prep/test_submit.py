"""Files for benchmark servers, from a run on a prepared release."""

import numpy as np
import pytest

from data_prep import scannet, semantickitti, sensaturban
from data_prep.submit import main
from pcseg.datasets.scannet import CODES
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError
from pcseg.inference import Protocol
from pcseg.io.submission import write_submission
from pcseg.predictor import Predictor
from tests.data_prep import scannet_release, sensaturban_release
from tests.data_prep.releases import two_steps
from tests.data_prep.test_street_scans import frame as street_frame
from tests.io.scans import left_behind


def predicted(run, scene: Scene) -> np.ndarray:
    predictor = Predictor.load(run, "cpu")
    classes = np.full(scene.num_points, -1)
    for rows, probs in predictor.predict_part(ScenePart(scene), Protocol(votes=1)):
        classes[rows] = probs.argmax(1).numpy()
    return classes


def test_scannet_takes_ids_and_sensaturban_bytes(tmp_path, command):
    scannet_raw = scannet_release.write_release(tmp_path / "raw")
    assert command(scannet.main, ["--raw", scannet_raw, "--out", tmp_path / "scannet", "--quiet"])[0] == 0
    two_steps("scannet/kpconv.py", tmp_path / "scannet", tmp_path / "run")
    code, out, err = command(main, [tmp_path / "run", "--form", "scannet", "--out", tmp_path / "files"])
    assert code == 0, err
    assert "1 files" in out and left_behind(tmp_path / "files") == ["scene0707_00.txt"]
    classes = predicted(tmp_path / "run", Scene.open(tmp_path / "scannet/scene0707_00"))
    lines = (tmp_path / "files/scene0707_00.txt").read_text().splitlines()
    assert [int(line) for line in lines] == [list(CODES)[index] for index in classes]

    sensat_raw = sensaturban_release.write_release(tmp_path / "raw")
    assert command(sensaturban.main, ["--raw", sensat_raw, "--out", tmp_path / "sensat", "--quiet"])[0] == 0
    two_steps("sensaturban/kpconv.py", tmp_path / "sensat", tmp_path / "run2")
    code, _, err = command(main, [tmp_path / "run2", "--form", "sensaturban", "--out", tmp_path / "files2"])
    assert code == 0, err
    assert left_behind(tmp_path / "files2") == ["birmingham_block_2.label", "cambridge_block_15.label"]
    found = np.fromfile(tmp_path / "files2/cambridge_block_15.label", np.uint8)
    np.testing.assert_array_equal(
        found, predicted(tmp_path / "run2", Scene.open(tmp_path / "sensat/cambridge_block_15"))
    )
    code, _, err = command(
        main, [tmp_path / "run2", "--form", "sensaturban", "--out", tmp_path / "x", "--scenes", "no"]
    )
    assert code == 2 and "no scene matches 'no'" in err


def test_semantickitti_takes_ids_in_the_folders_of_its_sequences(tmp_path, command):
    raw = tmp_path / "dataset/sequences"
    for sequence in ("00", "08", "11"):
        (raw / sequence / "velodyne").mkdir(parents=True)
        (raw / sequence / "labels").mkdir()
        points, labels = street_frame(int(sequence))
        points.tofile(raw / sequence / "velodyne/000007.bin")
        if sequence != "11":
            labels.tofile(raw / sequence / "labels/000007.label")
    assert command(semantickitti.main, ["--raw", raw.parent, "--out", tmp_path / "kitti", "--quiet"])[0] == 0
    two_steps("semantickitti/kpconv.py", tmp_path / "kitti", tmp_path / "run")
    code, _, err = command(main, [tmp_path / "run", "--form", "semantickitti", "--out", tmp_path / "files"])
    assert code == 0, err
    assert left_behind(tmp_path / "files") == ["sequences"]
    found = np.fromfile(tmp_path / "files/sequences/11/predictions/000007.label", "<u4")
    inverse = [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]  # of semantic-kitti.yaml
    classes = predicted(tmp_path / "run", Scene.open(tmp_path / "kitti/11_000007"))
    np.testing.assert_array_equal(found, np.array(inverse)[classes])
    with pytest.raises(InputError, match="office_1: is no frame of a sequence"):
        write_submission(tmp_path, "office_1", np.array([10]), "semantickitti")


def test_a_code_that_does_not_fit(tmp_path):
    with pytest.raises(InputError, match="block: class code 256 does not fit; sensaturban takes 0 to 255"):
        write_submission(tmp_path, "block", np.array([0, 256]), "sensaturban")
    with pytest.raises(InputError, match="class code -1"):
        write_submission(tmp_path, "scene", np.array([-1]), "scannet")
    assert left_behind(tmp_path) == []
