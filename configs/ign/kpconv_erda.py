"""IGN LiDAR HD, few labels: ERDA with prototypes."""

from pathlib import Path

from pcseg.config import ErdaConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(temperature=0.1, momentum=0.98)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv_few_labels.py"))
    return base.model_copy(update={"name": "ign_kpconv_erda", "method": METHOD})
