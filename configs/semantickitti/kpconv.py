"""SemanticKITTI, sequence 08: rigid KPConv as its authors' code trains it (Thomas et al. 2019), remission added."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, KPConvConfig, OptimConfig, ScheduleConfig, TrainConfig
from pcseg.datasets.semantickitti import CLASS_NAMES, CODES


def config() -> TrainConfig:
    return TrainConfig(
        name="semantickitti_kpconv",
        data=DataConfig(
            root=Path("data/semantickitti"),
            train_scenes=("@train",),
            val_scenes=("@val",),
            class_names=CLASS_NAMES,
            label_map={code: index for index, code in enumerate(CODES)},
            features=("ones", "height_above_ground", "intensity"),
            crop=CropConfig(shape="sphere", radius=4.0, max_voxels=30_000, balanced=1.0),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.8, 1.2), jitter=0.001),
        ),
        model=KPConvConfig(voxel_size=0.06, num_levels=5, width=64, sigma=1.2),
        optim=OptimConfig(kind="sgd", lr=1e-2, momentum=0.98, weight_decay=1e-3),
        schedule=ScheduleConfig(kind="exponential", warmup=0.0, last=4.6e-6),  # a tenth every 150 of 800 epochs
        steps=400_000,
        batch_size=4,
        clip_norm=100.0,
    )
