"""Makers of small image and volume folders."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from pcseg.config import DataConfig
from pcseg.io.images import write_mask

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CLASSES = ("field", "house")
LABEL_MAP = {0: 0, 7: 1, 255: -1}


def write_picture(root: Path, name: str, size: tuple[int, int] = (24, 32), *, seed: int = 0, mask: bool = True) -> None:
    """A green picture with a red square; codes 0 and 7, and a void border."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = rng.integers(2, height - 12), rng.integers(2, width - 12)
    codes = np.zeros(size, np.uint8)
    codes[y : y + 10, x : x + 10] = 7
    image = np.where(codes[..., None] == 7, (200, 60, 50), (60, 150, 60)) + rng.integers(-20, 21, (*size, 3))
    codes[0], codes[:, -1] = 255, 255
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{name}.png")
    if mask:
        write_mask(root / "masks" / f"{name}.png", codes)


def write_volume(root: Path, name: str, shape: tuple[int, int, int] = (12, 10, 8), *, seed: int = 0) -> None:
    """A dark block with a bright ball, on a scale of its own; axes (x, y, z), spacing (1, 1, 2)."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    codes = (np.linalg.norm((grid - np.array(shape) / 2) * (1, 1, 2), axis=-1) < 4).astype(np.uint8) * 7
    signal = ((codes > 0) * 2.0 + rng.normal(size=shape) * 0.3) * rng.uniform(10, 1000)
    for folder, values in (("images", signal.astype(np.float32)), ("labels", codes)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]))
        nibabel.save(image, root / folder / f"{name}.nii.gz")


def data_config(root: Path, kind: str, **change) -> DataConfig:
    values = {
        "kind": kind,
        "root": root,
        "train_scenes": ("*",),
        "class_names": CLASSES,
        "label_map": LABEL_MAP,
        "features": ("color",) if kind == "images" else ("signal_normalized",),
    }
    return DataConfig.model_validate(values | change)
