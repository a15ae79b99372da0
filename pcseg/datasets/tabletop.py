"""Object Segmentation Database (Richtsfeld et al. 2012), modified annotation: objects on tables, seen by a Kinect."""

from __future__ import annotations

from pcseg.label_map import IGNORED, LabelMap

CLASS_NAMES = ("table", "box", "cylindric")
THINGS = ("box", "cylindric")
LABEL_MAP = LabelMap(class_names=CLASS_NAMES, codes={0: "table", 1: "box", 2: "cylindric", 255: IGNORED})
"""255: an object of unknown kind."""
SPLITS = ("learn", "test")
"""The official ones, as the folders are named."""
