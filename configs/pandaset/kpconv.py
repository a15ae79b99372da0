"""PandaSet, scenes whose number ends with 9 (it has no official split): KPConv as on SemanticKITTI."""

from pathlib import Path

from pcseg.config import TrainConfig
from pcseg.config_file import load_config
from pcseg.datasets.pandaset import CLASS_NAMES


def config() -> TrainConfig:
    base = load_config(Path(__file__).parents[1] / "semantickitti/kpconv.py")
    data = base.data.model_copy(
        update={
            "root": Path("data/pandaset"),
            "train_scenes": ("??[0-8]_*",),
            "val_scenes": ("??9_*",),
            "class_names": CLASS_NAMES,
            "label_map": {index: index - 1 for index in range(1, len(CLASS_NAMES) + 1)},
        }
    )
    return base.model_copy(update={"name": "pandaset_kpconv", "data": data})
