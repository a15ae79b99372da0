"""The same as mask2former_point_panoptic.py on Swin-L. Published: PQ 41.0 (things 39.9, stuff 42.7).

The sizes are those of Swin-L (Liu et al. 2021) on windows of 12; the published run starts from pretrained weights,
which --model.weights FOLDER names.
"""

from pathlib import Path

from pcseg.config import Mask2FormerConfig, SwinConfig, TrainConfig
from pcseg.config_file import load_config

SWIN_L = SwinConfig(embed=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("mask2former_point_panoptic.py"))
    branch = Mask2FormerConfig(queries=200)  # as Mask2Former with Swin-L
    return base.model_copy(update={"name": "coco_mask2former_swin_point_panoptic", "model": SWIN_L, "panoptic": branch})
