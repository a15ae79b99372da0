"""The shipped few-label configs of the shipped data train: two steps each, on small pieces, with labels drawn anew."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import laspy
import nibabel
import numpy as np
import pytest
from PIL import Image

from data_prep.scans import Options, prepare_all
from pcseg import weaken
from pcseg.config import TrainConfig
from pcseg.config_file import load_config
from pcseg.datasets.weak_labels import WeakLabels
from pcseg.run_log import RunLog
from pcseg.train import train

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
KINDS = ("erda", "erda_unsupervised", "few_labels", "ipixmatch", "soft_self_label")
FEW = [
    path
    for folder in ("aerial", "ahn3", "hippocampus", "ign")
    for path in sorted((ROOT / "configs" / folder).glob("*.py"))
    if path.stem.endswith(KINDS)
]
TERMS = {"erda": "erda", "ipixmatch": "relation", "soft_self_label": "self_label"}
RECIPES = {
    "ahn3": ("points", "--count", "20"),
    "aerial": ("points", "--count", "40"),
    "hippocampus": ("ratio", "--ratio", "0.02"),
    "ign": ("points", "--count", "20"),
}


class Pieces(NamedTuple):
    root: Path
    train: tuple[str, ...]
    val: tuple[str, ...]


def cut_scans(root: Path, config: Path, cuts: dict[str, tuple[str, float, float, float]]) -> Path:
    """Every third point of a square (its file, its corner from the scan's own, its side), prepared for a config."""
    files = []
    for name, (source, x, y, side) in cuts.items():
        scan = laspy.read(SAMPLES / source)
        inside = np.abs(scan.xyz[:, :2] - scan.header.mins[:2] - (x + side / 2, y + side / 2)).max(1) < side / 2
        scan.points = scan.points[np.flatnonzero(inside)[::3]]
        files.append(root / f"{name}.las")
        scan.write(files[-1])
    prepare_all(Options(tuple(files), root / "scenes", config=config, quiet=True), (".las",))
    return root / "scenes"


def ahn3(root: Path) -> Pieces:
    cuts = {"a": ("ahn3_delft/crop_1.laz", 90, 60, 25), "b": ("ahn3_delft/crop_2.laz", 10, 100, 20)}
    return Pieces(cut_scans(root, ROOT / "configs/ahn3/kpconv.py", cuts), ("a",), ("b",))


def ign(root: Path) -> Pieces:
    tile = "ign_lidarhd_50m/770{}_6277{}.laz"
    cuts = {
        "a": (tile.format("50", "55"), 10, 10, 25),
        "b": (tile.format("55", "60"), 10, 10, 25),
        "c": (tile.format("60", "55"), 10, 10, 20),
    }
    return Pieces(cut_scans(root, ROOT / "configs/ign/kpconv.py", cuts), ("a", "b"), ("c",))


def aerial(root: Path) -> Pieces:
    """A piece of two images."""
    for name in ("tile1_003", "tile3_002"):
        for kind, ending in (("images", "jpg"), ("masks", "png")):
            (root / kind).mkdir(exist_ok=True)
            whole = Image.open(SAMPLES / "dubai_aerial" / kind / f"{name}.{ending}")
            whole.crop((300, 200, 460, 330)).save(root / kind / f"{name}.png")
    return Pieces(root, ("tile1_003",), ("tile3_002",))


def hippocampus(root: Path) -> Pieces:
    """The middle of two volumes."""
    for name in ("hippocampus_001", "hippocampus_034"):
        for kind in ("images", "labels"):
            (root / kind).mkdir(exist_ok=True)
            whole = nibabel.load(SAMPLES / "msd_hippocampus" / kind / f"{name}.nii.gz")
            low = [(size - wanted) // 2 for size, wanted in zip(whole.shape, (16, 24, 14))]
            values = np.asarray(whole.dataobj)[low[0] : low[0] + 16, low[1] : low[1] + 24, low[2] : low[2] + 14]
            nibabel.save(nibabel.Nifti1Image(values, whole.affine), root / kind / f"{name}.nii.gz")
    return Pieces(root, ("hippocampus_001",), ("hippocampus_034",))


CUT: dict[str, Callable[[Path], Pieces]] = {"ahn3": ahn3, "aerial": aerial, "hippocampus": hippocampus, "ign": ign}


@pytest.fixture(scope="session")
def pieces(tmp_path_factory) -> Callable[[str], Pieces]:
    """The pieces of a data set, cut once."""
    made: dict[str, Pieces] = {}

    def cut(name: str) -> Pieces:
        if name not in made:
            made[name] = CUT[name](tmp_path_factory.mktemp(name))
        return made[name]

    return cut


def test_all_are_found():
    found = {(path.parent.name, kind) for path in FEW for kind in KINDS if path.stem.endswith(kind)}
    assert found >= set(itertools.product(RECIPES, ("erda", "few_labels", "ipixmatch", "soft_self_label")))


@pytest.mark.parametrize("path", FEW, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_two_steps(path, pieces, tmp_path, monkeypatch):
    seen: list[dict[str, float]] = []
    monkeypatch.setattr(RunLog, "step", lambda self, step, loss, terms, *rest: seen.append({"loss": loss, **terms}))
    name = path.parent.name
    root, training, validation = pieces(name)
    values = load_config(path).model_dump()
    values["data"] |= {"root": root, "train_scenes": training, "val_scenes": validation}
    mask = values["data"]["weak_labels"] and tmp_path / "mask.npz"
    if mask is not None:
        values["data"]["weak_labels"] = mask
        weaken.main([str(path), *RECIPES[name], "--data", str(root), "--scenes", *training, "-o", str(mask)])
        weak = WeakLabels.load(mask)
        assert 0 < sum(weak.info.class_counts) < 0.1 * sum(scene.num_points for scene in weak.info.scenes)
    values["data"]["crop"] |= {"max_voxels": 300, "window": 64}
    train(TrainConfig.model_validate(values | {"steps": 2, "batch_size": 2}), tmp_path / "run", device="cpu")
    assert len(seen) == 2 and all(math.isfinite(value) for terms in seen for value in terms.values())
    kind = values["method"]["kind"]
    assert kind == "supervised" or TERMS[kind] in seen[-1], seen[-1]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["num_points"] > 0 and set(metrics["iou"]) == set(values["data"]["class_names"])
    assert metrics["weak_labels"]["recipe"]["kind"] == ("none" if mask is None else RECIPES[name][0])
