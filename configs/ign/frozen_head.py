"""IGN LiDAR HD: a small head on the features of the shipped AHN3 network.

python -m pcseg.features samples/models/ahn3_kpconv.safetensors configs/ign/kpconv.py -o data/ign_features
"""

from pathlib import Path

from pcseg.config import CropConfig, DataConfig, HeadConfig, LossConfig, OptimConfig, TrainConfig


def config() -> TrainConfig:
    return TrainConfig(
        name="ign_frozen_head",
        data=DataConfig(
            root=Path("data/ign_features"),
            train_scenes=("77050_*", "77055_*"),
            val_scenes=("77060_*",),
            class_names=("other", "ground", "low_vegetation", "medium_vegetation", "high_vegetation", "building"),
            label_map={0: -1, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5},
            features=("frozen",),
            crop=CropConfig(max_voxels=20_000),
        ),
        model=HeadConfig(voxel_size=0.4, hidden=(64,)),
        loss=LossConfig(lovasz=1.0, class_weights="inverse_sqrt"),
        optim=OptimConfig(lr=5e-3, weight_decay=1e-4),
        steps=400,
        eval_protocol="full/votes=1/scene",
    )
