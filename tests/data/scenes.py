"""Makers of small scene folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pcseg.datasets.scene_folder import ColumnInfo, Scene, SceneInfo, write_info


def write_scene(
    folder: Path,
    coords: np.ndarray,  # (N, 3)
    *,
    labels: np.ndarray | None = None,  # (N,)
    class_names: tuple[str, ...] = (),
    **columns: np.ndarray,  # (N,) or (N, k)
) -> Scene:
    """A scene folder of given arrays, as anyone could write one by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "coords.npy", np.asarray(coords, np.float32))
    if labels is not None:
        np.save(folder / "labels.npy", np.asarray(labels, np.int16))
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", values)
    info = SceneInfo(
        name=folder.name,
        num_points=len(coords),
        origin=(84900.0, 447500.0, 0.0),
        class_names=class_names,
        columns={name: ColumnInfo(dtype=v.dtype.name, shape=v.shape) for name, v in columns.items()},
    )
    write_info(folder, info)
    return Scene.open(folder)


def town(folder: Path, num_points: int = 3000, *, size: float = 40.0, seed: int = 0) -> Scene:
    """Flat ground with two houses and a few rare posts: classes ground, house, post, and some rows ignored."""
    rng = np.random.default_rng(seed)
    coords = rng.random((num_points, 3)) * [size, size, 0.2] - [size / 2, size / 2, 0]
    labels = np.zeros(num_points, np.int16)
    for x, y in ((-12, -8), (5, 6)):
        inside = (np.abs(coords[:, 0] - x) < 5) & (np.abs(coords[:, 1] - y) < 4)
        coords[inside, 2] += 6
        labels[inside] = 1
    post = rng.choice(num_points, 12, replace=False)
    coords[post, 2] += rng.random(12) * 2
    labels[post] = 2
    height = coords[:, 2].astype(np.float32)
    labels[rng.choice(num_points, num_points // 20, replace=False)] = -1
    return write_scene(
        folder,
        coords,
        labels=labels,
        class_names=("ground", "house", "post"),
        height_above_ground=height,
        intensity=rng.integers(0, 65535, num_points).astype(np.uint16),
        return_number=rng.integers(1, 3, num_points).astype(np.uint8),
        number_of_returns=np.full(num_points, 2, np.uint8),
        color=rng.integers(0, 256, (num_points, 3)).astype(np.uint8),
        normals=np.tile(np.array([[0.6, 0.0, 0.8]], np.float32), (num_points, 1)),
    )
