"""Hippocampus, few labels: IPixMatch on FixMatch, relations by KL."""

from pathlib import Path

from pcseg.config import IPixMatchConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = IPixMatchConfig(threshold=0.95)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/hippocampus.npz")})
    return base.model_copy(update={"name": "hippocampus_kpconv_ipixmatch", "data": data, "method": METHOD})
