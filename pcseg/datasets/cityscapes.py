"""Cityscapes (Cordts et al. 2016): the 19 classes that are scored of the 34 that are labelled."""

from __future__ import annotations

from pcseg.ignore import IGNORE

_IDS = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
CLASS_NAMES = tuple(_IDS.values())
CODES = {code: CLASS_NAMES.index(_IDS[code]) if code in _IDS else IGNORE for code in (*range(34), 255)}
"""Class index of each id of a ``labelIds`` mask; 255 is the licence plate, -1 in eight bits."""
IMAGES = {"train": 2975, "val": 500, "test": 1525}
