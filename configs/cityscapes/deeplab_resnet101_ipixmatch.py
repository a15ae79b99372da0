"""Cityscapes, 1/16 of the images: IPixMatch on FixMatch with the settings of UniMatch's code; --method.host unimatch.

python -m pcseg.weaken configs/cityscapes/deeplab_resnet101.py scenes --count 186 -o data/weak/cityscapes_16th.npz
"""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, IPixMatchConfig, OptimConfig, TrainConfig, ViewsConfig
from pcseg.config_file import load_config

STRONG = AugmentConfig(color=0.8, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, gray=0.2, blur=0.5)
METHOD = IPixMatchConfig(threshold=0.0, warmup=0.0, views=ViewsConfig(strong=STRONG))


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_resnet101.py"))
    data = base.data.model_copy(
        update={"weak_labels": Path("data/weak/cityscapes_16th.npz"), "crop": CropConfig(window=801, balanced=0.0)}
    )
    run = {
        "steps": 83_500,
        "batch_size": 8,
        "optim": OptimConfig(kind="sgd", lr=0.005, momentum=0.9, weight_decay=1e-4),
    }
    return base.model_copy(
        update={"name": "cityscapes_deeplab_resnet101_ipixmatch", "data": data, "method": METHOD, **run}
    )
