"""ScanNet v2, 20 classes, Point Transformer with colours and normals; the S3DIS settings of Zhao et al. 2021."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, OptimConfig, PointTransformerConfig, TrainConfig
from pcseg.datasets.scannet import CLASS_NAMES, CODES


def config() -> TrainConfig:
    return TrainConfig(
        name="scannet_point_transformer",
        data=DataConfig(
            root=Path("data/scannet"),
            train_scenes=("@train",),
            val_scenes=("@val",),
            class_names=CLASS_NAMES,
            label_map={code: index for index, code in enumerate(CODES)},
            features=("color", "normals"),
            crop=CropConfig(shape="sphere", max_voxels=80_000, balanced=0.0),
            augment=AugmentConfig(flip=0.5, scale=(0.9, 1.1), jitter=0.005, feature_dropout=0.2),
        ),
        model=PointTransformerConfig(voxel_size=0.04),
        optim=OptimConfig(kind="sgd", lr=0.5, momentum=0.9, weight_decay=1e-4),
        steps=60_000,
        batch_size=12,
    )
