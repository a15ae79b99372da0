"""Windows of images under a change of geometry: where each of their cells comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcseg.datasets.augment import Geometry

_RIM = 1.0  # cells: a pixel falls into one up to half a cell, times sqrt(2), from the outermost centres


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """The source of each cell of a window, cells in raster order. Rows of the image are y * W + x."""

    corners: Tensor  # (n, 4) int64, the pixels around the place, as rows of the image
    weights: Tensor  # (n, 4) float32, bilinear, sum 1
    rows: Tensor  # (n,) int64, the pixel that a cell stands for
    inside: Tensor  # (n,) bool; False: beyond the border, where the image goes on as its own mirror image

    def features(self, feats: Tensor, first: int = 0) -> Tensor:  # (rows, C) -> (n, C)
        """Bilinear values of the cells, from the rows of the image counted from ``first``."""
        return (feats[self.corners - first] * self.weights[:, :, None].to(feats)).sum(1)

    def ids(self, values: Tensor, outside: int) -> Tensor:  # (H * W,) int64 -> (n,) int64
        """Labels or instances of the cells; ``outside`` beyond the border."""
        return torch.where(self.inside, values[self.rows], outside)


def look_up(
    shape: tuple[int, int],  # (H, W) of the image
    centre: tuple[int, int],  # (x, y), the pixel that comes to lie on cell (size // 2, size // 2)
    geometry: Geometry,
    size: int,
    *,
    labelled: Tensor | None = None,  # (H * W,) bool, pixels that carry a label
) -> Lookup:
    """A square window of ``size`` cells around a pixel.

    A cell stands for the pixel nearest to the place it comes from. Where the image shrinks most pixels are nobody's
    nearest; one with a label is then given to the cell that it falls into, unless that cell has a labelled pixel
    already: few labels survive, dense ones thin out. Beyond the border the image is mirrored (its outermost pixels are
    not repeated), and the cells carry the rows of the mirrored pixels.
    """
    height, width = shape
    steps = torch.arange(size, dtype=torch.float32) - size // 2
    cells = torch.cartesian_prod(steps, steps).flip(1) if size > 1 else torch.zeros(1, 2)  # (n, 2), (x, y)
    middle = torch.tensor(centre, dtype=torch.float32)
    place = geometry.origin(cells) + middle  # (n, 2)
    limits = torch.tensor([width, height])
    nearest = _nearest(place)
    x, y = nearest.unbind(1)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    place = torch.stack([_mirrored(place[:, 0], width), _mirrored(place[:, 1], height)], 1)
    nearest = torch.minimum(_nearest(place), limits - 1)
    rows = nearest[:, 1] * width + nearest[:, 0]
    low = torch.minimum(place.floor().long(), (limits - 2).clamp_min(0))
    high = torch.minimum(low + 1, limits - 1)
    fx, fy = (place - low).unbind(1)
    (x0, y0), (x1, y1) = low.unbind(1), high.unbind(1)
    corners = torch.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], 1)
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], 1)
    if labelled is not None:
        rows, inside = _kept(rows, inside, labelled, width, middle, geometry, size)
    return Lookup(corners=corners, weights=weights, rows=rows, inside=inside)


def footprint(geometry: Geometry, size: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest (2,) offsets (x, y) from a window's centre at which its cells look, in pixels."""
    low, high = float(-(size // 2)), float(size - size // 2 - 1)
    corners = geometry.origin(torch.tensor([[low, low], [low, high], [high, low], [high, high]]))
    return corners.amin(0), corners.amax(0)


def holds(geometry: Geometry, size: int, offsets: Tensor) -> Tensor:  # (n, 2) -> (n,) bool
    """Whether pixels at these offsets from a window's centre fall into it."""
    cells = _nearest(geometry.moved(offsets)) + size // 2
    x, y = cells.unbind(1)
    return (x >= 0) & (y >= 0) & (x < size) & (y < size)


def _kept(
    rows: Tensor,  # (n,)
    inside: Tensor,  # (n,)
    labelled: Tensor,  # (H * W,) bool
    width: int,
    middle: Tensor,  # (2,)
    geometry: Geometry,
    size: int,
) -> tuple[Tensor, Tensor]:
    """``rows`` and ``inside`` with the labelled pixels that no cell stands for put where they fall; the lower row wins.

    A pixel of the border may fall into a cell whose own centre is beyond it: the cell then is inside.
    """
    taken = labelled.clone()
    taken[rows[inside]] = False
    # Only where the window looks: an image may be far larger, and all of it labelled.
    reach = torch.stack(footprint(geometry, size)) + middle + torch.tensor([[-_RIM], [_RIM]]) / geometry.scale.min()
    (left, top), (right, bottom) = reach.round().long().clamp_min(0).tolist()
    y, x = torch.nonzero(taken.view(-1, width)[top : bottom + 1, left : right + 1]).unbind(1)
    lost = (y + top) * width + x + left  # ascending
    offsets = torch.stack([lost % width, lost // width], 1).float() - middle
    within = holds(geometry, size, offsets)
    lost, cells = lost[within], _nearest(geometry.moved(offsets[within])) + size // 2
    number = cells[:, 1] * size + cells[:, 0]
    free = ~(inside[number] & labelled[rows[number]])
    # Written from the last to the first, one after the other: the lowest row stays.
    changed = rows.numpy().copy()
    changed[number[free].flip(0).numpy()] = lost[free].flip(0).numpy()
    inside = inside.clone()
    inside[number[free]] = True
    return torch.from_numpy(changed), inside


def _nearest(place: Tensor) -> Tensor:
    return torch.floor(place + 0.5).long()


def _mirrored(place: Tensor, count: int) -> Tensor:  # (n,) -> (n,) in [0, count - 1]
    """Positions folded back into a row of pixels at 0, ..., count - 1."""
    if count == 1:
        return torch.zeros_like(place)
    period = 2.0 * (count - 1)
    folded = place % period
    return torch.minimum(folded, period - folded).clamp(0, count - 1)
