"""The objects that a click or a stroke is for: instances, or connected components of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pcseg import ops
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_folder import INSTANCES
from pcseg.datasets.voxel_grid import grid_of
from pcseg.datasets.weak_recipes import ClicksRecipe
from pcseg.errors import InputError

_FIRST_CAP = 32
_CHUNK = 100_000


def clicks(
    source: RowSource,
    recipe: ClicksRecipe,
    generator: np.random.Generator,
) -> np.ndarray:  # (n,) int64 ascending
    """Random rows of every object; fewer are part of more.

    Raises:
        InputError: as :func:`objects_of`.
    """
    objects = large(objects_of(source, recipe.radius), recipe.min_rows)
    return np.sort(first_of_each(objects, generator.random(source.num_points), recipe.count))


def objects_of(
    source: RowSource,
    radius: float | None,
) -> np.ndarray:  # (N,) int64, number of the row's object, from 0; -1: no label
    """Instances of the source by class and id; other labelled rows are in components of their class.

    Components of images and volumes connect neighbours, over corners too; those of clouds are of
    :func:`cloud_components`.

    Raises:
        InputError: a cloud that needs components, and no radius or one far too small.
    """
    labels = np.asarray(source.labels)
    objects = np.full(source.num_points, -1, np.int64)
    rest = labels >= 0
    count = 0
    given = source.instances
    if given is not None:
        instances = np.asarray(given).astype(np.int64)
        known = rest & (instances >= 0)
        pairs = np.stack([labels[known].astype(np.int64), instances[known]], 1)
        if len(pairs):
            objects[known] = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        count, rest = int(objects.max(initial=-1)) + 1, rest & (instances < 0)
    if source.grid_shape is not None:
        components = grid_components(np.where(rest, labels, -1).reshape(source.grid_shape)).reshape(-1)
        return np.where(components >= 0, components + count, objects)
    for index in np.unique(labels[rest]).tolist():
        if radius is None:
            raise InputError(
                f"{source.path}: not every labelled point has an instance (column '{INSTANCES}'); say with --radius "
                f"how near points of a class are that belong to one object"
            )
        rows = np.flatnonzero(rest & (labels == index))
        objects[rows] = cloud_components(source.coords[rows], radius, where=source.path) + count
        count = int(objects[rows].max()) + 1
    return objects


def grid_components(
    labels: np.ndarray,  # (H, W) or (D, H, W), class or IGNORE
) -> np.ndarray:  # of that shape, int64 from 0, class by class; -1: IGNORE
    """Connected components of each class, over corners too."""
    from scipy import ndimage

    components = np.full(labels.shape, -1, np.int64)
    everywhere = np.ones((3,) * labels.ndim, bool)
    count = 0
    for index in np.unique(labels).tolist():
        if index >= 0:
            numbers, found = ndimage.label(labels == index, structure=everywhere)  # pyright: ignore[reportGeneralTypeIssues]
            components[numbers > 0] = numbers[numbers > 0] + (count - 1)
            count += found
    return components


def cloud_components(
    coords: np.ndarray,  # (n, D) float32
    radius: float,
    *,
    where: Path | str = "the cloud",
) -> np.ndarray:  # (n,) int64 from 0
    """Connected components of the graph that links the barycentres of voxels no further apart than ``radius``.

    Voxels have the edge ``radius / 4``: points nearer than 0.13 radii are always linked, points further apart than 1.87
    radii never, in up to 3 dimensions; points that are alone in their voxel exactly as the radius says.

    Raises:
        InputError: a radius far too small for the coordinates, named by ``where``.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    grid, points = grid_of(coords, radius / 4, where=where, what=f"the radius {radius:g}")
    first, second = _pairs(ops.voxel_features(grid, points).coords, radius)
    size = len(grid.point_offsets) - 1
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size)).tocsr()
    _, component = connected_components(graph, directed=False)
    return component.astype(np.int64)[grid.voxel_of_point.numpy()]


def _pairs(points: Tensor, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of rows no further apart than the radius."""
    index, parts = ops.point_index(points), []
    for start in range(0, len(points), _CHUNK):
        query, cap = points[start : start + _CHUNK], _FIRST_CAP
        near = ops.radius_search(query, index, radius, cap)
        while cap < len(points) and bool((near[:, -1] < len(points)).any()):  # a full list may have been cut
            cap *= 2
            near = ops.radius_search(query, index, radius, cap)
        rows, places = torch.nonzero(near < len(points), as_tuple=True)
        parts.append((rows.numpy() + start, near[rows, places].numpy()))
    first, second = (np.concatenate([np.zeros(0, np.int64), *part]) for part in zip(*parts)) if parts else ([], [])
    return np.asarray(first, np.int64), np.asarray(second, np.int64)


def large(
    objects: np.ndarray,  # (N,) int64 from 0, or -1
    min_rows: int,
) -> np.ndarray:  # (N,) int64
    """Without the objects of fewer rows, which become -1."""
    counts = np.bincount(objects[objects >= 0], minlength=1)
    return np.where((objects >= 0) & (counts[objects] >= min_rows), objects, -1)


def first_of_each(
    groups: np.ndarray,  # (N,) int64 from 0, or -1: of none
    keys: np.ndarray,  # (N,) float
    count: int = 1,
) -> np.ndarray:  # (G,) int64, in the order of the groups; of each the lowest keys first
    """The rows of the ``count`` lowest keys of each group."""
    rows = np.flatnonzero(groups >= 0)
    order = rows[np.lexsort((keys[rows], groups[rows]))]
    _, first, of_row = np.unique(groups[order], return_index=True, return_inverse=True)
    return order[np.arange(len(order)) - first[of_row.reshape(-1)] < count]
