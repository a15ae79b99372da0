"""Table-top scans: things told apart from one click each, by a learnable distance."""

from pathlib import Path

from pcseg.config import PointPanopticConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = PointPanopticConfig(
    place="path",
    alike={},  # colours of a Kinect say little; folds of the surface say where things end
    max_concavity=0.1,
    prior_weight=2.0,
    distance_prior_weight=3.0,
    dilation=0.03,
    smoothing=6.0,
    mask_weight=0.1,
    warmup=0.6,
)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("kpconv_panoptic.py"))
    data = base.data.model_copy(update={"weak_labels": Path("data/weak/tabletop_clicks.npz")})
    return base.model_copy(
        update={
            "name": "tabletop_kpconv_point_panoptic",
            "data": data,
            "method": METHOD,
        }
    )
