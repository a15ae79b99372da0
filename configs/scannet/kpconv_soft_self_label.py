r"""ScanNet, 20 labelled points a scene: soft self-labelling, the paper's settings for images on the nearest voxels.

python -m pcseg.weaken configs/scannet/kpconv.py points --per scene --count 20 --voxel-size 0 -o data/weak/scannet.npz

or with the lists of the Data-Efficient benchmark, where preparation found them:
python -m pcseg.weaken configs/scannet/kpconv.py list \
    --folder data/scannet/point_labels/points20 -o data/weak/scannet.npz
"""

from pathlib import Path

from pcseg.config import SoftSelfLabelConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = SoftSelfLabelConfig(contrast={"color": 0.0}, warmup=0.5)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/scannet.npz")})
    return base.model_copy(update={"name": "scannet_kpconv_soft_self_label", "data": data, "method": METHOD})
