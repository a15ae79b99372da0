"""PASCAL VOC 2012, semantic segmentation: 20 classes and the background; masks keep 255 for void."""

from __future__ import annotations

from pcseg.ignore import IGNORE

CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CODES = {**{index: index for index in range(len(CLASS_NAMES))}, 255: IGNORE}
"""Class index of each code of a mask."""
IMAGES = {"train": 1464, "val": 1449, "trainval": 2913, "train_aug": 10582}
"""Images of each list; ``train_aug`` is the one with the masks of SBD (Hariharan et al. 2011)."""
