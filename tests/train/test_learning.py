"""Consistency methods beat plain supervision with the same few labels, on the mean of three seeds.

The data: a floor in four fields, two of each class, and one feature that differs between the classes by little more
than half of its noise. Eight labelled voxels a class; the network sees no further than its first level. ERDA and soft
self-labelling have no place here yet: on other draws of such fields they gained 0.01 to 0.03, on these they lost 0.01.
"""

import json
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from pcseg.config import (
    AugmentConfig,
    ConsistencyConfig,
    CropConfig,
    DataConfig,
    IPixMatchConfig,
    KPConvConfig,
    MethodConfig,
    OptimConfig,
    SupervisedConfig,
    TrainConfig,
    ViewsConfig,
)
from pcseg.datasets.scene_folder import ColumnInfo, SceneInfo, write_info
from pcseg.datasets.scene_part import open_sources
from pcseg.datasets.weak_draw import draw_labels
from pcseg.datasets.weak_recipes import PointsRecipe
from pcseg.train import train

SEEDS = (0, 1, 2)
EDGE, HALF_DIFFERENCE, LABELS, STEPS = 7.0, 0.3, 8, 150
VIEWS = ViewsConfig(mix="none", strong=AugmentConfig(rotate=True, feature_jitter=0.5))
METHODS: dict[str, MethodConfig] = {
    "fixmatch": ConsistencyConfig(threshold=0.8, views=VIEWS),
    "ipixmatch": IPixMatchConfig(threshold=0.8, views=VIEWS),
}
MARGIN = 0.02


def write_fields(root: Path, name: str, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    coords = rng.random((count, 3)) * (2 * EDGE, 2 * EDGE, 0.1)
    labels = ((coords[:, :2] // EDGE).sum(1) + seed) % 2
    signal = np.where(labels == 1, HALF_DIFFERENCE, -HALF_DIFFERENCE) + rng.normal(size=count)
    folder = root / name
    folder.mkdir(parents=True)
    arrays = {"coords": coords.astype(np.float32), "labels": labels.astype(np.int16), "signal": signal}
    for key, values in arrays.items():
        np.save(folder / f"{key}.npy", values.astype(np.float32) if key == "signal" else values)
    info = SceneInfo(
        name=name,
        num_points=count,
        origin=(0.0, 0.0, 0.0),
        class_names=("even", "odd"),
        class_codes=(2, 6),
        columns={"signal": ColumnInfo(dtype="float32", shape=(count,))},
    )
    write_info(folder, info)


def config_of(root: Path, seed: int, method: MethodConfig) -> TrainConfig:
    data = DataConfig(
        root=root,
        train_scenes=("train",),
        val_scenes=("val",),
        class_names=("even", "odd"),
        label_map={2: 0, 6: 1},
        features=("signal",),
        crop=CropConfig(max_voxels=700),
        augment=AugmentConfig(rotate=True, flip=0.5),
        weak_labels=root / "mask.npz",
    )
    return TrainConfig(
        name="fields",
        data=data,
        model=KPConvConfig(voxel_size=0.5, num_levels=1, width=16),
        method=method,
        optim=OptimConfig(lr=0.01),
        steps=STEPS,
        average=0.9,
        save_every=10 * STEPS,
        seed=seed,
    )


@pytest.fixture(scope="module")
def score(tmp_path_factory):
    """mIoU of a method on the data of a seed, at the resolution of the voxels."""
    root = tmp_path_factory.mktemp("fields")

    known: dict[tuple[int, str], float] = {}

    def trained(seed: int, method: MethodConfig) -> float:
        folder, key = root / str(seed), (seed, method.kind)
        config = config_of(folder, seed, method)
        if not folder.exists():
            write_fields(folder, "train", 10 * seed, 2500)
            write_fields(folder, "val", 10 * seed + 1, 5000)
            sources = open_sources(config.data, config.data.train_scenes)
            draw_labels(sources, PointsRecipe(count=LABELS), seed=seed).save(folder / "mask.npz")
        if key not in known:
            train(config, root / "run", fresh=True)
            known[key] = json.loads((root / "run" / "metrics.json").read_text())["miou"]
        return known[key]

    return trained


@pytest.mark.parametrize("name", METHODS)
def test_a_method_beats_plain_supervision(score, name):
    found, plain = ([score(seed, chosen) for seed in SEEDS] for chosen in (METHODS[name], SupervisedConfig()))
    assert mean(found) > mean(plain) + MARGIN, (found, plain)
