"""SensatUrban (Hu et al. 2021): classes, and the blocks that are held out for validation and for the test server."""

from __future__ import annotations

from pcseg.label_map import LabelMap

CLASS_NAMES = (
    "ground",
    "vegetation",
    "building",
    "wall",
    "bridge",
    "parking",
    "rail",
    "traffic_road",
    "street_furniture",
    "car",
    "footpath",
    "bike",
    "water",
)
LABEL_MAP = LabelMap(class_names=CLASS_NAMES, codes=dict(enumerate(CLASS_NAMES)))
VALIDATION = ("birmingham_block_1", "birmingham_block_5", "cambridge_block_10", "cambridge_block_7")
TEST = (
    "birmingham_block_2",
    "birmingham_block_8",
    "cambridge_block_15",
    "cambridge_block_16",
    "cambridge_block_22",
    "cambridge_block_27",
)
TINY = ("cambridge_block_0", "cambridge_block_1")
"""Blocks so small that a crop may take in all of one."""
VOXEL_SIZE = 0.2
"""Metres; the grid on which networks of its paper work."""
