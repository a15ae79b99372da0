"""Magnetic resonance volumes of the hippocampus with Point Transformer; every fifth volume validates."""

from pathlib import Path

from pcseg import config as c

NUMBERS = (
    *(1, 7, 15, 24, 34, 38, 44, 49, 53, 64, 70, 83, 90, 94, 98, 105, 109, 125, 133, 141, 145, 152, 157, 162, 169, 173),
    *(177, 185, 193, 199, 210, 217, 222, 227, 231, 235, 244, 250, 257, 264, 274, 280, 289, 295, 299, 304, 310, 317),
    *(322, 328, 332, 337, 343, 351, 356, 361, 368, 375, 381, 387),
)
NAMES = [f"hippocampus_{number:03d}" for number in NUMBERS]


def config() -> c.TrainConfig:
    return c.TrainConfig(
        name="hippocampus_point_transformer",
        data=c.DataConfig(
            kind="volumes",
            root=Path("samples/msd_hippocampus"),
            train_scenes=tuple(name for place, name in enumerate(NAMES) if place % 5 != 4),
            val_scenes=tuple(NAMES[4::5]),
            class_names=("background", "anterior", "posterior"),
            label_map={0: 0, 1: 1, 2: 2},
            features=("signal_normalized",),
            crop=c.CropConfig(shape="sphere", max_voxels=4000),
            augment=c.AugmentConfig(scale=(0.9, 1.1), isotropic=True, feature_jitter=0.1),
        ),
        # On a grid a voxel, its 6 nearest and the 12 behind them are a set that no order of equally far ones changes.
        model=c.PointTransformerConfig(
            voxel_size=1.0, encoder_blocks=(1, 1, 1, 1, 1), neighbors=(19, 19, 19, 19, 19), pooling="grid"
        ),
        loss=c.LossConfig(dice=1.0, class_weights="inverse_sqrt"),
        optim=c.OptimConfig(lr=2e-3, weight_decay=1e-2),
        steps=600,
        batch_size=4,  # the statistics of one crop are not those of a volume, and the batch norms learn to need them
        average=0.98,
    )
