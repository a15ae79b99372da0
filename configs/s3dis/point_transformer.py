"""S3DIS, Area 5, Point Transformer as Zhao et al. 2021 trained it, a cosine in place of the rate's two steps."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, OptimConfig, PointTransformerConfig, TrainConfig
from pcseg.datasets.s3dis import CLASS_NAMES, fold


def config() -> TrainConfig:
    train, val = fold(5)
    return TrainConfig(
        name="s3dis_area5_point_transformer",
        data=DataConfig(
            root=Path("data/s3dis"),
            train_scenes=train,
            val_scenes=val,
            class_names=CLASS_NAMES,
            label_map={index: index for index in range(len(CLASS_NAMES))},
            features=("color",),
            crop=CropConfig(shape="sphere", max_voxels=80_000, balanced=0.0),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.9, 1.1), jitter=0.005, feature_dropout=0.2),
        ),
        model=PointTransformerConfig(voxel_size=0.04),
        optim=OptimConfig(kind="sgd", lr=0.5, momentum=0.9, weight_decay=1e-4),
        steps=38_000,
        batch_size=16,
    )
