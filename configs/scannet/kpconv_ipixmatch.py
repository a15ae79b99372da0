r"""ScanNet, 20 labelled points a scene: IPixMatch on FixMatch as for images, blocks of space in place of CutMix.

python -m pcseg.weaken configs/scannet/kpconv.py points --per scene --count 20 --voxel-size 0 -o data/weak/scannet.npz

or with the lists of the Data-Efficient benchmark, where preparation found them:
python -m pcseg.weaken configs/scannet/kpconv.py list \
    --folder data/scannet/point_labels/points20 -o data/weak/scannet.npz
"""

from pathlib import Path

from pcseg.config import IPixMatchConfig, TrainConfig, ViewsConfig
from pcseg.config_file import load_config

METHOD = IPixMatchConfig(threshold=0.95, warmup=0.0, views=ViewsConfig(mix="blocks"))


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/scannet.npz")})
    return base.model_copy(update={"name": "scannet_kpconv_ipixmatch", "data": data, "method": METHOD})
