"""Draws weak labels: a pure function of scenes, recipe and seed, whatever the order of the scenes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scribbles import scribbles
from pcseg.datasets.weak_blocks import blocks
from pcseg.datasets.weak_labels import WeakLabels, check_sources
from pcseg.datasets.weak_objects import clicks
from pcseg.datasets.weak_recipes import (
    BlocksRecipe,
    ClicksRecipe,
    ListRecipe,
    PointsRecipe,
    RatioRecipe,
    Recipe,
    ScenesRecipe,
    ScribblesRecipe,
)
from pcseg.datasets.weak_units import Units, lowest, scene_generator
from pcseg.errors import InputError
from pcseg.io.npy import open_npy

_NONE = np.zeros(0, np.int64)
_DIGITS = 18  # of a row index
_SLACK = 1e-9  # of products that should be whole numbers: 0.29 * 100 is 28.999999999999996


def draw_labels(
    sources: Sequence[RowSource],
    recipe: Recipe,
    *,
    seed: int,
    voxel_size: float | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> WeakLabels:
    """Draw the labels that stay visible.

    Random numbers come from a generator of each scene, made from the seed and the scene's name: the result depends
    neither on the order of the scenes nor on anything else that draws random numbers. Recipes that draw in each scene
    by itself draw the same there, whatever other scenes there are.

    Args:
        voxel_size: the recipes ``ratio`` and ``points`` draw voxels of this size, in the unit of the coordinates; None:
            rows. The mask counts voxels as well.
        advance: called with the number of scenes done since the last call.

    Raises:
        InputError: no scene, a scene without labels, scenes of different classes or of one name; what a recipe cannot
            find: an object's instances, a named scene, a list.
    """
    check_sources(sources)
    ordered = sorted(sources, key=lambda source: source.name)
    if isinstance(recipe, PointsRecipe) and recipe.per == "class":
        return _draw_together(ordered, recipe, seed, voxel_size, advance)
    labelled = _labelled_scenes(ordered, recipe, seed) if isinstance(recipe, ScenesRecipe) else set()
    rows: dict[str, np.ndarray] = {}
    for source in ordered:
        generator = scene_generator(seed, source.name)
        match recipe:
            case RatioRecipe() | PointsRecipe():
                rows[source.name] = _at_random(source, recipe, generator, voxel_size)
            case ClicksRecipe():
                rows[source.name] = clicks(source, recipe, generator)
            case ScribblesRecipe():
                rows[source.name] = scribbles(source, recipe, generator)
            case BlocksRecipe():
                rows[source.name] = blocks(source, recipe, generator)
            case ListRecipe():
                rows[source.name] = _listed(source, recipe)
            case ScenesRecipe():
                rows[source.name] = _all_labelled(source) if source.name in labelled else _NONE
        advance(1)
    return WeakLabels.of_rows(ordered, rows, recipe, seed=seed, voxel_size=voxel_size)


def _at_random(
    source: RowSource,
    recipe: RatioRecipe | PointsRecipe,
    generator: np.random.Generator,
    voxel_size: float | None,
) -> np.ndarray:
    """Of each class by itself, or of all labels together."""
    units = Units.of(source, voxel_size, recipe.reveal)
    keys = generator.random(len(units.labels))
    apart = recipe.stratified if isinstance(recipe, RatioRecipe) else recipe.per == "class_and_scene"
    classes = _members(units) if apart else [np.flatnonzero(units.labels >= 0)]
    chosen = [lowest(keys, members, _number(recipe, len(members))) for members in classes]
    return units.showing(np.concatenate([_NONE, *chosen]))


def _number(recipe: RatioRecipe | PointsRecipe, there: int) -> int:
    return recipe.count if isinstance(recipe, PointsRecipe) else max(math.floor(recipe.ratio * there + _SLACK), 1)


def _members(units: Units) -> list[np.ndarray]:
    """The voxels or rows of each class that occurs."""
    return [np.flatnonzero(units.labels == index) for index in np.unique(units.labels).tolist() if index >= 0]


def _draw_together(
    sources: Sequence[RowSource],
    recipe: PointsRecipe,
    seed: int,
    voxel_size: float | None,
    advance: Callable[[int], None],
) -> WeakLabels:
    """The lowest keys of each class over all scenes; no scene has to be looked at twice."""
    candidates: list[tuple[float, str, int, int]] = []  # key, scene, unit, class
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # rows of the candidates, and the unit of each row
    for source in sources:
        units = Units.of(source, voxel_size, recipe.reveal)
        keys = scene_generator(seed, source.name).random(len(units.labels))
        drawn = np.concatenate([_NONE, *(lowest(keys, members, recipe.count) for members in _members(units))])
        for unit in drawn.tolist():
            candidates.append((float(keys[unit]), source.name, unit, int(units.labels[unit])))
        kept = np.isin(units.unit_of_row, drawn)
        shown[source.name] = units.rows[kept], units.unit_of_row[kept]
        advance(1)
    taken: Counter[int] = Counter()
    chosen: dict[str, list[int]] = {source.name: [] for source in sources}
    for _, name, unit, index in sorted(candidates):
        if taken[index] < recipe.count:
            taken[index] += 1
            chosen[name].append(unit)
    rows = {name: of_name[np.isin(unit, chosen[name])] for name, (of_name, unit) in shown.items()}
    return WeakLabels.of_rows(sources, rows, recipe, seed=seed, voxel_size=voxel_size)


def _all_labelled(source: RowSource) -> np.ndarray:
    return np.flatnonzero(np.asarray(source.labels) >= 0)


def _labelled_scenes(sources: Sequence[RowSource], recipe: ScenesRecipe, seed: int) -> set[str]:
    """Names of the scenes that keep their labels."""
    names = [source.name for source in sources]
    if recipe.count is None:
        unknown = [name for name in recipe.ids if name not in names]
        if unknown:
            raise InputError(f"no scene is named {', '.join(unknown[:10])}; there are {', '.join(names[:20])}")
        return set(recipe.ids)
    if recipe.count > len(names):
        raise InputError(
            f"{recipe.count} labelled scenes are wanted, and there are {len(names)}; give a smaller --count"
        )
    return set(sorted(names, key=lambda name: (scene_generator(seed, name).random(), name))[: recipe.count])


def _listed(source: RowSource, recipe: ListRecipe) -> np.ndarray:
    """Rows as a file names them."""
    files = [recipe.folder / f"{source.name}{ending}" for ending in (".txt", ".npy")]
    there = [file for file in files if file.is_file()]
    if len(there) != 1:
        found = "no list" if not there else "two lists"
        raise InputError(f"{recipe.folder}: holds {found} of '{source.name}'; give {files[0].name} or {files[1].name}")
    if there[0].suffix == ".npy":
        rows = open_npy(there[0])
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise InputError(f"{there[0]}: expected (n,) integers, got {rows.dtype} {rows.shape}; save row indices")
        outside = np.flatnonzero((rows < 0) | (rows >= source.num_points))
        if len(outside):
            raise InputError(
                f"{there[0]}: entry {outside[0]} is row {rows[outside[0]]}; the scene has rows 0 to "
                f"{source.num_points - 1}"
            )
        return np.asarray(rows, np.int64)
    rows = []
    for number, line in enumerate(there[0].read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS or int(text) >= source.num_points:
            raise InputError(
                f"{there[0]}, line {number}: '{text[:40]}' is no row; the scene has rows 0 to {source.num_points - 1}"
            )
        rows.append(int(text))
    return np.array(rows, np.int64)
