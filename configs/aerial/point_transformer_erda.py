"""Satellite images of Dubai as clouds of pixels, few labels: ERDA with prototypes."""

from pathlib import Path

from pcseg.config import ErdaConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(temperature=0.1, momentum=0.98)  # 900 steps: a slower mean would keep what untrained features were


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("point_transformer_few_labels.py"))
    return base.model_copy(update={"name": "aerial_point_transformer_erda", "method": METHOD})
