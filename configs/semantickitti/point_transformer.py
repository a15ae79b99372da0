"""SemanticKITTI, sequence 08, whole frames: Point Transformer with the settings of Zhao et al. 2021 for S3DIS."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, OptimConfig, PointTransformerConfig, TrainConfig
from pcseg.datasets.semantickitti import CLASS_NAMES, CODES


def config() -> TrainConfig:
    return TrainConfig(
        name="semantickitti_point_transformer",
        data=DataConfig(
            root=Path("data/semantickitti"),
            train_scenes=("@train",),
            val_scenes=("@val",),
            class_names=CLASS_NAMES,
            label_map={code: index for index, code in enumerate(CODES)},
            features=("intensity", "height_above_ground"),
            crop=CropConfig(max_voxels=80_000, balanced=0.0),
            augment=AugmentConfig(rotate=True, flip=0.5, scale=(0.9, 1.1), jitter=0.005),
        ),
        model=PointTransformerConfig(voxel_size=0.06),
        optim=OptimConfig(kind="sgd", lr=0.5, momentum=0.9, weight_decay=1e-4),
        steps=60_000,
        batch_size=8,
    )
