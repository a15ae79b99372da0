"""AHN3, Delft: other, ground, building, with a small Point Transformer."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, LossConfig, OptimConfig, TrainConfig
from pcseg.config.model import PointTransformerConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="ahn3_point_transformer",
        data=DataConfig(
            root=Path("data/ahn3"),
            train_scenes=("crop_1",),
            val_scenes=("crop_2",),
            class_names=("other", "ground", "building"),
            label_map={1: 0, 2: 1, 6: 2, 9: -1, 26: -1},  # water and bridges are ignored
            features=("height_above_ground", "intensity", "return_number", "number_of_returns"),
            crop=CropConfig(max_voxels=14_000),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.9, 1.1), jitter=0.02, feature_dropout=0.1),
        ),
        model=PointTransformerConfig(
            voxel_size=0.4,
            widths=(32, 64, 128, 256),
            encoder_blocks=(1, 1, 1, 1),
            decoder_blocks=(0, 0, 0, 1),
            neighbors=(8, 16, 16, 16),
        ),
        loss=LossConfig(lovasz=0.5),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-2),
        steps=600,
        average=0.99,
    )
