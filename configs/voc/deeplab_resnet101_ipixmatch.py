"""PASCAL VOC, 1/16 of the images: IPixMatch on FixMatch with the settings of UniMatch's code; --method.host unimatch.

python -m pcseg.weaken configs/voc/deeplab_resnet101.py scenes --count 662 -o data/weak/voc_16th.npz
"""

from pathlib import Path

from pcseg.config import AugmentConfig, IPixMatchConfig, OptimConfig, TrainConfig, ViewsConfig
from pcseg.config_file import load_config

STRONG = AugmentConfig(color=0.8, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, gray=0.2, blur=0.5)
METHOD = IPixMatchConfig(threshold=0.95, warmup=0.0, views=ViewsConfig(strong=STRONG))


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_resnet101.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/voc_16th.npz")})
    run = {
        "steps": 99_200,
        "batch_size": 8,
        "optim": OptimConfig(kind="sgd", lr=0.001, momentum=0.9, weight_decay=1e-4),
    }
    return base.model_copy(update={"name": "voc_deeplab_resnet101_ipixmatch", "data": data, "method": METHOD, **run})
