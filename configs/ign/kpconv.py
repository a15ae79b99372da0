"""IGN LiDAR HD, six tiles of 50 m: ground, three heights of vegetation, buildings and the rest."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, LossConfig, OptimConfig, TrainConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="ign_kpconv",
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
        model=KPConvConfig(voxel_size=0.4, num_levels=5, width=32),
        loss=LossConfig(lovasz=1.0, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-2),
        steps=1000,
        average=0.99,
        time_limit=240.0,
    )
