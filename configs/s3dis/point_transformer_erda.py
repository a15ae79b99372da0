"""S3DIS, Area 5, 1 % of the labels: ERDA as its release trains Point Transformer, a cosine for the rate's two steps.

python -m pcseg.weaken configs/s3dis/kpconv.py ratio --ratio 0.01 -o data/weak/s3dis.npz
"""

from pathlib import Path

from pcseg.config import AugmentConfig, CropConfig, ErdaConfig, TrainConfig
from pcseg.config_file import load_config

METHOD = ErdaConfig(weight=0.01)


def config() -> TrainConfig:
    base = load_config(Path(__file__).with_name("point_transformer.py"))
    data = base.data.model_copy(
        update={
            "weak_labels": Path("data/weak/s3dis.npz"),
            "augment": AugmentConfig(rotate=True, flip=0.5, scale=(0.7, 1.3), jitter=0.001, feature_dropout=0.2),
            "crop": CropConfig(shape="sphere", max_voxels=40_960, balanced=0.0),
        }
    )
    run = {"steps": 40_000, "batch_size": 2, "clip_norm": 100.0}
    return base.model_copy(update={"name": "s3dis_point_transformer_erda", "data": data, "method": METHOD, **run})
