"""The same as mask2former_point_panoptic.py on Swin-L. Published: PQ 68.5 (things 67.3, stuff 93.4)."""

from pathlib import Path

from pcseg.config import TrainConfig
from pcseg.config_file import load_config

COCO = Path(__file__).parents[1] / "coco" / "mask2former_swin_point_panoptic.py"


def config() -> TrainConfig:
    base, large = load_config(Path(__file__).with_name("mask2former_point_panoptic.py")), load_config(COCO)
    name = "voc_mask2former_swin_point_panoptic"
    return base.model_copy(update={"name": name, "model": large.model, "panoptic": large.panoptic})
