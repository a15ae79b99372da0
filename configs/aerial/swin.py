"""Satellite images of Dubai: Swin-T with a decoder of linear layers; pretrained with --model.weights FOLDER."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, LossConfig, OptimConfig, SwinConfig, TrainConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="aerial_swin",
        data=DataConfig(
            kind="images",
            root=Path("samples/dubai_aerial"),
            train_scenes=("tile1_*", "tile2_*", "tile4_*", "tile5_*", "tile6_*", "tile7_*"),
            val_scenes=("tile3_*", "tile8_*"),
            class_names=("building", "land", "road", "vegetation", "water"),
            label_map={0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 255: -1},
            features=("imagenet_color",),
            crop=CropConfig(window=224),
            augment=AugmentConfig(
                rotate=True, flip=0.5, scale=(0.75, 1.5), isotropic=True, color=0.5, brightness=0.2, contrast=0.2
            ),
        ),
        model=SwinConfig(),
        loss=LossConfig(lovasz=0.5, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=1e-4, weight_decay=1e-2),
        steps=4000,
        batch_size=8,
        average=0.99,
    )
