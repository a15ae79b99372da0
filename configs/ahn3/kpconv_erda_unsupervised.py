"""AHN3, Delft, no labels: ERDA on the sure rows of three clusters. Labels of the validation scene name the clusters."""

from pathlib import Path

from pcseg.config import ClustersConfig, ErdaConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(weight=0.1, temperature=0.1, clusters=ClustersConfig())


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    # A feature that is left out of a crop would change what its rows are clustered by.
    augment = base.data.augment.model_copy(update={"feature_dropout": 0.0})
    data = base.data.model_copy(update={"augment": augment})
    return base.model_copy(
        update={"name": "ahn3_kpconv_erda_unsupervised", "data": data, "method": METHOD, "steps": 600}
    )
