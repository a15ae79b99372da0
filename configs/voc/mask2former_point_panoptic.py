"""PASCAL VOC, one click for each object and background region: learnable distance, Mask2Former on ResNet-50.

python -m data_prep.voc --raw VOCdevkit/VOC2012 --out data/voc
python -m pcseg.weaken configs/voc/mask2former_point_panoptic.py clicks --radius 2 -o data/weak/voc_p1.npz

Published for this: PQ 56.6 (things 54.9, stuff 89.6; Li, Fan and Zhang 2024), whose schedule we do not know. From PSPS
(Fan et al. 2022), beside what configs/coco/mask2former_point_panoptic.py names: 20 epochs of 662 steps (batches of 16),
a fall after 15, flips alone. Ours: windows of 512 unscaled pixels, which hold whole images (PSPS: shorter side 600),
and the 1,464 images of VOC's own list, which have object masks (published: the 10,582 of SBD).
"""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, ScheduleConfig, TrainConfig
from pcseg.config_file import load_config
from pcseg.datasets.voc import CLASS_NAMES

COCO = Path(__file__).parents[1] / "coco" / "mask2former_point_panoptic.py"


def config() -> TrainConfig:
    base, voc = load_config(COCO), load_config(Path(__file__).with_name("deeplab_resnet101.py"))
    data = {
        "train_scenes": ("@train",),
        "things": CLASS_NAMES[1:],
        "crop": CropConfig(window=512, balanced=0.0),
        "augment": AugmentConfig(flip=0.5),
        "weak_labels": Path("data/weak/voc_p1.npz"),
    }
    method = base.method.model_copy(update={"warmup": 1 / 20})
    schedule = ScheduleConfig(kind="steps", warmup=0.0, drops=(0.75,))
    run = {"method": method, "schedule": schedule, "steps": 20 * 662, "batch_size": 16}
    return base.model_copy(
        update={"name": "voc_mask2former_point_panoptic", "data": voc.data.model_copy(update=data), **run}
    )
