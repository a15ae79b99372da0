"""Scenes with things to tell apart, and runs on them, so small that a test can train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pcseg.batch import IGNORE
from pcseg.config import CropConfig, DataConfig, KPConvConfig, PointPanopticConfig, QueryDecoderConfig, TrainConfig
from pcseg.datasets.scene_folder import ColumnInfo, SceneInfo, write_info

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


def yard_config(root: Path, method: PointPanopticConfig | None = None, **change) -> TrainConfig:
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
