"""IGN LiDAR HD, six tiles of 50 m, with a small Point Transformer."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, LossConfig, OptimConfig, TrainConfig
from pcseg.config.model import PointTransformerConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="ign_point_transformer",
        data=DataConfig(
            root=Path("data/ign"),
            train_scenes=("77050_*", "77055_*"),
            val_scenes=("77060_*",),
            class_names=("other", "ground", "low_vegetation", "medium_vegetation", "high_vegetation", "building"),
            label_map={0: -1, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5},
            features=("height_above_ground", "intensity", "return_number", "number_of_returns"),
            crop=CropConfig(max_voxels=12_000),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.9, 1.1), jitter=0.02, feature_dropout=0.1),
        ),
        model=PointTransformerConfig(
            voxel_size=0.4,
            widths=(32, 64, 128, 256),
            encoder_blocks=(1, 2, 2, 1),
            decoder_blocks=(1, 1, 1, 1),
            neighbors=(8, 16, 16, 16),
        ),
        loss=LossConfig(lovasz=1.0, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-2),
        steps=500,
        average=0.99,
    )
