"""Networks: coordinates and features in, logits out.

Every network has ``levels(batch)``: what it needs beside the batch, made without gradients;
``forward(batch, levels) -> SegOutput``; and ``forward_with_penalties``: the same with loss terms of its own, by name.
"""

from __future__ import annotations

from torch import nn

from pcseg.config import HeadConfig, KPConvConfig, ModelConfig, PointTransformerConfig
from pcseg.models.head import HeadNet
from pcseg.models.heads import SegOutput
from pcseg.models.kpconv import KPConvNet
from pcseg.models.point_transformer import PointTransformerNet

__all__ = ["HeadNet", "KPConvNet", "PointTransformerNet", "SegOutput", "build_model"]


def build_model(config: ModelConfig, in_channels: int, num_classes: int) -> nn.Module:
    """The network that ``config`` describes, for C = ``in_channels`` features and K = ``num_classes`` classes.

    Raises:
        TypeError: a config of no known model.
    """
    if isinstance(config, KPConvConfig):
        return KPConvNet(config, in_channels, num_classes)
    if isinstance(config, PointTransformerConfig):
        return PointTransformerNet(config, in_channels, num_classes)
    if isinstance(config, HeadConfig):
        return HeadNet(config, in_channels, num_classes)
    raise TypeError(f"build_model: no model for a config of type {type(config).__name__}")
