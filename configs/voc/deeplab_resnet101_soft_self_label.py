"""PASCAL VOC from scribbles: soft self-labelling (Zhang and Boykov 2025), after as many epochs on scribbles alone.

python -m data_prep.voc --raw VOCdevkit/VOC2012 --out data/voc_scribbles --labels scribbles
"""

from pathlib import Path

from pcseg.config import CropConfig, OptimConfig, SoftSelfLabelConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = SoftSelfLabelConfig(contrast={"imagenet_color": 9.0}, warmup=0.5)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_resnet101.py"))
    data = base.data.model_copy(
        update={"root": Path("data/voc_scribbles"), "crop": CropConfig(window=513, balanced=0.0)}
    )
    run = {
        "steps": 105_800,
        "batch_size": 12,
        "optim": OptimConfig(kind="sgd", lr=0.007, momentum=0.9, weight_decay=5e-4),
    }
    return base.model_copy(
        update={"name": "voc_deeplab_resnet101_soft_self_label", "data": data, "method": METHOD, **run}
    )
