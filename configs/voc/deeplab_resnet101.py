"""PASCAL VOC 2012: DeepLabV3+ on ResNet-101; name pretrained weights with --model.weights FOLDER."""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, DataConfig, DeepLabConfig, OptimConfig, ScheduleConfig, TrainConfig
from pcseg.datasets.voc import CLASS_NAMES, CODES


def config() -> TrainConfig:
    return TrainConfig(
        name="voc_deeplab_resnet101",
        data=DataConfig(
            kind="images",
            root=Path("data/voc"),
            train_scenes=("@train_aug",),
            val_scenes=("@val",),
            class_names=CLASS_NAMES,
            label_map=CODES,
            features=("imagenet_color",),
            crop=CropConfig(window=321, balanced=0.0),
            augment=AugmentConfig(flip=0.5, scale=(0.5, 2.0), isotropic=True),
        ),
        model=DeepLabConfig(backbone="resnet101", output_stride=16),
        optim=OptimConfig(kind="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4),
        schedule=ScheduleConfig(kind="polynomial", warmup=0.0, power=0.9),
        steps=40_000,
        batch_size=16,
    )
