"""Satellite images of Dubai as clouds of pixels: a small Point Transformer on cells of 4 pixels."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, LossConfig, OptimConfig, TrainConfig
from pcseg.config.model import PointTransformerConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="aerial_point_transformer",
        data=DataConfig(
            kind="images",
            root=Path("samples/dubai_aerial"),
            train_scenes=("tile1_*", "tile2_*", "tile4_*", "tile5_*", "tile6_*", "tile7_*"),
            val_scenes=("tile3_*", "tile8_*"),
            class_names=("building", "land", "road", "vegetation", "water"),
            label_map={0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 255: -1},
            features=("color",),
            crop=CropConfig(max_voxels=10_000),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.8, 1.25), feature_jitter=0.1),
        ),
        model=PointTransformerConfig(
            dim=2,
            voxel_size=4.0,
            widths=(32, 64, 128, 256),
            encoder_blocks=(1, 1, 1, 1),
            decoder_blocks=(0, 0, 0, 1),
            neighbors=(8, 16, 16, 16),
        ),
        loss=LossConfig(lovasz=0.5, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-2),
        steps=900,
        batch_size=1,
        average=0.99,
    )
