"""S3DIS (Armeni et al. 2016): classes, rooms and the two protocols by which it is scored.

*Area 5*: trained on the other five areas, scored on Area 5. *6-fold*: each area is scored once by a network trained on
the other five; the six confusion matrices are summed, and one mIoU is computed from the sum
(``python -m pcseg.metrics.combine``). The two give different numbers and are never compared.
"""

from __future__ import annotations

from pcseg.label_map import LabelMap

CLASS_NAMES = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)
CODES = {name: index for index, name in enumerate(CLASS_NAMES)} | {"stairs": CLASS_NAMES.index("clutter")}
"""Class index of each name that object files carry."""
LABEL_MAP = LabelMap(class_names=CLASS_NAMES, codes=dict(enumerate(CLASS_NAMES)))
ROOMS = {"Area_1": 44, "Area_2": 40, "Area_3": 23, "Area_4": 49, "Area_5": 68, "Area_6": 48}
"""Rooms of each area: 272 in all."""


def fold(area: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Patterns of the training and of the validation scenes where ``area`` (1 to 6) is scored.

    Raises:
        ValueError: an area that there is not.
    """
    held_out = f"Area_{area}"
    if held_out not in ROOMS:
        raise ValueError(f"S3DIS has the areas 1 to 6, got {area}")
    return tuple(f"{name}_*" for name in ROOMS if name != held_out), (f"{held_out}_*",)
