"""Outlines, lines and points that people drew on images: LabelMe's JSON and CVAT's XML ("CVAT for images 1.1")."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from pcseg.errors import InputError

SUFFIXES = (".json", ".xml")
Kind = Literal["area", "line", "points"]
_LABELME: dict[str, Kind] = {
    "polygon": "area",
    "rectangle": "area",
    "circle": "area",
    "line": "line",
    "linestrip": "line",
    "point": "points",
    "points": "points",
}
_CVAT: dict[str, Kind] = {"polygon": "area", "box": "area", "polyline": "line", "points": "points"}
_FEWEST: dict[Kind, int] = {"area": 3, "line": 2, "points": 1}
_CORNERS_OF_CIRCLE = 90


@dataclass(frozen=True, slots=True)
class Shape:
    """Something drawn. The pixel in column x and row y covers x to x + 1 and y to y + 1."""

    kind: Kind
    label: str
    points: np.ndarray  # (n, 2) float64, (x, y)


@dataclass(frozen=True, slots=True)
class ImageShapes:
    """What was drawn on an image, from the lowest to the topmost."""

    image: str  # name of its file, without folder
    size: tuple[int, int]  # (H, W)
    shapes: tuple[Shape, ...]
    where: str  # file, and place in it, for messages


def read_annotations(path: Path | str) -> list[ImageShapes]:
    """The shapes of a LabelMe file (one image) or a CVAT file (any number), by the file's ending.

    Raises:
        InputError: missing, another ending, damaged, or a shape that is no polygon, rectangle, circle, line or point.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give LabelMe .json or CVAT .xml files")
    if path.suffix.lower() == ".json":
        return [_read_labelme(path)]
    if path.suffix.lower() == ".xml":
        return _read_cvat(path)
    raise InputError(f"{path}: expected a LabelMe .json or a CVAT .xml file")


def draw_shapes(
    annotated: ImageShapes,
    codes: Mapping[str, int],  # of each label
    *,
    rest: int,
    radius: float = 0.0,
    missed: Callable[[Shape], None] = lambda shape: None,
) -> np.ndarray:  # (H, W) int32
    """The code of each pixel, ``rest`` where nothing was drawn.

    Areas come first, lines over them and points on top, each in the order of the file: a point inside an area of
    another class is meant. An area takes the pixels whose centre lies in it.

    Args:
        radius: lines and points take the pixels no further than this from the pixels that they run through.
        missed: called with each area that holds no pixel's centre.

    Raises:
        InputError: a point that lies outside the image.
    """
    from skimage.draw import line, polygon

    height, width = annotated.size
    mask = np.full((height, width), rest, np.int32)
    reach = math.floor(radius)
    offsets = np.argwhere(np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= radius) - reach
    for kind in ("area", "line", "points"):
        for shape in (shape for shape in annotated.shapes if shape.kind == kind):
            if kind == "area":
                rows, columns = polygon(shape.points[:, 1] - 0.5, shape.points[:, 0] - 0.5, (height, width))
                mask[rows, columns] = codes[shape.label]
                if not len(rows):
                    missed(shape)
                continue
            pixels = _pixels(annotated, shape)
            if kind == "line":
                parts = [np.stack(line(*a, *b), 1) for a, b in zip(pixels[:-1].tolist(), pixels[1:].tolist())]
                pixels = np.concatenate(parts)
            near = (pixels[:, None] + offsets).reshape(-1, 2)
            near = near[((near >= 0) & (near < (height, width))).all(1)]
            mask[near[:, 0], near[:, 1]] = codes[shape.label]
    return mask


def _pixels(annotated: ImageShapes, shape: Shape) -> np.ndarray:  # (n, 2) int64, (row, column)
    height, width = annotated.size
    outside = ((shape.points < 0) | (shape.points > (width, height))).any(1)
    if outside.any():
        x, y = shape.points[outside][0]
        raise InputError(
            f"{annotated.where}: a {shape.kind.rstrip('s')} of '{shape.label}' at ({x:g}, {y:g}) lies outside the "
            f"image of {width} x {height} pixels; correct it"
        )
    return np.minimum(np.floor(shape.points[:, ::-1]).astype(np.int64), (height - 1, width - 1))


