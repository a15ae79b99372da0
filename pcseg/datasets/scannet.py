"""ScanNet v2 (Dai et al. 2017): the 20 classes of its benchmark, by their NYU40 ids, and what a whole release has."""

from __future__ import annotations

from pcseg.label_map import IGNORED, LabelMap

CODES = {
    1: "wall",
    2: "floor",
    3: "cabinet",
    4: "bed",
    5: "chair",
    6: "sofa",
    7: "table",
    8: "door",
    9: "window",
    10: "bookshelf",
    11: "picture",
    12: "counter",
    14: "desk",
    16: "curtain",
    24: "refrigerator",
    28: "shower curtain",
    33: "toilet",
    34: "sink",
    36: "bathtub",
    39: "otherfurniture",
}
"""Name of each class, by its NYU40 id."""
CLASS_NAMES = tuple(CODES.values())
LABEL_MAP = LabelMap(class_names=CLASS_NAMES, codes={code: CODES.get(code, IGNORED) for code in range(41)})
"""NYU40 has the ids 0 (none) to 40; those that the benchmark leaves out are ignored, any other is an error."""
SCENES = {"train": 1201, "val": 312, "test": 100}
"""Scenes of each list of the release."""
EFFICIENT_POINTS = (20, 50, 100, 200)
"""Labelled points a scene of the Data-Efficient benchmark (Hou et al. 2021)."""
EFFICIENT_SCENES = (1, 5, 10, 20)
"""Percent of the training scenes that its other half labels."""
