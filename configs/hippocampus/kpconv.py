"""Magnetic resonance volumes of the hippocampus: its anterior and posterior part; every fifth volume validates."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, LossConfig, OptimConfig, TrainConfig

NUMBERS = (
    *(1, 7, 15, 24, 34, 38, 44, 49, 53, 64, 70, 83, 90, 94, 98, 105, 109, 125, 133, 141, 145, 152, 157, 162, 169, 173),
    *(177, 185, 193, 199, 210, 217, 222, 227, 231, 235, 244, 250, 257, 264, 274, 280, 289, 295, 299, 304, 310, 317),
    *(322, 328, 332, 337, 343, 351, 356, 361, 368, 375, 381, 387),
)
NAMES = [f"hippocampus_{number:03d}" for number in NUMBERS]


def config() -> TrainConfig:
    return TrainConfig(
        name="hippocampus_kpconv",
        data=DataConfig(
            kind="volumes",
            root=Path("samples/msd_hippocampus"),
            train_scenes=tuple(name for place, name in enumerate(NAMES) if place % 5 != 4),
            val_scenes=tuple(NAMES[4::5]),
            class_names=("background", "anterior", "posterior"),
            label_map={0: 0, 1: 1, 2: 2},
            features=("signal_normalized",),
            crop=CropConfig(shape="sphere", max_voxels=8000),
            augment=AugmentConfig(scale=(0.9, 1.1)),
        ),
        model=KPConvConfig(voxel_size=1.0, num_levels=4, width=32),
        loss=LossConfig(dice=1.0, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-2),
        steps=1200,
        average=0.98,
    )
