"""What a run is made of: frozen, validated classes, each tagged by its ``kind``."""

from pcseg.config.data import AugmentConfig, CropConfig, DataConfig, StripConfig
from pcseg.config.model import (
    DeepLabConfig,
    EncoderConfig,
    HeadConfig,
    KPConvConfig,
    ModelConfig,
    PointTransformerConfig,
    SwinConfig,
    ViTConfig,
)
from pcseg.config.train import LossConfig, OptimConfig, ScheduleConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "CropConfig",
    "DataConfig",
    "DeepLabConfig",
    "EncoderConfig",
    "HeadConfig",
    "KPConvConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PointTransformerConfig",
    "ScheduleConfig",
    "StripConfig",
    "SwinConfig",
    "TrainConfig",
    "ViTConfig",
]
