"""Blocks of labels: squares of images, cubes of volumes, columns and balls of clouds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pcseg.datasets.row_source import RowSource
from pcseg.datasets.weak_recipes import BlocksRecipe

_SLACK = 1e-9


def blocks(
    source: RowSource,
    recipe: BlocksRecipe,
    generator: np.random.Generator,
) -> np.ndarray:  # (n,) int64 ascending
    """Labelled rows of blocks around random labelled rows that lie in no earlier block.

    Blocks are added until they hold the share of the labels; a smaller share of the same generator has the first of
    these blocks. At the border of an image a block is cut.
    """
    labelled = np.asarray(source.labels) >= 0
    wanted = math.ceil(recipe.ratio * labelled.sum() - _SLACK)
    order = np.argsort(generator.random(source.num_points), kind="stable")
    shape = source.grid_shape
    block_around = _cloud_blocks(source.coords, recipe) if shape is None else _grid_blocks(shape, recipe)
    inside = np.zeros(source.num_points, bool)
    held = 0
    for centre in order[labelled[order]].tolist():
        if held >= wanted:
            break
        if inside[centre]:
            continue
        rows = block_around(centre)
        rows = rows[labelled[rows] & ~inside[rows]]
        inside[rows] = True
        held += len(rows)
    return np.flatnonzero(inside)


def _grid_blocks(shape: tuple[int, ...], recipe: BlocksRecipe) -> Callable[[int], np.ndarray]:
    edge = max(1, round(recipe.size))
    cells = np.arange(math.prod(shape)).reshape(shape)

    def around(centre: int) -> np.ndarray:
        first = [int(place) - edge // 2 for place in np.unravel_index(centre, shape)]
        return cells[tuple(slice(max(low, 0), low + edge) for low in first)].reshape(-1)

    return around


def _cloud_blocks(coords: np.ndarray, recipe: BlocksRecipe) -> Callable[[int], np.ndarray]:
    from scipy.spatial import KDTree

    places = np.asarray(coords[:, :2] if recipe.shape == "column" else coords, np.float64)
    tree = KDTree(places)

    def around(centre: int) -> np.ndarray:
        return np.asarray(tree.query_ball_point(places[centre], recipe.size / 2), np.int64)

    return around
