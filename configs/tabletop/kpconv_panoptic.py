"""Table-top scans: things told apart with every label, the upper bound of few labels."""

from pathlib import Path

from pcseg.config import (
    AugmentConfig,
    CropConfig,
    DataConfig,
    KPConvConfig,
    OptimConfig,
    QueryDecoderConfig,
    TrainConfig,
)
from pcseg.datasets.tabletop import CLASS_NAMES, THINGS


def config() -> TrainConfig:
    return TrainConfig(
        name="tabletop_kpconv_panoptic",
        data=DataConfig(
            root=Path("data/tabletop"),
            train_scenes=("@learn",),
            val_scenes=("@test",),
            class_names=CLASS_NAMES,
            label_map={0: 0, 1: 1, 2: 2, 255: -1},
            things=THINGS,
            features=("color", "height", "normals"),
            crop=CropConfig(shape="sphere", max_voxels=100_000, balanced=0.0),  # the whole scene
            augment=AugmentConfig(
                rotate=True, flip=0.5, scale=(0.9, 1.1), isotropic=True, color=0.5, brightness=0.2, contrast=0.2
            ),
        ),
        model=KPConvConfig(voxel_size=0.015, num_levels=4, width=32),
        panoptic=QueryDecoderConfig(queries=24),
        optim=OptimConfig(lr=3e-3),
        steps=600,
        batch_size=2,
        average=0.98,
    )
