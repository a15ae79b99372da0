"""ScanNet v2, 20 classes, KPConv as its authors trained it (Thomas et al. 2019): deformable where it is coarse."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, OptimConfig, ScheduleConfig, TrainConfig
from pcseg.datasets.scannet import CLASS_NAMES, CODES


def config() -> TrainConfig:
    return TrainConfig(
        name="scannet_kpconv",
        data=DataConfig(
            root=Path("data/scannet"),
            train_scenes=("@train",),
            val_scenes=("@val",),
            class_names=CLASS_NAMES,
            label_map={code: index for index, code in enumerate(CODES)},
            features=("ones", "color", "height_above_ground"),
            crop=CropConfig(shape="sphere", radius=2.0, max_voxels=20_000, balanced=0.0),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.9, 1.1), jitter=0.001, feature_dropout=0.2),
        ),
        model=KPConvConfig(voxel_size=0.04, num_levels=5, width=64, deformable_levels=(3, 4)),
        optim=OptimConfig(kind="sgd", lr=1e-2, momentum=0.98, weight_decay=1e-3),
        schedule=ScheduleConfig(kind="exponential", warmup=0.0, last=4.6e-4),  # a tenth every 150 of 500 epochs
        steps=250_000,
        batch_size=6,
        clip_norm=100.0,
    )
