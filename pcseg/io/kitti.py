"""Frames in the layout of KITTI: four float32 a point, and one uint32 a point for class and instance."""

from __future__ import annotations

import numpy as np

from pcseg.errors import InputError

REMEDY = "download it again"


def read_frame(data: bytes, where: str) -> np.ndarray:  # (N, 4) float32: x, y, z in metres, remission
    """A ``.bin`` file.

    Raises:
        InputError: no points, or a size that is no whole number of points.
    """
    if not data or len(data) % 16:
        raise InputError(
            f"{where}: its {len(data)} bytes are no whole number of points of 16 bytes: truncated; {REMEDY}"
        )
    return np.frombuffer(data, "<f4").reshape(-1, 4)


def read_labels(
    data: bytes, where: str, num_points: int
) -> tuple[np.ndarray, np.ndarray]:  # (N,) uint16 class codes, (N,) int32 instances
    """A ``.label`` file: the class in the lower 16 bits, the instance in the upper ones; instance -1: none.

    Instances count from 1 within a class; here they are unique within a frame.

    Raises:
        InputError: another number of points than the frame has.
    """
    if len(data) != 4 * num_points:
        raise InputError(
            f"{where}: its {len(data)} bytes hold {len(data) / 4:g} labels, the frame has {num_points} points; {REMEDY}"
        )
    raw = np.frombuffer(data, "<u4")
    whole = raw[(raw >> 16) > 0]
    found = np.unique(whole)
    instances = np.full(num_points, -1, np.int32)
    instances[(raw >> 16) > 0] = np.searchsorted(found, whole)
    return (raw & 0xFFFF).astype(np.uint16), instances
