"""Satellite images of Dubai as clouds of pixels: the labels that a mask file shows, no more."""

from pathlib import Path

from pcseg.config import TrainConfig
from pcseg.config_file import load_config


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("point_transformer.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/aerial.npz")})
    change = {"name": "aerial_point_transformer_few_labels", "data": data}
    return base.model_copy(update=change)
