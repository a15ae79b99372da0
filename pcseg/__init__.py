"""pcseg: segment 3D point clouds and images from few labels."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from pcseg.errors import hush_interrupts

if TYPE_CHECKING:
    from pcseg.batch import IGNORE, PointBatch, cat, split
    from pcseg.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["IGNORE", "PointBatch", "__version__", "cat", "load", "split"]

hush_interrupts()


def load(path: Path | str, device: str | None = None) -> Predictor:
    """A trained network from a checkpoint or a run folder: ``pcseg.load(path).predict(coords, feats) -> probs``.

    Args:
        device: None: a GPU where the ops run on one, else the CPU.

    Raises:
        InputError: no checkpoint there, or a broken one.
    """
    from pcseg.predictor import Predictor

    return Predictor.load(path, device)


def __getattr__(name: str):
    # At first use, so that what needs no torch (pcseg.numpy_ops in many worker processes) does not wait for it.
    if name in __all__:
        return getattr(importlib.import_module("pcseg.batch"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
