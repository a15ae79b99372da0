"""Swin Transformer with a decoder of linear layers over all its stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.config import SwinConfig
from pcseg.errors import InputError
from pcseg.models.encoders import Encoder, Scale, make_network
from pcseg.models.heads import SegOutput
from pcseg.models.image_grid import enlarge, segment_images
from pcseg.pyramid import Level


class SwinNet(nn.Module):
    """Swin; its stages, each brought to ``decoder_channels`` and to the first one's size, fused by a 1 x 1 convolution.

    Args:
        in_channels: C features a pixel.
        num_classes: K.
        pretrained: load ``config.weights``, whose settings stand in the config (``resolve_model``); the norms of the
            stages' outputs are then new, as a classifier has none.

    Raises:
        InputError: see :func:`pcseg.models.encoders.make_network`; patches that are not square.

    Source: Liu et al. 2021, Swin Transformer, section 3; the decoder from Xie et al. 2021, SegFormer, section 3.2.
    """

    def __init__(self, config: SwinConfig, in_channels: int, num_classes: int, *, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        stages = [f"stage{stage + 1}" for stage in range(len(config.settings["depths"]))]
        net = make_network(config, in_channels, pretrained=pretrained, out_features=stages)
        net.swin.layernorm = nn.Identity()  # of the classifier's input; every stage has a norm of its own
        self.stride = net.config.patch_size
        if not isinstance(self.stride, int):
            raise InputError(f"model.encoder: patch_size must be one number, got {self.stride}")
        self.encoder = Encoder(net, _stages, config.freeze)
        self.scales = tuple(Scale(self.stride << stage, channels) for stage, channels in enumerate(net.channels))
        width = config.decoder_channels
        self.linear = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in net.channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(len(stages) * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def levels(self, batch: PointBatch) -> tuple[Level, ...]:
        """Nothing but the pixels is needed."""
        return ()

    def forward(self, batch: PointBatch, levels: Sequence[Level] = ()) -> SegOutput:
        """Logits of every pixel, and what the classifier read.

        Raises:
            ValueError: see :func:`pcseg.models.image_grid.segment_images`.
        """
        return segment_images(
            batch,
            self.encoder,
            self.decode,
            lambda maps: self.classifier(self.dropout(maps)),
            in_channels=self.in_channels,
            width=self.config.decoder_channels,
            stride=self.stride,
        )

    def forward_with_penalties(
        self, batch: PointBatch, levels: Sequence[Level] = ()
    ) -> tuple[SegOutput, dict[str, Tensor]]:
        return self(batch, levels), {}

    def features(self, planes: Tensor) -> Tensor:  # (b, C, H, W) -> (b, decoder_channels, H / 4, W / 4), rounded up
        return self.decode(self.encoder(planes))

    def decode(self, stages: tuple[Tensor, ...]) -> Tensor:  # the encoder's maps -> (b, decoder_channels, h, w)
        height, width = stages[0].shape[2:]
        maps = [
            enlarge(linear(stage), 2**index, (height, width))
            for index, (linear, stage) in enumerate(zip(self.linear, stages, strict=True))
        ]
        return self.fuse(torch.cat(maps, 1))


def _stages(net: nn.Module, planes: Tensor) -> tuple[Tensor, ...]:
    return tuple(net(planes).feature_maps)
