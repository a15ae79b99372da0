r"""ScanNet, 20 labelled points a scene: ERDA as its release trains CloserLook3D, its relative of KPConv.

python -m pcseg.weaken configs/scannet/kpconv.py points --per scene --count 20 --voxel-size 0 -o data/weak/scannet.npz

or with the lists of the Data-Efficient benchmark, where preparation found them:
python -m pcseg.weaken configs/scannet/kpconv.py list \
    --folder data/scannet/point_labels/points20 -o data/weak/scannet.npz
"""

from pathlib import Path

from pcseg.config import AugmentConfig, ErdaConfig, ScheduleConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(weight=0.01)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(
        update={
            "weak_labels": Path("data/weak/scannet.npz"),
            "augment": AugmentConfig(rotate=True, flip=0.5, scale=(0.7, 1.3), jitter=0.001, feature_dropout=0.2),
        }
    )
    run = {"steps": 150_000, "batch_size": 4, "schedule": ScheduleConfig(kind="exponential", warmup=0.0, last=0.0316)}
    return base.model_copy(update={"name": "scannet_kpconv_erda", "data": data, "method": METHOD, **run})
