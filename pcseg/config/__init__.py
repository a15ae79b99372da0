"""What a run is made of: frozen, validated classes, each tagged by its ``kind``."""

from pcseg.config.data import AugmentConfig, CropConfig, DataConfig, StripConfig
from pcseg.config.method import (
    ClustersConfig,
    ConsistencyConfig,
    EntropyMinimizationConfig,
    ErdaConfig,
    IPixMatchConfig,
    MethodConfig,
    PointPanopticConfig,
    PseudoLabelConfig,
    SoftSelfLabelConfig,
    SupervisedConfig,
    ViewsConfig,
)
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
from pcseg.config.panoptic import BranchConfig, Mask2FormerConfig, PanopticConfig, QueryDecoderConfig
from pcseg.config.train import LossConfig, OptimConfig, ScheduleConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "BranchConfig",
    "ClustersConfig",
    "ConsistencyConfig",
    "CropConfig",
    "DataConfig",
    "DeepLabConfig",
    "EncoderConfig",
    "EntropyMinimizationConfig",
    "ErdaConfig",
    "HeadConfig",
    "IPixMatchConfig",
    "KPConvConfig",
    "LossConfig",
    "Mask2FormerConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimConfig",
    "PanopticConfig",
    "PointPanopticConfig",
    "PointTransformerConfig",
    "PseudoLabelConfig",
    "QueryDecoderConfig",
    "ScheduleConfig",
    "SoftSelfLabelConfig",
    "StripConfig",
    "SupervisedConfig",
    "SwinConfig",
    "TrainConfig",
    "ViTConfig",
    "ViewsConfig",
]
