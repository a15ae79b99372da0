"""A ground surface from geometry alone, and the height of points above it.

The lowest point of each cell of a coarse grid bounds the ground from above. Morphological openings with growing windows
(Zhang et al. 2003, "A progressive morphological filter for removing nonground measurements from airborne LIDAR data")
cut away what stands out of it. Where we differ: what a large window cuts off is kept as ground unless most of its rim
is a step, so that hills survive windows wide enough for city blocks; holes are filled by a pyramid of averages.
Labels are never looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_MAX_CELLS = 2**24  # 64 MB a grid
_SMALL_WINDOW = 9  # cells; up to here whatever stands out is cut, hill or not


@dataclass(frozen=True, slots=True)
class GroundSettings:
    """Defaults for outdoor LiDAR in metres; for a small scene the cell, and the rest with it, shrinks.

    Raises:
        ValueError: a value that is not positive.
    """

    cell: float = 1.0
    """Edge of a grid cell. A scene narrower than 48 cells gets smaller ones, a sparse or vast one larger ones."""
    max_window: float = 100.0
    """Objects up to this wide are cut off."""
    slope: float = 0.3
    """Terrain this steep (rise / run) is kept at every window."""
    step: float = 0.5
    """What stands out of its neighbourhood by less is ground."""
    max_step: float = 2.5
    """What stands out by more is no ground, unless it rises without a step."""
    noise: float = 2.0
    """A lone cell this far below its surroundings is a stray echo."""

    def __post_init__(self) -> None:
        for name in ("cell", "max_window", "slope", "step", "max_step", "noise"):
            if not getattr(self, name) > 0:
                raise ValueError(f"GroundSettings: {name} must be positive, got {getattr(self, name)}")

    def scaled(self, factor: float) -> GroundSettings:
        """The same in a scene of another size: lengths times ``factor``, the slope as it is."""
        return GroundSettings(
            cell=self.cell * factor,
            max_window=self.max_window * factor,
            slope=self.slope,
            step=self.step * factor,
            max_step=self.max_step * factor,
            noise=self.noise * factor,
        )


@dataclass(frozen=True, slots=True)
class GroundModel:
    """Ground elevation on a regular grid of cell centres."""

    corner: np.ndarray  # (2,) float64, x and y of the grid's lower corner
    cell: float
    elevation: np.ndarray  # (X, Y) float32

    def height(
        self,
        coords: np.ndarray,  # (N, 3)
    ) -> np.ndarray:  # (N,) float32
        """Height above ground, between cell centres bilinear."""
        place = ((coords[:, :2] - self.corner) / self.cell - 0.5).T
        ground = ndimage.map_coordinates(self.elevation, place, order=1, mode="nearest", output=np.float32)
        return coords[:, 2].astype(np.float32) - ground


def extent(
    coords: np.ndarray,  # (N, D), N at least 1
) -> tuple[np.ndarray, np.ndarray]:  # (D,), (D,) dtype of coords
    """Lowest and highest coordinates, column by column: along narrow rows NumPy takes ten times as long."""
    columns = coords.T
    return np.array([column.min() for column in columns]), np.array([column.max() for column in columns])


def fit_ground(
    chunks: Callable[[], Iterable[np.ndarray]],  # each call: the cloud anew, as (n, 3) parts
    settings: GroundSettings | None = None,
) -> GroundModel:
    """Ground model of a cloud that is read twice in parts: once for its extent, once for its lowest points.

    Memory is bounded by a part and by the grid (at most 16 million cells; the cell grows where that is too few).

    Args:
        chunks: returns an iterator over the parts; coordinates are finite, z points up.
        settings: None: the defaults.

    Raises:
        ValueError: no point at all.
    """
    settings = settings or GroundSettings()
    count, low, high = 0, np.full(2, np.inf), np.full(2, -np.inf)
    for part in chunks():
        if len(part):
            count += len(part)
            lowest, highest = extent(part[:, :2])
            low, high = np.minimum(low, lowest), np.maximum(high, highest)
    if count == 0:
        raise ValueError("fit_ground: the cloud has no points")
    settings = _fit_settings(settings, np.asarray(high - low, np.float64), count)
    corner = np.asarray(low, np.float64)
    shape = tuple(int(n) + 1 for n in (high - low) / settings.cell)
    lowest = np.full(shape[0] * shape[1], np.inf, np.float32)
    for part in chunks():
        cells = ((part[:, :2] - corner) / settings.cell).astype(np.int64)
        np.minimum.at(lowest, cells[:, 0] * shape[1] + cells[:, 1], part[:, 2].astype(np.float32))
    return GroundModel(corner=corner, cell=settings.cell, elevation=_ground(lowest.reshape(shape), settings))


def _fit_settings(settings: GroundSettings, extent: np.ndarray, count: int) -> GroundSettings:
    """Shrink for a small scene; grow the cell where points are sparse or the grid would be vast."""
    longest = float(extent.max())
    if 0 < longest < 48 * settings.cell:
        settings = settings.scaled(longest / 48 / settings.cell)
    area = max(float(extent.prod()), longest * settings.cell)
    smallest = max(2 * (area / count) ** 0.5, (area / _MAX_CELLS) ** 0.5)
    if smallest <= settings.cell:
        return settings
    return GroundSettings(
        cell=smallest,
        max_window=settings.max_window,
        slope=settings.slope,
        step=settings.step,
        max_step=settings.max_step,
        noise=settings.noise,
    )


def _ground(
    lowest: np.ndarray,  # (X, Y) float32, inf where a cell is empty
    settings: GroundSettings,
) -> np.ndarray:  # (X, Y) float32
    known = np.isfinite(lowest)
    known &= ~_stray(lowest, settings.noise)
    plane = _lower_plane(lowest, known, settings.step)
    surface = fill_holes(lowest - plane, known)
    ground = known.copy()
    widths = _windows(settings.max_window / settings.cell, min(lowest.shape))
    opened = surface
    steep = settings.step + 1.5 * settings.slope * settings.cell  # the terrain's own fall to a corner neighbour is less
    for before, width in itertools.pairwise([1, *widths]):
        opened = _opening(opened, width)
        rise = settings.slope * (width - before) * settings.cell
        out = surface - opened > min(settings.step + rise, max(settings.max_step, steep))
        if width > _SMALL_WINDOW:
            out = _with_steep_rim(out, surface, steep)
        ground &= ~out
    return ndimage.gaussian_filter(fill_holes(surface, ground), 1.0, mode="nearest") + plane


def _lower_plane(lowest: np.ndarray, known: np.ndarray, step: float) -> np.ndarray:  # (X, Y) float32
    """A plane under most of the cells: on a slope, windows cut off less of the upper edge of the scene.

    Least squares whose weights fade with the height above the plane, ever faster; on at most 10,000 cells.
    """
    x, y = np.nonzero(known)
    every = max(1, len(x) // 10_000)
    x, y = x[::every], y[::every]
    design = np.stack([x, y, np.ones(len(x))], axis=1)
    z = lowest[x, y].astype(np.float64)
    weight = np.ones(len(x))
    solution = np.array([0.0, 0.0, z.mean() if len(z) else 0.0])
    reach = 2 * float(np.std(z))
    while reach > step:
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(design * root[:, None], z * root, rcond=None)[0]
        above = np.maximum(z - design @ solution, 0)
        weight = 1 / (1 + (above / reach) ** 2) ** 2
        reach *= 0.8
    rows, columns = np.ogrid[: lowest.shape[0], : lowest.shape[1]]
    return (solution[0] * rows + solution[1] * columns + solution[2]).astype(np.float32)


def _windows(largest: float, grid: int) -> list[int]:
    """Odd window widths in cells: 3, 5, 9, 17 ... up to the largest, or twice the grid if that is less."""
    widths = [3]
    while widths[-1] < min(largest, 2 * grid):
        widths.append(2 * widths[-1] - 1)
    return widths


def _opening(surface: np.ndarray, width: int) -> np.ndarray:
    """Grey opening with a square window, each axis by itself."""
    for filtered in (ndimage.minimum_filter1d, ndimage.maximum_filter1d):
        for axis in (0, 1):
            surface = filtered(surface, width, axis=axis, mode="nearest")
    return surface


def _stray(lowest: np.ndarray, noise: float) -> np.ndarray:  # (X, Y) bool
    """Cells far below all but two blocks of 4 x 4 cells around: echoes from below the ground."""
    block = 4
    padded = np.pad(lowest, [(0, -n % block) for n in lowest.shape], constant_values=np.inf)
    blocks = padded.reshape(padded.shape[0] // block, block, -1, block).min(axis=(1, 3))
    floor = ndimage.rank_filter(blocks, rank=2, size=5, mode="nearest")
    floor = floor.repeat(block, 0).repeat(block, 1)[: lowest.shape[0], : lowest.shape[1]]
    return np.logical_and(lowest < floor - noise, np.isfinite(floor))


def _with_steep_rim(
    out: np.ndarray,  # (X, Y) bool
    surface: np.ndarray,  # (X, Y) float32
    step: float,
) -> np.ndarray:  # (X, Y) bool
    """Keep what falls off by a step along most of its rim: components of ``out`` as they are (a block of houses), and
    as cells at the foot of a step divide them (a house from the hill it stands on)."""
    foot = ndimage.maximum_filter(surface, 3, mode="nearest") - surface > step
    fall = surface - ndimage.minimum_filter(surface, 3, mode="nearest") > step
    divided = _raised(out & ~foot, fall)
    return _raised(out, fall) | (out & ndimage.binary_dilation(divided, np.ones((3, 3), bool)))


def _raised(parts: np.ndarray, fall: np.ndarray) -> np.ndarray:  # (X, Y) bool
    """Components of ``parts`` at least half of whose rim is where ``fall`` says so."""
    label, count = _components(parts)
    inside = np.asarray(ndimage.binary_erosion(parts, border_value=1), bool)
    rim = parts & ~inside
    total = np.bincount(label[rim], minlength=count + 1)
    steep = np.bincount(label[rim & fall], minlength=count + 1)
    raised = 2 * steep >= total
    raised[0] = False
    return raised[label]


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    result = ndimage.label(mask)
    assert isinstance(result, tuple)
    return result


def fill_holes(
    values: np.ndarray,  # (X, Y) float32
    known: np.ndarray,  # (X, Y) bool
) -> np.ndarray:  # (X, Y) float32
    """Values where ``known``, elsewhere averages of ever wider surroundings, the narrowest that hold something."""
    if known.all() or not known.any():
        return np.where(np.isfinite(values), values, 0).astype(np.float32)
    total = np.where(known, values, 0).astype(np.float32)
    return _pull_push(total, known.astype(np.float32))


def _pull_push(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Average pairs of cells into a coarser grid until no hole is left, then fill each grid from the coarser one."""
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    if (weight > 0).all():
        return mean
    pad = [(0, n % 2) for n in weight.shape]
    parts = [np.pad(a, pad).reshape((a.shape[0] + 1) // 2, 2, -1, 2) for a in (mean * (weight > 0), weight > 0)]
    coarse_total, coarse_weight = (p.sum(axis=(1, 3), dtype=np.float32) for p in parts)
    coarse = _pull_push(coarse_total, coarse_weight)
    rows = (np.arange(weight.shape[0]) - 0.5) / 2
    columns = (np.arange(weight.shape[1]) - 0.5) / 2
    fine = _resample(_resample(coarse, rows, 0), columns, 1)
    return np.where(weight > 0, mean, fine)


def _resample(values: np.ndarray, position: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along one axis, clamped at the ends."""
    last = values.shape[axis] - 1
    position = position.clip(0, last)
    left = position.astype(np.int64).clip(0, max(last - 1, 0))
    right = np.minimum(left + 1, last)
    share = (position - left).astype(np.float32)
    share = share[:, None] if axis == 0 else share[None, :]
    return values.take(left, axis) * (1 - share) + values.take(right, axis) * share
