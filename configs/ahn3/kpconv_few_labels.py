"""AHN3, Delft: only the labels that a mask file shows; what methods are compared with."""

from pathlib import Path

from pcseg.config import TrainConfig
from pcseg.config_file import load_config


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/ahn3.npz")})
    change = {"name": "ahn3_kpconv_few_labels", "data": data, "steps": 250, "batch_size": 4, "average": 0.98}
    return base.model_copy(update=change)
