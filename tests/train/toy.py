"""Scenes and runs so small that a test can train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, TrainConfig
from pcseg.datasets.scene_folder import ColumnInfo, SceneInfo, write_info

CLASSES = ("flat", "tall")
FEATURES = ("height_above_ground",)


def toy_cloud(seed: int, count: int = 600) -> tuple[np.ndarray, np.ndarray]:  # (N, 3) float32, (N,) int16
    """A plane with a wall on it: the wall is the second class; a few points have no label."""
    rng = np.random.default_rng(seed)
    coords = rng.random((count, 3)) * (12.0, 8.0, 0.1)
    wall = rng.random(count) < 0.4
    coords[wall, 0] = 5.0 + 0.2 * rng.random(wall.sum())
    coords[wall, 2] = 0.5 + 3.0 * rng.random(wall.sum())
    labels = wall.astype(np.int16)
    labels[rng.random(count) < 0.05] = -1
    return coords.astype(np.float32), labels


def write_scene(
    root: Path, name: str, seed: int, *, labels: bool = True, class_names: tuple[str, ...] = CLASSES
) -> Path:
    coords, truth = toy_cloud(seed)
    folder = root / name
    folder.mkdir(parents=True)
    np.save(folder / "coords.npy", coords)
    np.save(folder / "height_above_ground.npy", coords[:, 2])
    if labels:
        np.save(folder / "labels.npy", truth)
    info = SceneInfo(
        name=name,
        num_points=len(coords),
        origin=(84000.0, 447000.0, 0.0),
        class_names=class_names,
        class_codes=(2, 6)[: len(class_names)],
        columns={"height_above_ground": ColumnInfo(dtype="float32", shape=(len(coords),))},
    )
    write_info(folder, info)
    return folder


def write_scenes(root: Path) -> Path:
    for seed, name in enumerate(("train_a", "train_b", "val_a")):
        write_scene(root, name, seed)
    return root


def toy_config(root: Path, **change) -> TrainConfig:
    data = DataConfig(
        root=root,
        train_scenes=("train_*",),
        val_scenes=("val_*",),
        class_names=CLASSES,
        label_map={2: 0, 6: 1, 9: -1},
        features=FEATURES,
        crop=CropConfig(max_voxels=150),
        augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.9, 1.1), jitter=0.01),
    )
    model = KPConvConfig(voxel_size=0.5, num_levels=2, width=16)
    values = {"name": "toy", "data": data, "model": model, "steps": 8, "save_every": 2, "batch_size": 2} | change
    return TrainConfig(**values)
