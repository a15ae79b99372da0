"""COCO panoptic, all labels: Mask2Former on ResNet-50, the upper bound of few labels.

data/coco holds train2017/, val2017/ and annotations/panoptic_*.json with its folders, as they are downloaded.
Published (Cheng et al. 2022 and its code): PQ 51.9; 50 epochs in batches of 16, scales 0.1 to 2 in windows of 1024,
AdamW 1e-4, its tenth on the encoder, falling twice, gradients clipped at 0.01. Ours: batch norms learn, and a semantic
decoder of DeepLabV3+ stands beside the branch. Name pretrained weights with --model.weights FOLDER.
"""

from pathlib import Path

from pcseg import config as c
from pcseg.config_file import load_config

EXCERPT = Path(__file__).parents[1] / "coco_excerpt" / "deeplab_point_panoptic.py"
RUN = {
    "model": c.DeepLabConfig(backbone="resnet50", output_stride=32),
    "panoptic": c.Mask2FormerConfig(),
    "method": c.SupervisedConfig(),
    "optim": c.OptimConfig(lr=1e-4, weight_decay=0.05, encoder_factor=0.1, branch_factor=1.0),
    "schedule": c.ScheduleConfig(kind="steps", warmup=0.0, drops=(0.889, 0.963)),
    "steps": 368_750,
    "batch_size": 16,
    "clip_norm": 0.01,
    "best_metric": "pq",
}


def config() -> c.TrainConfig:
    base = load_config(EXCERPT)  # of the same classes
    crop, augment = c.CropConfig(window=1024, balanced=0.0), c.AugmentConfig(flip=0.5, scale=(0.1, 2.0), isotropic=True)
    change = {"root": Path("data/coco"), "features": ("imagenet_color",), "crop": crop, "augment": augment}
    data = base.data.model_copy(update=change | {"weak_labels": None})
    return base.model_copy(update={"name": "coco_mask2former_panoptic", "data": data, **RUN})
