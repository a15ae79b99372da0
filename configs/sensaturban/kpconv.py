"""SensatUrban, official validation blocks, rigid KPConv with the outdoor settings of Thomas et al. 2019."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, OptimConfig, ScheduleConfig, TrainConfig
from pcseg.datasets.sensaturban import CLASS_NAMES


def config() -> TrainConfig:
    return TrainConfig(
        name="sensaturban_kpconv",
        data=DataConfig(
            root=Path("data/sensaturban"),
            train_scenes=("@train",),
            val_scenes=("@val",),
            class_names=CLASS_NAMES,
            label_map={index: index for index in range(len(CLASS_NAMES))},
            features=("ones", "color", "height_above_ground"),
            crop=CropConfig(shape="sphere", radius=10.0, max_voxels=30_000, balanced=0.0),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.8, 1.2), jitter=0.001, feature_dropout=0.2),
        ),
        model=KPConvConfig(voxel_size=0.2, num_levels=5, width=64),
        optim=OptimConfig(kind="sgd", lr=1e-2, momentum=0.98, weight_decay=1e-3),
        schedule=ScheduleConfig(kind="exponential", warmup=0.0, last=4.6e-4),
        steps=250_000,
        batch_size=6,
        clip_norm=100.0,
    )
