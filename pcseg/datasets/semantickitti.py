"""SemanticKITTI (Behley et al. 2019): the 19 classes of the single-scan benchmark and its sequences."""

from __future__ import annotations

from pcseg.label_map import IGNORED, LabelMap

CLASS_NAMES = (
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "bicyclist",
    "motorcyclist",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "trunk",
    "terrain",
    "pole",
    "traffic-sign",
)
_CODES = {
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (20, 13, 16, 256, 257, 259),  # bus and on-rails are among them
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),  # lane markings are road
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
    IGNORED: (0, 1, 52, 99),  # unlabelled, outlier, other structure, other object
}
LABEL_MAP = LabelMap(class_names=CLASS_NAMES, codes={code: name for name, codes in _CODES.items() for code in codes})
"""The learning map: moving and standing objects are of one class."""
CODES = tuple(_CODES[name][0] for name in CLASS_NAMES)
"""The id of each class in files for the server: the inverse of the learning map."""
TRAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
VALIDATION = ("08",)
TEST = tuple(str(number) for number in range(11, 22))
