"""AHN3, Delft: other, ground, building; five minutes on two cores, validated on the crop beside the training one."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, LossConfig, OptimConfig, TrainConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="ahn3_kpconv",
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
        model=KPConvConfig(voxel_size=0.4, num_levels=4, width=32),
        loss=LossConfig(lovasz=0.5),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-2),
        steps=1200,
        average=0.99,
        time_limit=290.0,
    )
