"""AHN3, Delft, few labels: ERDA with prototypes."""

from pathlib import Path

from pcseg.config import ErdaConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(temperature=0.1, momentum=0.98)  # 600 steps: a slower mean would keep what untrained features were


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/ahn3.npz")})
    return base.model_copy(update={"name": "ahn3_kpconv_erda", "data": data, "method": METHOD})
