"""The shipped excerpt of COCO: things and stuff from one click each, on a small DeepLabV3+.

python -m pcseg.weaken CONFIG clicks --radius 2 -o data/weak/coco_excerpt_clicks.npz
"""

from pathlib import Path

from pcseg import config as c
from pcseg.io.coco_panoptic import read_index

ROOT = Path("samples/coco_panoptic")
SHALLOW = {"depths": (1, 1, 1, 1), "hidden_sizes": (32, 64, 96, 128), "embedding_size": 32, "layer_type": "basic"}
"""A deeper network learns nothing from twelve images in so few steps."""


def config() -> c.TrainConfig:
    categories = read_index(ROOT / "panoptic_train2017.json").categories
    return c.TrainConfig(
        name="coco_excerpt_deeplab_point_panoptic",
        data=c.DataConfig(
            kind="panoptic",
            root=ROOT,
            train_scenes=("train2017/*",),
            val_scenes=("val2017/*",),
            class_names=tuple(category.name for category in categories),
            things=tuple(category.name for category in categories if category.isthing),
            label_map={category.id: index for index, category in enumerate(categories)},
            features=("color",),
            crop=c.CropConfig(window=160, off_center=0.0),
            weak_labels=Path("data/weak/coco_excerpt_clicks.npz"),
        ),
        model=c.DeepLabConfig(backbone="resnet50", encoder=SHALLOW, decoder_channels=64),
        panoptic=c.QueryDecoderConfig(queries=40),
        # A stronger prior on the classes makes one class of everything.
        method=c.PointPanopticConfig(dilation=8.0, prior_weight=0.1, mask_weight=0.1, warmup=0.6, presence=False),
        optim=c.OptimConfig(lr=3e-3),
        steps=300,
        batch_size=4,
    )
