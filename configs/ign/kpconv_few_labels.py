"""IGN LiDAR HD: only the labels that a mask file shows; what methods are compared with."""

from pathlib import Path

from pcseg.config import TrainConfig
from pcseg.config_file import load_config


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    names = ("77050_627755", "77050_627760", "77055_627755", "77055_627760")  # by name: settings leave one out
    data = base.data.model_copy(update={"train_scenes": names, "weak_labels": Path("data/weak/ign.npz")})
    change = {"name": "ign_kpconv_few_labels", "data": data, "steps": 250, "batch_size": 4, "average": 0.98}
    return base.model_copy(update=change | {"time_limit": None})
