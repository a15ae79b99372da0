"""The shipped excerpt of COCO: things and stuff from one click each, on a small DeepLabV3+."""

from pathlib import Path

from pcseg.config import CropConfig, DataConfig, DeepLabConfig, PointPanopticConfig, QueryDecoderConfig, TrainConfig
from pcseg.io.coco_panoptic import read_index

ROOT = Path("samples/coco_panoptic")


def config() -> TrainConfig:
    categories = read_index(ROOT / "panoptic_train2017.json").categories
    return TrainConfig(
        name="coco_excerpt_deeplab_point_panoptic",
        data=DataConfig(
            kind="panoptic",
            root=ROOT,
            train_scenes=("train2017/*",),
            val_scenes=("val2017/*",),
            class_names=tuple(category.name for category in categories),
            things=tuple(category.name for category in categories if category.isthing),
            label_map={category.id: index for index, category in enumerate(categories)},
            features=("color",),
            crop=CropConfig(window=320, balanced=1.0),
            weak_labels=Path("data/weak/coco_excerpt_clicks.npz"),
        ),
        model=DeepLabConfig(backbone="mobilenet_v2", output_stride=16, decoder_channels=64),
        panoptic=QueryDecoderConfig(queries=40),
        method=PointPanopticConfig(dilation=8.0, mask_weight=0.1, warmup=0.6, presence=False),
        steps=300,
    )
