"""AHN3, Delft, few labels: ERDA with prototypes."""

from pathlib import Path

from pcseg.config import ErdaConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(temperature=0.1, momentum=0.98)  # a slow mean keeps what untrained features were


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv_few_labels.py"))
    return base.model_copy(update={"name": "ahn3_kpconv_erda", "method": METHOD})
