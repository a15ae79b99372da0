"""Pictures with panoptic labels in COCO's layout, and runs on them, so small that a test can train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pcseg.config import CropConfig, DataConfig, DeepLabConfig, Mask2FormerConfig, PointPanopticConfig, TrainConfig
from pcseg.ignore import IGNORE
from pcseg.io.coco_panoptic import Category, PanopticResult, write_panoptic
from pcseg.segments import Segments
from tests.models.images import TINY_RESNET

CATEGORIES = (
    Category(id=3, name="grass", isthing=False),
    Category(id=17, name="car", isthing=True),
    Category(id=40, name="ball", isthing=True),
)
CLASSES = tuple(category.name for category in CATEGORIES)
CODES = {category.id: index for index, category in enumerate(CATEGORIES)}
THINGS = (False, True, True)
SIZE = (48, 56)
BRANCH = Mask2FormerConfig(
    queries=8, channels=32, heads=4, pixel_layers=1, pixel_hidden=32, layers=2, hidden=32, points=256,
    min_score=0.3, min_overlap=0.3,
)  # fmt: skip


def toy_scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, Segments]:
    """Green noise with two red cars and a blue ball apart from each other, and a void corner: (H, W, 3), segments."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 100, (*size, 3), dtype=np.uint8)
    image[..., 1] += 120
    ids = np.zeros(size, np.int64)
    quarters = rng.permutation([(0, 0), (0, 1), (1, 0), (1, 1)])[:3]
    for number, (row, column) in enumerate(quarters):
        y = row * (size[0] // 2) + rng.integers(2, size[0] // 2 - 14)
        x = column * (size[1] // 2) + rng.integers(2, size[1] // 2 - 16)
        low, high = ((150, 0, 0), (255, 80, 80)) if number < 2 else ((0, 0, 150), (80, 80, 255))
        image[y : y + 12, x : x + 14] = rng.integers(low, high, (12, 14, 3))
        ids[y : y + 12, x : x + 14] = number + 1
    ids[:2, :5] = IGNORE
    classes = np.array([0, 1, 1, 2], np.int64)
    return image, Segments(ids=ids.reshape(-1), classes=classes, crowd=np.zeros(4, bool))


def write_panoptic_images(root: Path, train: int = 6) -> Path:
    """``train2017`` and ``val2017``; the second validation image has another size."""
    for split, sizes, first in (("train2017", [SIZE] * train, 0), ("val2017", [SIZE, (40, 70)], 100)):
        (root / split).mkdir(parents=True)
        results = []
        for number, size in enumerate(sizes):
            image, segments = toy_scene(first + number, size)
            name = f"{split[:-4]}_{number}.png"
            Image.fromarray(image).save(root / split / name)
            results.append(
                PanopticResult(
                    image_file=name, image_id=first + number, segments=segments, height=size[0], width=size[1]
                )
            )
        write_panoptic(root / f"panoptic_{split}.json", CATEGORIES, results)
    return root


def panoptic_config(root: Path, method: PointPanopticConfig | None = None, **change) -> TrainConfig:
    """A small DeepLab with a small Mask2Former."""
    data = DataConfig(
        kind="panoptic",
        root=root,
        train_scenes=("train2017/*",),
        val_scenes=("val2017/*",),
        class_names=CLASSES,
        things=("car", "ball"),
        label_map=CODES,
        features=("color",),
        crop=CropConfig(window=48, balanced=0.0),
        weak_labels=change.pop("weak_labels", None),
    )
    model = DeepLabConfig(backbone="resnet50", encoder=TINY_RESNET, decoder_channels=16, low_level_channels=8)
    values = {"name": "toy_panoptic", "data": data, "model": model, "panoptic": BRANCH,
              "steps": 4, "batch_size": 2, "save_every": 2}  # fmt: skip
    if method is not None:
        values["method"] = method
    return TrainConfig(**values | change)
