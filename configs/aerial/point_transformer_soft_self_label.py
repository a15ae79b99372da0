"""Satellite images of Dubai as clouds of pixels, few labels: soft self-labelling on the nearest cells."""

from pathlib import Path

from pcseg.config import SoftSelfLabelConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = SoftSelfLabelConfig(
    contrast={"color": 0.0}, unary_weight=1.0, pairwise_weight=0.5, solver_lr=0.02, solver_steps=60
)  # a stronger pull smooths roads away


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("point_transformer_few_labels.py"))
    return base.model_copy(update={"name": "aerial_point_transformer_soft_self_label", "method": METHOD})
