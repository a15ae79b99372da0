"""Colours of classes: what a name says, else one of a row of colours that are easy to tell apart; and of things."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

UNKNOWN = (150, 150, 150)
"""Points without a class."""
_BY_WORD = {
    "ground": (178, 148, 110),
    "terrain": (178, 148, 110),
    "soil": (178, 148, 110),
    "building": (214, 92, 62),
    "house": (214, 92, 62),
    "low_vegetation": (186, 214, 110),
    "medium_vegetation": (122, 184, 76),
    "high_vegetation": (46, 125, 66),
    "vegetation": (84, 156, 70),
    "tree": (46, 125, 66),
    "grass": (186, 214, 110),
    "water": (66, 134, 198),
    "bridge": (148, 103, 189),
    "road": (110, 116, 128),
    "car": (226, 82, 148),
    "vehicle": (226, 82, 148),
    "other": (92, 168, 140),
}
_ROW = (
    (66, 134, 198),
    (235, 152, 52),
    (84, 156, 70),
    (214, 92, 62),
    (148, 103, 189),
    (140, 98, 80),
    (226, 82, 148),
    (188, 184, 60),
    (62, 180, 190),
    (110, 116, 128),
    (96, 84, 170),
    (170, 206, 236),
)


def class_colors(class_names: Sequence[str]) -> np.ndarray:  # (K, 3) uint8
    """A colour for each class, none twice while there are few: classes keep theirs whatever their order."""
    colors: list[tuple[int, int, int] | None] = []
    taken: set[tuple[int, int, int]] = set()
    for name in class_names:
        color = _BY_WORD.get(name.lower().replace(" ", "_"))
        color = None if color in taken else color
        colors.append(color)
        if color is not None:
            taken.add(color)
    free = [color for color in _ROW if color not in taken] or list(_ROW)
    spare = 0
    for index, color in enumerate(colors):
        if color is None:
            colors[index] = free[spare % len(free)]
            spare += 1
    return np.array(colors, np.uint8).reshape(-1, 3)


class Things(NamedTuple):
    """The things of a cloud or an image, to be drawn."""

    of_row: np.ndarray  # (N,) integer, number of the thing, or -1
    classes: np.ndarray  # (T,) class index of each


def thing_colors(
    classes: np.ndarray,  # (T,) class index of each thing
    colors: np.ndarray,  # (K, 3) uint8, of the classes
) -> np.ndarray:  # (T, 3) uint8
    """A colour for each thing: the hue of its class, and a lightness and strength that no other of the class has.

    The only thing of a class has the class' own colour.
    """
    found = np.zeros((len(classes), 3), np.uint8)
    for kind in np.unique(classes):
        members = np.flatnonzero(classes == kind)
        hue, _, strength = colorsys.rgb_to_hls(*(colors[kind] / 255))
        if len(members) == 1:
            found[members] = colors[kind]
            continue
        for place, member in enumerate(members):  # dark to light, strong and pale in turn
            light = 0.22 + 0.6 * place / (len(members) - 1)
            own = max(strength, 0.35) * (0.45 if place % 2 else 1.0)
            found[member] = np.round(255 * np.array(colorsys.hls_to_rgb(hue, light, own))).astype(np.uint8)
    return found
