"""Satellite images of Dubai as clouds of pixels, few labels: IPixMatch on FixMatch, relations by KL."""

from pathlib import Path

from pcseg.config import AugmentConfig, IPixMatchConfig, TrainConfig, ViewsConfig
from pcseg.config_file import load_config

STRONG = AugmentConfig(rotate=True, flip=0.5, scale=(0.8, 1.25), feature_jitter=0.3)
METHOD = IPixMatchConfig(threshold=0.9, teacher="average", views=ViewsConfig(strong=STRONG, mix="boxes"))


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("point_transformer_few_labels.py"))
    return base.model_copy(update={"name": "aerial_point_transformer_ipixmatch", "method": METHOD})
