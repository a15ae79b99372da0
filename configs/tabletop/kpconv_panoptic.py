"""Table-top scans: things told apart with every label, the upper bound of few labels."""

from pathlib import Path

from pcseg import config as c
from pcseg.datasets.tabletop import CLASS_NAMES, THINGS

# Learn scenes hold things of one class each; with two laid over one another what stands around says less.
AUGMENT = c.AugmentConfig(
    rotate=True, flip=0.5, scale=(0.9, 1.1), isotropic=True, color=0.5, brightness=0.2, contrast=0.2, mix=0.5
)


def config() -> c.TrainConfig:
    return c.TrainConfig(
        name="tabletop_kpconv_panoptic",
        data=c.DataConfig(
            root=Path("data/tabletop"),
            train_scenes=("@learn",),
            val_scenes=("@test",),
            class_names=CLASS_NAMES,
            label_map={0: 0, 1: 1, 2: 2, 255: -1},
            things=THINGS,
            features=("color", "height", "normals"),
            crop=c.CropConfig(shape="sphere", max_voxels=100_000, balanced=0.0),  # the whole scene
            augment=AUGMENT,
        ),
        model=c.KPConvConfig(voxel_size=0.015, num_levels=4, width=32),
        panoptic=c.QueryDecoderConfig(queries=24),
        optim=c.OptimConfig(lr=3e-3),
        steps=600,
        batch_size=2,
        average=0.98,
    )
