"""Voxels of scenes, of a size that a user gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pcseg import ops
from pcseg.errors import InputError

_MOST_CELLS = 2.0**31  # along an axis, to either side


def grid_of(
    coords: np.ndarray,  # (N, D)
    size: float,
    *,
    where: Path | str,
    what: str,
) -> tuple[ops.VoxelGrid, torch.Tensor]:
    """Voxels of a size that a user gave, and the coordinates (N, D) float32 as a tensor.

    Args:
        where, what: the scene, and what the size is, for the message.

    Raises:
        InputError: the voxels are too small to be counted, or too large for float32.
    """
    points = torch.from_numpy(np.array(coords, np.float32))
    reach = float(points.abs().max()) if len(points) else 0.0
    limits = torch.finfo(torch.float32)
    if not limits.tiny < size < limits.max or reach / size >= _MOST_CELLS:
        much = "small" if size < 1 else "large"
        raise InputError(f"{where}: {what} is too {much} for coordinates up to {reach:g}; give another one")
    return ops.grid_subsample(points, size), points
