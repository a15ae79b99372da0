"""COCO panoptic, one click for each thing and stuff region: learnable distance, Mask2Former on ResNet-50.

python -m pcseg.weaken configs/coco/mask2former_panoptic.py clicks --radius 2 -o data/weak/coco_p1.npz

Published for this: PQ 34.2 (things 33.6, stuff 35.3; Li, Fan and Zhang 2024), whose schedule we do not know. From PSPS
(Fan et al. 2022): AdamW 1.4e-4, a tenth of it on the encoder, weight decay 1e-4, clipping 0.1, epochs of 14,659 steps
(batches of 8), the masks' weight rising over the first, clicks spread over 17 x 17 pixels, colour prior of weight 3 on
5 x 5 places two pixels apart, likeness 0.3, confidence 0.5. Ours: 24 epochs with a fall at two thirds; three rounds of
256 channels; windows of 640 pixels, which hold whole images; PSPS draws one click of a stuff class, not of its parts.
"""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, OptimConfig, PointPanopticConfig, ScheduleConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = PointPanopticConfig(
    rounds=3, width=256, heads=8, dilation=8.0, prior_weight=3.0, distance_prior_weight=3.0, warmup=1 / 24,
    alike={"imagenet_color": 1.0}, min_likeness=0.3, window=5, window_step=2, min_confidence=0.5,
)  # fmt: skip


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("mask2former_panoptic.py"))
    crop, augment = CropConfig(window=640, balanced=0.0), AugmentConfig(flip=0.5)
    data = base.data.model_copy(update={"crop": crop, "augment": augment, "weak_labels": Path("data/weak/coco_p1.npz")})
    optim = OptimConfig(lr=1.4e-4, weight_decay=1e-4, encoder_factor=0.1, branch_factor=1.0)
    schedule = ScheduleConfig(kind="steps", warmup=0.0, drops=(2 / 3,))
    run = {"optim": optim, "schedule": schedule, "steps": 24 * 14_659, "batch_size": 8, "clip_norm": 0.1}
    return base.model_copy(update={"name": "coco_mask2former_point_panoptic", "data": data, "method": METHOD, **run})
