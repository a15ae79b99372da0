"""SensatUrban, official validation blocks, Point Transformer on columns of 65,536 voxels."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, OptimConfig, PointTransformerConfig, TrainConfig
from pcseg.datasets.sensaturban import CLASS_NAMES


def config() -> TrainConfig:
    return TrainConfig(
        name="sensaturban_point_transformer",
        data=DataConfig(
            root=Path("data/sensaturban"),
            train_scenes=("@train",),
            val_scenes=("@val",),
            class_names=CLASS_NAMES,
            label_map={index: index for index in range(len(CLASS_NAMES))},
            features=("color", "height_above_ground"),
            crop=CropConfig(max_voxels=65_536, balanced=0.0),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.8, 1.2), jitter=0.001, feature_dropout=0.2),
        ),
        model=PointTransformerConfig(voxel_size=0.2),
        optim=OptimConfig(kind="sgd", lr=0.5, momentum=0.9, weight_decay=1e-4),
        steps=40_000,
        batch_size=8,
    )
