"""S3DIS, Area 5, KPConv as its authors trained it (Thomas et al. 2019): rigid, SGD, spheres of 50 voxels.

For 6-fold, hold out each area in turn (``--data.train-scenes``, ``--data.val-scenes``) and combine the six runs.
"""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, OptimConfig, ScheduleConfig, TrainConfig
from pcseg.datasets.s3dis import CLASS_NAMES, fold


def config() -> TrainConfig:
    train, val = fold(5)
    return TrainConfig(
        name="s3dis_area5_kpconv",
        data=DataConfig(
            root=Path("data/s3dis"),
            train_scenes=train,
            val_scenes=val,
            class_names=CLASS_NAMES,
            label_map={index: index for index in range(len(CLASS_NAMES))},
            features=("ones", "color", "height_above_ground"),
            crop=CropConfig(shape="sphere", radius=2.0, max_voxels=20_000, balanced=0.0),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.9, 1.1), jitter=0.001, feature_dropout=0.2),
        ),
        model=KPConvConfig(voxel_size=0.04, num_levels=5, width=64, blocks_per_level=2),
        optim=OptimConfig(kind="sgd", lr=1e-2, momentum=0.98, weight_decay=1e-3),
        schedule=ScheduleConfig(kind="exponential", warmup=0.0, last=4.6e-4),  # a tenth every 150 of 500 epochs
        steps=250_000,
        batch_size=6,
        clip_norm=100.0,
    )