def _read_labelme(path: Path) -> ImageShapes:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        image, size = table["imagePath"], (int(table["imageHeight"]), int(table["imageWidth"]))
        drawn = list(table["shapes"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else reason
        raise InputError(f"{path}: is no LabelMe file: {reason}; save it again with LabelMe") from error
    if not isinstance(image, str):
        raise InputError(f"{path}: imagePath must be the name of a picture, got {image!r}; save it again with LabelMe")
    shapes = []
    for number, entry in enumerate(drawn, 1):
        where = f"{path}: shape {number}"
        try:
            kind, label = str(entry.get("shape_type") or "polygon"), str(entry["label"])
            points = np.array(entry["points"], np.float64).reshape(-1, 2)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(f"{where}: has no label or no points (x, y); save it again with LabelMe") from error
        if kind not in _LABELME:
            raise InputError(f"{where}: is a '{kind}'; only {', '.join(_LABELME)} can be read")
        _check_points(where, label, points, 2 if kind in ("rectangle", "circle") else _FEWEST[_LABELME[kind]])
        if kind == "rectangle" and len(points) == 2:
            points = _rectangle(*points[0], *points[1])
        elif kind == "circle" and len(points) == 2:
            turn = np.linspace(0, 2 * np.pi, _CORNERS_OF_CIRCLE, endpoint=False)
            points = points[0] + np.hypot(*(points[1] - points[0])) * np.stack([np.cos(turn), np.sin(turn)], 1)
        shapes.append(Shape(_LABELME[kind], label, points))
    return ImageShapes(_file_name(image), _checked_size(str(path), size), tuple(shapes), str(path))


def _read_cvat(path: Path) -> list[ImageShapes]:
    data = path.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError(f"{path}: declares entities, which no CVAT file does; export it again")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: no XML: {error}; export it again as 'CVAT for images 1.1'") from error
    if root.tag != "annotations" or root.find("track") is not None:
        raise InputError(f"{path}: is no export of images; export it again as 'CVAT for images 1.1'")
    images = []
    for image in root.iter("image"):
        where = f"{path}: image '{image.get('name')}'"
        try:
            name, size = _file_name(image.attrib["name"]), (int(image.attrib["height"]), int(image.attrib["width"]))
        except (KeyError, ValueError) as error:
            raise InputError(f"{where}: has no name, width or height; export it again") from error
        layers: list[tuple[int, Shape]] = []
        for entry in image:
            if entry.tag != "tag":  # of the whole image
                layers.append(_cvat_shape(where, entry))
        layers.sort(key=lambda layer: layer[0])  # stable: shapes of one layer stay in their order
        images.append(ImageShapes(name, _checked_size(where, size), tuple(shape for _, shape in layers), where))
    return images


def _cvat_shape(where: str, entry: ElementTree.Element) -> tuple[int, Shape]:
    if entry.tag not in _CVAT:
        raise InputError(f"{where}: holds a '{entry.tag}'; only {', '.join(_CVAT)} can be read")
    try:
        label, layer = entry.attrib["label"], int(entry.get("z_order", "0"))
        if entry.tag == "box":
            if float(entry.get("rotation", "0")):
                raise InputError(f"{where}: holds a turned box; draw it as a polygon")
            points = _rectangle(*(float(entry.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr")))
        else:
            pairs = [pair.split(",") for pair in entry.attrib["points"].split(";")]
            points = np.array([(float(x), float(y)) for x, y in pairs], np.float64)
    except InputError:
        raise
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: a '{entry.tag}' has no label or no points x,y;x,y; export it again") from error
    _check_points(where, label, points, _FEWEST[_CVAT[entry.tag]])
    return layer, Shape(_CVAT[entry.tag], label, points)


def _rectangle(x: Any, y: Any, other_x: Any, other_y: Any) -> np.ndarray:  # (4, 2)
    return np.array([(x, y), (other_x, y), (other_x, other_y), (x, other_y)], np.float64)


def _check_points(where: str, label: str, points: np.ndarray, fewest: int) -> None:
    if not np.isfinite(points).all():
        raise InputError(f"{where}: '{label}' has a point whose x or y is not a finite number; draw it again")
    if len(points) < fewest:
        raise InputError(f"{where}: '{label}' needs at least {fewest} points, got {len(points)}; draw it again")


def _checked_size(where: str, size: Sequence[int]) -> tuple[int, int]:
    if min(size) < 1:
        raise InputError(f"{where}: has {size[1]} x {size[0]} pixels; save it again")
    return size[0], size[1]


def _file_name(text: str) -> str:
    """Without folders, of either system: a name from a file must not lead anywhere."""
    return PurePosixPath(text.replace("\\", "/")).name
