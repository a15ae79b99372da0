"""Strokes: along the skeletons of an image's or a slice's components, and over the surface of a cloud's objects."""

from __future__ import annotations

import math

import numpy as np
import torch

from pcseg import ops
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.weak_objects import first_of_each, grid_components, large, objects_of
from pcseg.datasets.weak_recipes import ScribblesRecipe

_SLACK = 1e-9


def scribbles(
    source: RowSource,
    recipe: ScribblesRecipe,
    generator: np.random.Generator,
) -> np.ndarray:  # (n,) int64 ascending
    """Rows of a stroke through every object, at least one each.

    Raises:
        InputError: a cloud without instances and without a radius.
    """
    keys = generator.random(source.num_points)
    labels, shape = np.asarray(source.labels), source.grid_shape
    if shape is None:
        objects = large(objects_of(source, recipe.radius), recipe.min_rows)
        parts = []
        for index in np.unique(labels[objects >= 0]).tolist():
            rows = np.flatnonzero((labels == index) & (objects >= 0))
            parts.append(rows[surface_strokes(source.coords[rows], objects[rows], keys[rows], recipe)])
        return np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))
    planes = labels.reshape(-1, *shape[-2:])
    chosen = np.zeros(planes.shape, bool)
    for number in range(0, len(planes), recipe.slice_step):
        objects = large(grid_components(planes[number]).reshape(-1), recipe.min_rows)
        plane_keys = keys.reshape(planes.shape)[number]
        strokes = skeleton_strokes(planes[number], objects.reshape(shape[-2:]), plane_keys, recipe.share)
        chosen[number].reshape(-1)[strokes] = True
    return np.flatnonzero(chosen)


def skeleton_strokes(
    labels: np.ndarray,  # (H, W) class or IGNORE
    objects: np.ndarray,  # (H, W) int64, connected components of the classes, or -1
    keys: np.ndarray,  # (H, W) float, random
    share: float,
) -> np.ndarray:  # (n,) int64, of the H * W pixels, object by object
    """The pixels of each object's skeleton that are nearest, along it, to a random one of them: ceil(share * all).

    So a stroke is connected, and a shorter one is part of it. Skeletons are those of Zhang and Suen (1984).
    """
    from skimage.morphology import skeletonize

    skeleton = np.zeros(labels.shape, bool)
    for index in np.unique(labels[objects >= 0]).tolist():
        skeleton |= skeletonize((labels == index) & (objects >= 0))
    # Thinning may leave nothing of an object of a few pixels: any of its pixels then stands for it.
    bare = np.isin(objects, np.unique(objects[skeleton]), invert=True) & (objects >= 0)
    skeleton.reshape(-1)[first_of_each(np.where(bare, objects, -1).reshape(-1), keys.reshape(-1))] = True
    pixels = np.flatnonzero(skeleton)
    members = objects.reshape(-1)[pixels]
    if not len(pixels):
        return pixels
    first, second = _grid_edges(skeleton, objects)
    starts = first_of_each(members, keys.reshape(-1)[pixels])
    steps = _distances(first, second, np.ones(len(first)), starts, len(pixels))[0]
    reached = np.isfinite(steps)
    kept = _first_share(members[reached], (steps[reached], pixels[reached]), share)
    return pixels[reached][kept]


def surface_strokes(
    coords: np.ndarray,  # (n, D) float32, of one class
    objects: np.ndarray,  # (n,) int64 from 0
    keys: np.ndarray,  # (n,) float, random
    recipe: ScribblesRecipe,
) -> np.ndarray:  # (m,) int64, of these rows, object by object
    """The shortest path between two far points of each object, cut to ceil(share * its points) around one of them.

    Paths go from a point to one of its nearest neighbours of the same object, as far as these links lead. The far
    points: the one farthest from a random point, and the one farthest from that.
    """
    points = torch.from_numpy(np.array(coords, np.float32))
    index, sq_dist = (found.numpy() for found in ops.knn(points, points, min(recipe.neighbors + 1, len(points))))
    rows = np.repeat(np.arange(len(points)), index.shape[1])
    near, length = index.reshape(-1), np.sqrt(sq_dist.reshape(-1).astype(np.float64))
    linked = (near != rows) & (near < len(points)) & (length <= (recipe.radius or np.inf))
    linked[linked] = objects[rows[linked]] == objects[near[linked]]
    edges = rows[linked], near[linked], np.maximum(length[linked], np.finfo(np.float32).tiny)  # 0 would be no edge
    starts = first_of_each(objects, keys)
    ends = first_of_each(objects, _falling(_distances(*edges, starts, len(points))[0]))
    lengths, before = _distances(*edges, ends, len(points))
    far = first_of_each(objects, _falling(lengths))
    path, member, place = _walked(far, before)
    anchors = place[first_of_each(member, keys[path])]  # a random point of each path
    away = np.abs(place - anchors[member])
    return path[_first_share(member, (away, place), recipe.share)]


def _falling(distances: np.ndarray) -> np.ndarray:
    """Keys that are lowest where a distance is largest; what is not reached comes last."""
    return np.where(np.isfinite(distances), -distances, np.inf)


def _distances(
    first: np.ndarray,  # (E,) int64
    second: np.ndarray,  # (E,) int64
    lengths: np.ndarray,  # (E,) > 0
    starts: np.ndarray,  # (S,) int64
    size: int,
) -> tuple[np.ndarray, np.ndarray]:  # (size,) float64, infinity where no way leads; (size,) the row before, or below 0
    """Way to the nearest start along edges, which lead both ways."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    graph = coo_array((lengths, (first, second)), shape=(size, size)).tocsr()
    found = dijkstra(graph, directed=False, indices=starts, return_predecessors=True, min_only=True)
    return found[0], found[1]


def _grid_edges(skeleton: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbouring pixels of one object's skeleton, over corners too, counted through the skeleton."""
    height, width = skeleton.shape
    number = np.cumsum(skeleton.reshape(-1)).reshape(height, width) - 1
    parts = []
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = slice(0, height - down), slice(max(-across, 0), width - max(across, 0))
        there = slice(down, height), slice(max(across, 0), width + min(across, 0))
        both = skeleton[here] & skeleton[there] & (objects[here] == objects[there])
        parts.append((number[here][both], number[there][both]))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _walked(far: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of each way back from ``far``: (m,) rows, number of the way, place on it."""
    rows, member, place = [], [], []
    for number, row in enumerate(far.tolist()):
        step = 0
        while row >= 0:
            rows.append(row)
            member.append(number)
            place.append(step)
            row, step = int(before[row]), step + 1
    return np.array(rows, np.int64), np.array(member, np.int64), np.array(place, np.int64)


def _first_share(
    groups: np.ndarray,  # (n,) int64
    order: tuple[np.ndarray, np.ndarray],  # (n,) each: what comes first in its group, ties by the second
    share: float,
) -> np.ndarray:  # (m,) int64
    """Of each group the first ceil(share * its number), at least one."""
    placed = np.lexsort((order[1], order[0], groups))
    _, start, counts = np.unique(groups[placed], return_index=True, return_counts=True)
    rank = np.arange(len(placed)) - np.repeat(start, counts)
    wanted = np.array([max(1, math.ceil(share * count - _SLACK)) for count in counts.tolist()], np.int64)
    return placed[rank < np.repeat(wanted, counts)]
