"""Pictures and volumes, and runs on them, so small that a test can train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, TrainConfig

CLASSES = ("grass", "car")
CODES = (3, 7)
SIZE = (40, 48)


def toy_image(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:  # (H, W, 3), (H, W) uint8
    """Green noise with red boxes; code 3 is green, 7 is red, a few pixels have no class (9)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
    image[..., 1] += 100
    codes = np.full(size, CODES[0], np.uint8)
    for _ in range(3):
        y, x = rng.integers(0, size[0] - 10), rng.integers(0, size[1] - 12)
        image[y : y + 10, x : x + 12] = rng.integers((150, 0, 0), (255, 90, 90), (10, 12, 3))
        codes[y : y + 10, x : x + 12] = CODES[1]
    codes[rng.random(size) < 0.03] = 9
    return image, codes


def write_images(root: Path, names=("train_a", "train_b", "val_a")) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        image, codes = toy_image(seed, SIZE if seed < 2 else (24, 70))
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(codes).save(root / "masks" / f"{name}.png")
    return root


def write_volumes(root: Path, names=("train_a", "val_a")) -> Path:
    """Bright balls in dark noise; the axes lie as scanners put them."""
    import nibabel

    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    affine = np.array([[-1.0, 0, 0, 5], [0, -1.0, 0, 7], [0, 0, 2.0, -3], [0, 0, 0, 1]])
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        signal = rng.normal(100, 10, (20, 18, 8)).astype(np.float32)
        cells = np.stack(np.indices(signal.shape), -1)
        ball = np.linalg.norm((cells - (8, 9, 4)) * (1, 1, 2), axis=-1) < 6
        signal[ball] += 100
        nibabel.save(nibabel.Nifti1Image(signal, affine), root / "images" / f"{name}.nii.gz")
        codes = np.where(ball, CODES[1], CODES[0]).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(codes, affine), root / "labels" / f"{name}.nii.gz")
    return root


def image_config(root: Path, **change) -> TrainConfig:
    """A point network on pixels."""
    data = DataConfig(
        kind="images",
        root=root,
        train_scenes=("train_*",),
        val_scenes=("val_*",),
        class_names=CLASSES,
        label_map={CODES[0]: 0, CODES[1]: 1, 9: -1},
        features=("color",),
        crop=CropConfig(max_voxels=300, window=24),
        augment=AugmentConfig(flip=0.5, color=0.5, brightness=0.1, contrast=0.1),
    )
    model = KPConvConfig(dim=2, voxel_size=1.0, num_levels=2, width=16)
    values = {
        "name": "toy_images",
        "data": data,
        "model": model,
        "steps": 8,
        "save_every": 4,
        "batch_size": 2,
        "optim": {"lr": 0.01},
    }
    return TrainConfig(**(values | change))


def volume_config(root: Path, **change) -> TrainConfig:
    config = image_config(root)
    data = config.data.model_copy(
        update={
            "kind": "volumes",
            "features": ("signal_normalized",),
            "crop": CropConfig(shape="sphere", max_voxels=400),
            "augment": AugmentConfig(rotate=True, flip=0.5),
        }
    )
    model = KPConvConfig(dim=3, voxel_size=1.0, num_levels=2, width=16)
    return config.model_copy(update={"data": data, "model": model, **change})
