"""Satellite images of Dubai as clouds of pixels: KPConv in the plane, on cells of 4 pixels."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, LossConfig, OptimConfig, TrainConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="aerial_kpconv",
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
        model=KPConvConfig(dim=2, voxel_size=4.0, num_levels=5, width=32),
        loss=LossConfig(lovasz=0.5, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-2),
        steps=1200,
        average=0.99,
    )
