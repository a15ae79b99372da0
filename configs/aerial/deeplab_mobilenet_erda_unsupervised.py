"""Satellite images of Dubai, no labels: ERDA on the sure pixels of five clusters; labels of other images name them."""

from pathlib import Path

from pcseg.config import ClustersConfig, ErdaConfig, LossConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(weight=0.1, temperature=0.1, clusters=ClustersConfig(neighbors=25))


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("deeplab_mobilenet.py"))
    # Other colours would be other clusters, and opponent ones too; class weights come from labels.
    augment = base.data.augment.model_copy(update={"color": 0.0})
    data = base.data.model_copy(update={"augment": augment, "features": ("color",)})
    change = {"data": data, "method": METHOD, "loss": LossConfig(lovasz=0.5), "steps": 300}
    return base.model_copy(update={"name": "aerial_deeplab_mobilenet_erda_unsupervised", **change})
