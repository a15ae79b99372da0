"""PASCAL VOC, 1 % of the pixels of each class and image: ERDA with its settings for S3DIS (none for images are public).

python -m pcseg.weaken configs/voc/deeplab_resnet101.py ratio --ratio 0.01 -o data/weak/voc.npz
"""

from pathlib import Path

from pcseg.config import ErdaConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(weight=0.1, max_rows=100_000)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_resnet101.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/voc.npz")})
    return base.model_copy(update={"name": "voc_deeplab_resnet101_erda", "data": data, "method": METHOD})
