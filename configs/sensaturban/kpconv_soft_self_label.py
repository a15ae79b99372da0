"""SensatUrban, 0.1 % of the labels: soft self-labelling, the paper's settings for images on the nearest voxels.

python -m pcseg.weaken configs/sensaturban/kpconv.py ratio --ratio 0.001 -o data/weak/sensaturban.npz
"""

from pathlib import Path

from pcseg.config import SoftSelfLabelConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = SoftSelfLabelConfig(contrast={"color": 0.0}, warmup=0.5)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/sensaturban.npz")})
    return base.model_copy(update={"name": "sensaturban_kpconv_soft_self_label", "data": data, "method": METHOD})
