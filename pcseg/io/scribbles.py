"""Scribbles of PASCAL VOC (Lin et al. 2016), XML files of lines with a class each, as masks."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

import numpy as np

from pcseg.errors import InputError
from pcseg.io.images import VOID

WIDTH = 3  # pixels of a line


def scribble_mask(
    data: bytes,
    where: str,
    shape: tuple[int, int],
    codes: Mapping[str, int],
    *,
    width: int = WIDTH,
) -> np.ndarray:  # (H, W) uint8, ``VOID`` where no line runs
    """Draw the lines of one image, later ones over earlier ones.

    Args:
        shape: height and width of the image.
        codes: code of each class name.

    Raises:
        InputError: no XML, a document type with entities, an unknown class, or a point that is no pair of numbers.
    """
    from PIL import Image, ImageDraw

    if b"<!" in data.replace(b"<!--", b""):
        raise InputError(f"{where}: declares a document type or entities; scribbles need neither")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InputError(f"{where}: line {error.position[0]}: no XML ({error}); download it again") from error
    mask = Image.new("L", (shape[1], shape[0]), VOID)
    draw = ImageDraw.Draw(mask)
    for number, line in enumerate(root.iter("polygon")):
        name = (line.findtext("tag") or "").strip()
        if name not in codes:
            raise InputError(f"{where}: line {number} is of '{name}'; the classes are {', '.join(codes)}")
        try:
            points = [(float(p.findtext("X") or ""), float(p.findtext("Y") or "")) for p in line.iter("point")]
        except ValueError:
            raise InputError(f"{where}: line {number}: a point needs the numbers X and Y") from None
        if len(points) > 1:
            draw.line(points, fill=codes[name], width=width)
        elif points:
            draw.point(points, fill=codes[name])
    return np.asarray(mask)
