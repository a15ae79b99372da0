"""S3DIS, Area 5, 1 % of the labels: IPixMatch on FixMatch as for images, blocks of space in place of CutMix.

python -m pcseg.weaken configs/s3dis/kpconv.py ratio --ratio 0.01 -o data/weak/s3dis.npz
"""

from pathlib import Path

from pcseg.config import IPixMatchConfig, TrainConfig, ViewsConfig
from pcseg.config_file import load_config

METHOD = IPixMatchConfig(threshold=0.95, warmup=0.0, views=ViewsConfig(mix="blocks"))


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/s3dis.npz")})
    return base.model_copy(update={"name": "s3dis_kpconv_ipixmatch", "data": data, "method": METHOD})
