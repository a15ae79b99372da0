"""Satellite images of Dubai, few labels: soft self-labelling by collision divergence on the pixel grid."""

from pathlib import Path

from pcseg.config import SoftSelfLabelConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = SoftSelfLabelConfig(contrast={"opponent_color": 9.0})


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_mobilenet.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/aerial.npz")})
    return base.model_copy(update={"name": "aerial_deeplab_mobilenet_soft_self_label", "data": data, "method": METHOD})
