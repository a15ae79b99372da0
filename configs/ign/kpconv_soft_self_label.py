"""IGN LiDAR HD, few labels: soft self-labelling by collision divergence on the nearest voxels."""

from pathlib import Path

from pcseg.config import SoftSelfLabelConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = SoftSelfLabelConfig(
    contrast={"intensity": 0.0, "height_above_ground": 0.0},
    unary_weight=1.0,
    pairwise_weight=2.0,
    solver_lr=0.02,
    solver_steps=60,
)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv_few_labels.py"))
    return base.model_copy(update={"name": "ign_kpconv_soft_self_label", "method": METHOD})
