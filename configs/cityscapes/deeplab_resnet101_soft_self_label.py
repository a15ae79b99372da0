"""Cityscapes from blocks of labels: soft self-labelling, the recipe for VOC with the bandwidth for Cityscapes.

python -m pcseg.weaken configs/cityscapes/deeplab_resnet101.py blocks --ratio 0.1 --size 64 -o data/weak/city_blocks.npz
"""

from pathlib import Path

from pcseg.config import OptimConfig, SoftSelfLabelConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = SoftSelfLabelConfig(contrast={"imagenet_color": 3.0}, warmup=0.5)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_resnet101.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/city_blocks.npz")})
    run = {"batch_size": 12, "optim": OptimConfig(kind="sgd", lr=0.007, momentum=0.9, weight_decay=5e-4)}
    return base.model_copy(
        update={"name": "cityscapes_deeplab_resnet101_soft_self_label", "data": data, "method": METHOD, **run}
    )
