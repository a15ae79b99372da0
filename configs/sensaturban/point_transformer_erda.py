"""SensatUrban, 0.1 % of the labels: ERDA on Point Transformer; weight, loss and length as for RandLA-Net.

python -m pcseg.weaken configs/sensaturban/kpconv.py ratio --ratio 0.001 -o data/weak/sensaturban.npz
"""

from pathlib import Path

from pcseg.config import ErdaConfig, LossConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(weight=0.1)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("point_transformer.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/sensaturban.npz")})
    run = {"steps": 100_000, "batch_size": 4, "loss": LossConfig(class_weights="inverse_sqrt")}
    return base.model_copy(update={"name": "sensaturban_point_transformer_erda", "data": data, "method": METHOD, **run})
