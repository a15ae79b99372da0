"""Classified clouds to look at: a coloured PLY, and a picture from above and from the side.

Points are drawn in parts into depth buffers, so memory goes by the picture. Depth is shaded twice: by the light of
a sun, and by how far a pixel lies behind its surroundings (after Boucheny 2009, "eye-dome lighting").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from pcseg.io.atomic import replacing
from pcseg.io.palette import UNKNOWN, Things, class_colors, thing_colors
from pcseg.io.ply import write_ply
from pcseg.io.scan import CHUNK_SIZE

_SUN = np.array([-0.45, 0.35, 0.82])
"""Direction to the light: high, from the north-west, as maps have it."""
_FINE = 2  # rendered so many times larger, then averaged
_MARGIN, _LEGEND = 28, 56  # pixels of the picture
_LINE = 0.3  # brightness of the line around a thing
_PAPER, _INK = (252, 252, 250), (40, 40, 44)
_RIGHT, _WRONG, _IGNORED = (206, 210, 212), (214, 30, 48), (232, 234, 240)


def write_class_ply(
    path: Path,
    coords: np.ndarray,  # (N, 3) float32, memory-mapped or not
    classes: np.ndarray,  # (N,) class index, -1: none
    class_names: Sequence[str],
    *,
    origin: np.ndarray | Sequence[float] = (0.0, 0.0, 0.0),
    things: Things | None = None,
) -> None:
    """Write a binary PLY with positions in the file's own frame (doubles), the colour of the class, and ``pred_class``.

    Args:
        things: given: they are told apart by their colours, and by their numbers as ``pred_instance``.

    Raises:
        OSError: the file cannot be written.
    """
    colors = _table(class_names, things)
    top = np.dtype(np.uint8 if len(class_names) < 255 else np.uint16)

    def chunks() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(coords), CHUNK_SIZE):
            place = np.asarray(coords[start : start + CHUNK_SIZE], np.float64) + np.asarray(origin, np.float64)
            part = slice(start, start + CHUNK_SIZE)
            index = np.asarray(classes[part], np.int64)
            color = colors[_places(index, len(class_names), None if things is None else things.of_row[part])]
            numbers = {} if things is None else {"pred_instance": things.of_row[part].astype(np.int32)}
            yield {
                **{axis: place[:, i] for i, axis in enumerate("xyz")},
                **{name: color[:, i] for i, name in enumerate(("red", "green", "blue"))},
                "pred_class": np.where(index < 0, np.iinfo(top).max, index),
                **numbers,
            }

    types = dict.fromkeys("xyz", np.dtype(np.float64)) | dict.fromkeys(("red", "green", "blue"), np.dtype(np.uint8))
    comments = [f"class {index} {name}" for index, name in enumerate(class_names)]
    comments = [text.encode("ascii", "replace").decode() for text in comments]
    types |= {"pred_class": top} | ({} if things is None else {"pred_instance": np.dtype(np.int32)})
    write_ply(path, types, len(coords), chunks(), comments=comments)


def _table(class_names: Sequence[str], things: Things | None) -> np.ndarray:  # (K + 1 + T, 3) uint8
    """Colours of the classes, of what has no class, and of the things."""
    colors = class_colors(class_names)
    parts = [colors, np.array([UNKNOWN], np.uint8)]
    if things is not None:
        parts.append(thing_colors(things.classes, colors))
    return np.vstack(parts).astype(np.uint8)


def _places(classes: np.ndarray, num_classes: int, things: np.ndarray | None) -> np.ndarray:  # (n,)
    """Row of :func:`_table` for each point."""
    places = np.where(classes < 0, num_classes, classes).astype(np.int64)
    return places if things is None else np.where(things >= 0, num_classes + 1 + things, places)


def render_classes(
    path: Path,
    coords: np.ndarray,  # (N, 3) float32, memory-mapped or not
    classes: np.ndarray,  # (N,) class index, -1: none
    class_names: Sequence[str],
    *,
    truth: np.ndarray | None = None,  # (N,) class index, -1: ignored
    things: Things | None = None,
    width: int = 1600,
) -> None:
    """Draw a classified cloud as a PNG: from above and from the side, with a legend.

    Args:
        truth: given: three columns, truth, prediction, and where they differ.
        things: given: each has a colour of its own in the prediction, of its class' hue, and a dark line around it.
        width: of the picture, about, in pixels.

    Raises:
        ValueError: no points.
        OSError: the file cannot be written.
    """
    if len(coords) == 0:
        raise ValueError("render_classes: the cloud has no points")
    colors = class_colors(class_names)
    table = _table(class_names, None)
    layers = [_Layer("prediction", classes, table)]
    if things is not None:
        places = _places(np.asarray(classes), len(class_names), things.of_row)
        layers = [_Layer("prediction", places, _table(class_names, things), outlined=len(class_names) + 1)]
    if truth is not None:
        wrong = np.where(np.asarray(truth) < 0, 2, np.asarray(truth) != np.asarray(classes)).astype(np.int8)
        layers.insert(0, _Layer("truth", truth, table))
        layers.append(_Layer("errors", wrong, np.array([_RIGHT, _WRONG, _IGNORED], np.uint8)))
    low, high = _extent(coords)
    views = _views(low, high)
    side_by_side = truth is None and views[0].aspect < 1.2
    columns = len(layers) if truth is not None else (2 if side_by_side else 1)
    panel = (width - _MARGIN * (columns + 1)) // columns
    widths = [panel] * len(views)
    if side_by_side:
        total = width - 3 * _MARGIN
        height = total / sum(view.aspect for view in views)
        widths = [max(1, round(height * view.aspect)) for view in views]
    drawn = [_draw(view, coords, layers, w) for view, w in zip(views, widths)]
    picture = _compose(drawn, [layer.name for layer in layers], side_by_side)
    _legend(picture, class_names, colors, classes, truth is not None)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one column of the picture shows."""

    name: str
    labels: np.ndarray  # (N,), -1: the last colour
    colors: np.ndarray  # (K + 1, 3) uint8
    outlined: int | None = None  # labels from here on have a line around them


