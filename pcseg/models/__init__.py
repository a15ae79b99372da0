"""Networks: coordinates and features in, logits out.

Every network has ``levels(batch)``: what it needs beside the batch, made without gradients;
``forward(batch, levels) -> SegOutput``; and ``forward_with_penalties``: the same with loss terms of its own, by name.
"""

from __future__ import annotations

import torch
from torch import nn

from pcseg.config import (
    DeepLabConfig,
    EncoderConfig,
    HeadConfig,
    KPConvConfig,
    Mask2FormerConfig,
    ModelConfig,
    PointTransformerConfig,
    QueryDecoderConfig,
    SwinConfig,
    TrainConfig,
    ViTConfig,
)
from pcseg.models.deeplab import DeepLabNet
from pcseg.models.encoders import resolve_encoder
from pcseg.models.head import HeadNet
from pcseg.models.heads import SegOutput
from pcseg.models.kpconv import KPConvNet
from pcseg.models.point_transformer import PointTransformerNet
from pcseg.models.query_decoder import QueryDecoder
from pcseg.models.swin import SwinNet
from pcseg.models.vit import ViTNet

__all__ = [
    "DeepLabNet",
    "HeadNet",
    "KPConvNet",
    "PointTransformerNet",
    "SegOutput",
    "SwinNet",
    "ViTNet",
    "build_model",
    "build_network",
    "feature_width",
    "resolve_model",
]


def build_network(config: TrainConfig, in_channels: int, *, pretrained: bool = True) -> nn.Module:
    """The network of a run: its model and, where the run has one, the panoptic branch on top as ``panoptic``.

    Raises:
        InputError: as :func:`build_model`; a branch that cannot be on that network, or whose weights do not fit.
    """
    classes = len(config.data.class_names)
    model = build_model(config.model, in_channels, classes, pretrained=pretrained)
    branch = config.panoptic
    if isinstance(branch, QueryDecoderConfig):
        model.panoptic = QueryDecoder(branch, feature_width(model), config.data.is_thing, dim=config.model.dim)
    elif isinstance(branch, Mask2FormerConfig):
        from pcseg.models.mask2former import Mask2Former  # imports transformers

        pretrained = pretrained and torch.get_default_device().type != "meta"
        scales = getattr(model, "scales", ())  # networks on clouds have none
        model.panoptic = Mask2Former(branch, scales, config.data.class_names, pretrained=pretrained)
    return model


def feature_width(model: nn.Module) -> int:
    """C of ``SegOutput.feats``: what the classifier reads."""
    return model.classifier.weight.shape[1]  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue, reportReturnType]


def build_model(config: ModelConfig, in_channels: int, num_classes: int, *, pretrained: bool = True) -> nn.Module:
    """The network that ``config`` describes, for C = ``in_channels`` features and K = ``num_classes`` classes.

    Args:
        pretrained: load the encoder weights that the config names, if it names any. False where the weights of a
            checkpoint are loaded next: nothing but the config is then needed. On the ``meta`` device none are loaded.

    Raises:
        TypeError: a config of no known model.
        InputError: encoder weights that cannot be read or do not fit.
    """
    pretrained = pretrained and torch.get_default_device().type != "meta"
    if pretrained:
        config = resolve_model(config)
    if isinstance(config, KPConvConfig):
        return KPConvNet(config, in_channels, num_classes)
    if isinstance(config, PointTransformerConfig):
        return PointTransformerNet(config, in_channels, num_classes)
    if isinstance(config, HeadConfig):
        return HeadNet(config, in_channels, num_classes)
    if isinstance(config, DeepLabConfig):
        return DeepLabNet(config, in_channels, num_classes, pretrained=pretrained)
    if isinstance(config, ViTConfig):
        return ViTNet(config, in_channels, num_classes, pretrained=pretrained)
    if isinstance(config, SwinConfig):
        return SwinNet(config, in_channels, num_classes, pretrained=pretrained)
    raise TypeError(f"build_model: no model for a config of type {type(config).__name__}")


def resolve_model(config: ModelConfig) -> ModelConfig:
    """The config with everything in it that :func:`build_model` needs without ``pretrained``.

    Where encoder weights are named, the encoder's settings come from the ``config.json`` beside them.

    Raises:
        InputError: encoder weights that cannot be read, or of another architecture.
    """
    return resolve_encoder(config) if isinstance(config, EncoderConfig) else config
