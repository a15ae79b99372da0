"""IGN LiDAR HD, few labels: IPixMatch on FixMatch, relations by KL."""

from pathlib import Path

from pcseg.config import AugmentConfig, IPixMatchConfig, TrainConfig, ViewsConfig
from pcseg.config_file import load_config

STRONG = AugmentConfig(rotate=True, flip=0.5, scale=(0.8, 1.25), jitter=0.05, feature_dropout=0.3, feature_jitter=0.2)
METHOD = IPixMatchConfig(threshold=0.95, teacher="average", views=ViewsConfig(strong=STRONG, mix="blocks"))


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv_few_labels.py"))
    return base.model_copy(update={"name": "ign_kpconv_ipixmatch", "method": METHOD})