@dataclass(frozen=True, slots=True)
class _View:
    """An orthographic view: right, up and towards the eye are rows of ``axes``."""

    axes: np.ndarray  # (3, 3)
    low: np.ndarray  # (2,) of the points, in the view
    high: np.ndarray

    @property
    def aspect(self) -> float:
        extent = np.maximum(self.high - self.low, 1e-9)
        return float(np.clip(extent[0] / extent[1], 0.25, 4))


def _extent(coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds that leave out a stray thousandth at either end of the heights."""
    every = max(1, len(coords) // 1_000_000)
    sample = np.asarray(coords[::every], np.float64)
    low, high = sample.min(0), sample.max(0)
    low[2], high[2] = np.quantile(sample[:, 2], [0.001, 0.999])
    return low, high


def _views(low: np.ndarray, high: np.ndarray) -> list[_View]:
    """From above, north up; and from the side, the longer side of the scene across the picture."""
    long_y = high[1] - low[1] > high[0] - low[0]
    turn, tilt = math.radians(62.0 if long_y else -28.0), math.radians(38.0)
    right = np.array([math.cos(turn), math.sin(turn), 0.0])
    away = np.array([-math.sin(turn), math.cos(turn), 0.0])
    up = away * math.sin(tilt) + np.array([0.0, 0.0, math.cos(tilt)])
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    views = []
    for axes in (np.eye(3), np.stack([right, up, np.cross(right, up)])):
        seen = corners @ axes[:2].T
        views.append(_View(axes, seen.min(0), seen.max(0)))
    return views


def _draw(view: _View, coords: np.ndarray, layers: Sequence[_Layer], width: int) -> list[Image.Image]:
    """Shaded pictures of some layers; the points are projected once for all of them."""
    fine = width * _FINE
    shape = (max(_FINE, round(fine / view.aspect)), fine)
    pixel = max(float(((view.high - view.low) / shape[::-1]).max()), 1e-12)
    area = float(np.prod(np.maximum(view.high - view.low, pixel)))
    radius = int(np.clip(round(0.7 * (area / len(coords)) ** 0.5 / pixel), 1, 5))
    depth, point = _splat(view, coords, shape, pixel, radius)
    depth, point = _close(depth, point, radius + 1)
    filled = point >= 0
    shade = _shading(depth, filled, pixel, view.axes @ _SUN)
    pictures = []
    for layer in layers:
        color = np.empty((*shape, 3), np.float32)
        color[:] = _PAPER
        label = np.asarray(layer.labels[point[filled]], np.int64)
        color[filled] = layer.colors[label] * shade[filled][:, None]
        if layer.outlined is not None:
            shown = np.full(shape, -1, np.int64)
            shown[filled] = label
            color[outlines(shown) & _grown(shown >= layer.outlined)] *= _LINE
        image = Image.fromarray(color.clip(0, 255).astype(np.uint8))
        pictures.append(image.resize((width, shape[0] // _FINE), Image.Resampling.BOX))
    return pictures


def outlines(labels: np.ndarray) -> np.ndarray:  # (H, W) integer -> (H, W) bool
    """Pixels beside one with another label, to the left, right, above or below."""
    found = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        found[tuple(before)] |= differs
        found[tuple(after)] |= differs
    return found


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and the pixels beside it."""
    return np.asarray(ndimage.binary_dilation(mask), bool)


def _splat(
    view: _View, coords: np.ndarray, shape: tuple[int, int], pixel: float, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """Depth (smaller is nearer, inf where nothing is) and row of the nearest point (-1) of each pixel.

    A point covers a disc.
    """
    depth = np.full(shape[0] * shape[1], np.inf, np.float32)
    point = np.full(shape[0] * shape[1], -1, np.int64)
    reach = range(-radius, radius + 1)
    disc = [(i, j) for i in reach for j in reach if i * i + j * j <= radius * radius]
    middle = (view.low + view.high) / 2
    for start in range(0, len(coords), CHUNK_SIZE):
        seen = np.asarray(coords[start : start + CHUNK_SIZE], np.float64) @ view.axes.T
        column = np.floor((seen[:, 0] - middle[0]) / pixel + shape[1] / 2).astype(np.int64)
        row = np.floor((middle[1] - seen[:, 1]) / pixel + shape[0] / 2).astype(np.int64)
        for i, j in disc:
            y, x = row + i, column + j
            inside = np.flatnonzero((y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1]))
            place = y[inside] * shape[1] + x[inside]
            # The rim of a disc lies a little behind its middle: discs meet halfway.
            far = (0.5 * pixel * math.hypot(i, j) - seen[inside, 2]).astype(np.float32)
            np.minimum.at(depth, place, far)
            nearest = far <= depth[place]
            point[place[nearest]] = inside[nearest] + start
    return depth.reshape(shape), point.reshape(shape)


def _close(depth: np.ndarray, point: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill the gaps between neighbouring points, not those around what stands alone."""
    filled = point >= 0
    # The frame is padded, since a closing would eat its rim.
    wide = np.pad(filled, reach)
    closed = np.asarray(ndimage.binary_closing(wide, iterations=reach), bool)[reach:-reach, reach:-reach]
    gaps = closed & ~filled
    if not gaps.any():
        return depth, point
    nearest = ndimage.distance_transform_edt(~filled, return_distances=False, return_indices=True)
    assert isinstance(nearest, np.ndarray)
    rows, columns = nearest[0][gaps], nearest[1][gaps]
    depth, point = depth.copy(), point.copy()
    depth[gaps], point[gaps] = depth[rows, columns], point[rows, columns]
    return depth, point


def _shading(depth: np.ndarray, filled: np.ndarray, pixel: float, sun: np.ndarray) -> np.ndarray:  # (H, W) float32
    """Brightness: less where a pixel lies behind the mean of two opposite neighbours, more where it faces the sun."""
    deepest = float(depth[filled].max()) if filled.any() else 0.0
    surface = np.where(filled, depth, deepest).astype(np.float32)
    hidden = np.zeros_like(surface)
    for reach in (2, 5, 12):
        for i, j in ((0, 1), (1, 0), (1, 1), (1, -1)):
            around = (_shifted(surface, i * reach, j * reach) + _shifted(surface, -i * reach, -j * reach)) / 2
            hidden += np.clip((surface - around) / (pixel * reach * math.hypot(i, j)), 0, 2) / 8
    smooth = ndimage.gaussian_filter(surface, 2.0)
    down, right = np.gradient(smooth, pixel)
    # Towards the eye the surface rises by minus the depth; rows of the picture go down.
    facing = (right * sun[0] - down * sun[1] + sun[2]) / np.sqrt(1 + right**2 + down**2)
    return (np.exp(-0.75 * hidden) * (0.62 + 0.48 * facing.clip(0, 1))).astype(np.float32)


def _shifted(values: np.ndarray, down: int, right: int) -> np.ndarray:
    """The neighbour at a distance, the last one where the picture ends."""
    rows = (np.arange(values.shape[0]) + down).clip(0, values.shape[0] - 1)
    columns = (np.arange(values.shape[1]) + right).clip(0, values.shape[1] - 1)
    return values[rows][:, columns]


def _compose(drawn: list[list[Image.Image]], names: list[str], side_by_side: bool) -> Image.Image:
    """Views below each other, or beside each other; layers in columns, with their names above."""
    head = _MARGIN + 14 if len(names) > 1 else 0
    rows = [[image for row in drawn for image in row]] if side_by_side else drawn
    widths = [sum(i.width for i in row) + _MARGIN * (len(row) + 1) for row in rows]
    heights = [max(i.height for i in row) + _MARGIN for row in rows]
    picture = Image.new("RGB", (max(widths), sum(heights) + _MARGIN + head + _LEGEND), _PAPER)
    pen, top = ImageDraw.Draw(picture), _MARGIN + head
    for row, height in zip(rows, heights):
        left = _MARGIN
        for image in row:
            picture.paste(image, (left, top))
            left += image.width + _MARGIN
        top += height
    if head:
        for index, (name, image) in enumerate(zip(names, rows[0])):
            pen.text((_MARGIN + index * (image.width + _MARGIN), _MARGIN - 4), name, fill=_INK, font=_font(24))
    return picture


def _legend(
    picture: Image.Image, class_names: Sequence[str], colors: np.ndarray, classes: np.ndarray, errors: bool
) -> None:
    """Colour, name and share of each class along the lower edge; as much as fits."""
    counts = np.bincount(np.asarray(classes, np.int64).clip(-1) + 1, minlength=len(class_names) + 1)
    total = max(int(counts[1:].sum()), 1)
    entries = [
        (tuple(int(c) for c in color), f"{name} {count / total:.1%}")
        for name, color, count in zip(class_names, colors, counts[1:])
    ]
    if counts[0]:
        entries.append((UNKNOWN, "no class"))
    if errors:
        entries += [(_WRONG, "wrong"), (_RIGHT, "right"), (_IGNORED, "ignored")]
    pen, left, middle = ImageDraw.Draw(picture), _MARGIN, picture.height - _LEGEND // 2 - 6
    for color, text in entries:
        length = pen.textlength(text, font=_font(20))
        if left + 30 + length > picture.width - _MARGIN:
            break
        pen.rounded_rectangle(
            (left, middle - 10, left + 20, middle + 10), radius=4, fill=color, outline=(170, 170, 170)
        )
        pen.text((left + 28, middle), text, fill=_INK, font=_font(20), anchor="lm")
        left += 28 + int(length) + 32


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
