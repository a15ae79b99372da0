"""Published lists of labelled points, one index file a scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.datasets.scene_folder import Scene
from pcseg.errors import InputError
from pcseg.io.atomic import replacing_folder
from pcseg.io.point_lists import read_point_lists
from pcseg.io.raw_tree import RawTree

FOLDER = "point_labels"


@dataclass(frozen=True, slots=True)
class PointLists:
    """One file of lists: for each scene the points whose label may be seen."""

    name: str
    tree: RawTree
    file: str


def write_point_lists(out: Path, lists: Sequence[PointLists]) -> list[str]:
    """Write ``out/point_labels/NAME/SCENE.npy``: rows (n,) int64 of the scene, ascending; ``recipe.json`` beside them.

    Returns:
        What was written and what was skipped, in words; the latter begin with "skipped".
    """
    told = []
    for item in lists:
        where = item.tree.where(item.file)
        try:
            found = read_point_lists(item.tree.read(item.file), where)
            told += _write(out, item, found)
        except InputError as error:
            told.append(f"skipped {item.name}: {error}")
    return told


def _write(out: Path, item: PointLists, found: dict[str, np.ndarray]) -> list[str]:
    told, count, total = [], 0, 0
    with replacing_folder(out / FOLDER / item.name) as folder:
        for name, rows in sorted(found.items()):
            if not (out / name / "scene.json").is_file():
                continue
            try:
                rows = _rows_of(Scene.open(out / name), rows)
            except InputError as error:
                told.append(f"skipped {item.name}, {name}: {error}")
                continue
            np.save(folder / f"{name}.npy", rows)
            count, total = count + 1, total + len(rows)
        if not count:
            raise InputError(f"{item.tree.where(item.file)}: names none of the prepared scenes; prepare them first")
        recipe = {
            "file": item.file,
            "sha256": item.tree.digest([item.file]),
            "num_scenes": count,
            "num_points": total,
        }
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    return [*told, f"{item.name}: {total:,} labelled points of {count} of {len(found)} listed scenes"]


def _rows_of(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Rows of the scene that are these points of its source file."""
    total = scene.num_points if scene.info.source is None else scene.info.source.num_points
    if int(points[-1]) >= total:
        raise InputError(f"point {int(points[-1])} is listed, the scene has {total}; take the lists of this release")
    kept = scene.source_rows
    return points if kept is None else np.flatnonzero(np.isin(kept, points))
