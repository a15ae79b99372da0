"""The shipped configs of the methods for few labels train on small releases, with labels drawn as they say."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_prep import s3dis, scannet, sensaturban
from pcseg import weaken
from pcseg.config_file import load_config
from pcseg.datasets.scannet import CODES
from pcseg.datasets.scene_part import training_parts
from pcseg.datasets.weak_labels import WeakLabels
from tests.data_prep import s3dis_release, scannet_release, sensaturban_release
from tests.data_prep.releases import ROOT, two_steps

FEW = sorted(
    path
    for folder in ("s3dis", "scannet", "sensaturban")
    for path in (ROOT / "configs" / folder).glob("*_*.py")
    if path.stem.endswith(("erda", "soft_self_label", "ipixmatch"))
)


def written(config: Path) -> list[str]:
    """The arguments of the command in a config's docstring that draws its labels."""
    line = next(line for line in config.read_text().splitlines() if "pcseg.weaken" in line)
    return line.split("pcseg.weaken", 1)[1].split()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Small releases of the three data sets, prepared."""
    root = tmp_path_factory.mktemp("releases")
    rooms = root / "raw_s3dis"
    for area in range(1, 7):
        s3dis_release.write_room(rooms, f"Area_{area}", "office_1", area)
    raw = {"s3dis": rooms, "scannet": scannet_release.write_release(root / "raw_scannet")}
    raw["sensaturban"] = sensaturban_release.write_release(root / "raw_sensaturban")
    for name, module in (("s3dis", s3dis), ("scannet", scannet), ("sensaturban", sensaturban)):
        try:
            module.main(["--raw", str(raw[name]), "--out", str(root / name), "--quiet"])
        except SystemExit as end:
            assert not end.code, name
    return root


@pytest.mark.parametrize("path", FEW, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_two_steps(path, prepared, tmp_path):
    folder = path.parent.name
    config, *recipe, _, _ = written(path)
    mask = tmp_path / "mask.npz"
    weaken.main([str(ROOT / config), *recipe, "--data", str(prepared / folder), "-o", str(mask)])
    assert sum(WeakLabels.load(mask).info.class_counts) > 0
    found = two_steps(f"{folder}/{path.name}", prepared / folder, tmp_path / "run", weak_labels=mask)
    assert found["num_points"] > 0
    kind = load_config(tmp_path / "run/config.yaml").method.kind
    assert path.stem.endswith(kind) and kind != "supervised"


def test_points_of_scannet_are_drawn_and_hashed(prepared, tmp_path):
    """Drawn here, where the benchmark's own lists are not at hand: as many of each scene, the same ones each time."""
    config = ROOT / "configs/scannet/kpconv.py"
    for count in (20, 50):
        for name in ("a", "b"):
            arguments = [str(config), "points", "--per", "scene", "--count", str(count), "--voxel-size", "0"]
            weaken.main([*arguments, "--data", str(prepared / "scannet"), "-o", str(tmp_path / f"{name}{count}.npz")])
        assert (tmp_path / f"a{count}.npz").read_bytes() == (tmp_path / f"b{count}.npz").read_bytes()
    twenty, fifty = (WeakLabels.load(tmp_path / f"a{count}.npz") for count in (20, 50))
    for scene in twenty.info.scenes:
        assert len(twenty.rows[scene.name]) == 20 and len(fifty.rows[scene.name]) == 50
        assert set(twenty.rows[scene.name].tolist()) < set(fifty.rows[scene.name].tolist())
    assert "sha256" in json.dumps(twenty.info.model_dump(mode="json"))


def test_the_lists_of_the_benchmark_are_trained_on(tmp_path):
    """From the file of torch, by way of preparation and a mask, to the rows whose label a run sees."""
    release = scannet_release.write_release(tmp_path / "raw")
    listed = scannet_release.write_point_lists(release, 20)
    with contextlib.suppress(SystemExit):
        scannet.main(["--raw", str(release), "--out", str(tmp_path / "scannet"), "--quiet"])
    folder, mask, run = tmp_path / "scannet/point_labels/points20", tmp_path / "mask.npz", tmp_path / "run"
    arguments = ["list", "--folder", str(folder), "--data", str(tmp_path / "scannet"), "-o", str(mask)]
    weaken.main([str(ROOT / "configs/scannet/kpconv.py"), *arguments])
    truth = np.array([list(CODES).index(code) if code in CODES else -1 for code in scannet_release.nyu40()])
    weak = WeakLabels.load(mask)
    assert set(weak.rows) == set(listed)
    for name, rows in listed.items():
        np.testing.assert_array_equal(weak.rows[name], rows)
    found = two_steps("scannet/kpconv_erda.py", tmp_path / "scannet", run, weak_labels=mask)
    of_listed = np.concatenate([truth[rows] for rows in listed.values()])  # some points have no class
    counts = np.bincount(of_listed[of_listed >= 0], minlength=20)
    assert 0 < counts.sum() < 40 and list(found["weak_labels"]["labels"].values()) == counts.tolist()
    assert found["weak_labels"]["recipe"] == {"kind": "list", "folder": str(folder)}
    for part in training_parts(load_config(run / "config.yaml").data):
        expected = np.full(len(truth), -1)
        expected[listed[part.scene.name]] = truth[listed[part.scene.name]]
        np.testing.assert_array_equal(part.labels, expected)
