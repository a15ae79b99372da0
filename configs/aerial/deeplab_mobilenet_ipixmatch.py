"""Satellite images of Dubai, few labels: IPixMatch on FixMatch, relations by KL."""

from pathlib import Path

from pcseg.config import IPixMatchConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = IPixMatchConfig(threshold=0.95)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_mobilenet.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/aerial.npz")})
    return base.model_copy(update={"name": "aerial_deeplab_mobilenet_ipixmatch", "data": data, "method": METHOD})
