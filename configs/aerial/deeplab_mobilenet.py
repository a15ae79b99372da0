"""Satellite images of Dubai: DeepLabV3+ on MobileNetV2, from random weights."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, DeepLabConfig, LossConfig, OptimConfig, TrainConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="aerial_deeplab_mobilenet",
        data=DataConfig(
            kind="images",
            root=Path("samples/dubai_aerial"),
            train_scenes=("tile1_*", "tile2_*", "tile4_*", "tile5_*", "tile6_*", "tile7_*"),
            val_scenes=("tile3_*", "tile8_*"),
            class_names=("building", "land", "road", "vegetation", "water"),
            label_map={0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 255: -1},
            features=("opponent_color",),
            crop=CropConfig(window=192),
            augment=AugmentConfig(
                rotate=True, flip=0.5, scale=(0.75, 1.5), isotropic=True, color=0.5, brightness=0.2, contrast=0.2
            ),
        ),
        model=DeepLabConfig(backbone="mobilenet_v2", output_stride=16, decoder_channels=96),
        loss=LossConfig(lovasz=0.5, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=3e-3, weight_decay=1e-2),
        steps=5000,
        batch_size=4,
        average=0.99,
    )
