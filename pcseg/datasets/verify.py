"""Whether prepared scenes are still as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pcseg.datasets.scene_folder import Scene
from pcseg.errors import InputError
from pcseg.ignore import IGNORE
from pcseg.io.digest import sha256_of
from pcseg.io.npy import read_npy_chunks
from pcseg.io.scan import CHUNK_SIZE


def verify_folder(root: Path) -> dict[str, list[str]]:
    """What is wrong with each scene under a folder; an empty list: nothing.

    Raises:
        InputError: no such folder, or no scene in it.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check the path")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and _is_scene(p))
    if not folders:
        raise InputError(f"{root}: holds no scene; prepare some first")
    return {folder.name: verify_scene(folder) for folder in folders}


def verify_scene(folder: Path) -> list[str]:
    """Hashes, shapes, finite coordinates, the range of the labels and their counts; memory is bounded."""
    try:
        scene = Scene.open(folder)
    except InputError as error:
        return [str(error)]
    info, problems = scene.info, []
    for name, digest in info.array_sha256.items():
        file = folder / f"{name}.npy"
        if not file.is_file():
            problems.append(f"{file}: is missing; prepare the scene again")
        elif sha256_of(file) != digest:
            problems.append(f"{file}: has changed since it was written; prepare the scene again")
    try:
        _ = scene.coords, scene.source_rows, [scene.column(name) for name in scene.column_names]
        labels = scene.labels
    except InputError as error:
        return [*problems, str(error)]
    if not all(np.isfinite(part).all() for part in read_npy_chunks(folder / "coords.npy", CHUNK_SIZE)):
        problems.append(f"{folder / 'coords.npy'}: holds values that are not finite; prepare the scene again")
    if labels is not None:
        problems += _label_problems(scene, folder / "labels.npy")
    return problems


def _label_problems(scene: Scene, file: Path) -> list[str]:
    num_classes = len(scene.class_names)
    counts = np.zeros(num_classes + 1, np.int64)
    for part in read_npy_chunks(file, CHUNK_SIZE):
        low, high = int(part.min()), int(part.max())
        if low < IGNORE or high >= num_classes:
            wrong = low if low < IGNORE else high
            return [f"{file}: class {wrong} is outside the {num_classes} classes; prepare the scene again"]
        counts += np.bincount(part.astype(np.int64) + 1, minlength=num_classes + 1)
    told = [scene.info.class_histogram.get(name, 0) for name in scene.class_names]
    if scene.info.class_histogram and counts[1:].tolist() != told:
        return [f"{file}: holds {counts[1:].tolist()} points of the classes, scene.json says {told}"]
    return []


def _is_scene(folder: Path) -> bool:
    return (folder / "scene.json").is_file() or (folder / "coords.npy").is_file()
