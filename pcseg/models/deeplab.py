"""DeepLabV3+: dilated encoder, pyramid of dilated convolutions, a small decoder at a quarter of the resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.config import DeepLabConfig
from pcseg.models.encoders import Encoder, Scale, make_network
from pcseg.models.heads import SegOutput
from pcseg.models.image_grid import enlarge, segment_images
from pcseg.models.layers import RowBatchNorm
from pcseg.pyramid import Level

LOW_STRIDE = 4
"""Pixels for each sample of the low-level features, and of what the classifier reads."""
_TAPS = (1, 4, 11, 15)
"""Of the 16 blocks of MobileNetV2, the last ones at strides 4, 8, 16 and 32."""


class DeepLabNet(nn.Module):
    """DeepLabV3+ on ResNet or MobileNetV2.

    Low-level features are the output of ResNet's first stage or of MobileNetV2's last block at stride 4; MobileNetV2's
    last convolution, to 1280 channels, is left out (Sandler et al. 2018, section 6.3). On MobileNetV2 the 3 x 3
    convolutions of pyramid and decoder are separable, on ResNet they are not.

    Args:
        in_channels: C features a pixel.
        num_classes: K.
        pretrained: load ``config.weights``, whose settings stand in the config (``resolve_model``).

    Raises:
        InputError: see :func:`pcseg.models.encoders.make_network`.

    Source: Chen et al. 2018, Encoder-Decoder with Atrous Separable Convolution, sections 3.1, 3.2 and 4.1; the pyramid
    from Chen et al. 2017, Rethinking Atrous Convolution, section 3.3, without multi-grid rates, so that the dilated
    encoder computes what the strided one does. Dropout stands before the classifier.
    """

    def __init__(self, config: DeepLabConfig, in_channels: int, num_classes: int, *, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        self.encoder, self.scales = _encoder(config, in_channels, pretrained)
        low, high = self.scales[0].channels, self.scales[-1].channels
        width, separable = config.decoder_channels, config.family == "mobilenet_v2"
        rates = [rate * 16 // config.output_stride for rate in (6, 12, 18)]
        self.pyramid = DilatedPyramid(high, width, rates, separable=separable)
        self.low = conv_block(low, config.low_level_channels)
        self.decoder = nn.Sequential(
            conv_block(width + config.low_level_channels, width, 3, separable=separable),
            conv_block(width, width, 3, separable=separable),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = config.norm_momentum

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
            stride=LOW_STRIDE,
        )

    def forward_with_penalties(
        self, batch: PointBatch, levels: Sequence[Level] = ()
    ) -> tuple[SegOutput, dict[str, Tensor]]:
        return self(batch, levels), {}

    def features(self, planes: Tensor) -> Tensor:  # (b, C, H, W) -> (b, decoder_channels, H / 4, W / 4), rounded up
        return self.decode(self.encoder(planes))

    def decode(self, stages: tuple[Tensor, ...]) -> Tensor:  # the encoder's maps -> (b, decoder_channels, h, w)
        low, high = stages[0], stages[-1]
        height, width = low.shape[2:]
        context = enlarge(self.pyramid(high), self.config.output_stride // LOW_STRIDE, (height, width))
        return self.decoder(torch.cat([context, self.low(low)], 1))


class DilatedPyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1 x 1 convolution, one 3 x 3 of each rate, and the mean over the image.

    Args:
        rates: dilations, in samples of the input.

    Source: Chen et al. 2017, section 3.3.
    """

    def __init__(self, in_channels: int, width: int, rates: Sequence[int], *, separable: bool):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_block(in_channels, width),
                *(conv_block(in_channels, width, 3, dilation=rate, separable=separable) for rate in rates),
            ]
        )
        # A batch of one image has one mean: its norm takes the running statistics.
        self.image = nn.Sequential(nn.Linear(in_channels, width, bias=False), RowBatchNorm(width), nn.ReLU())
        self.project = conv_block((len(rates) + 2) * width, width)

    def forward(self, maps: Tensor) -> Tensor:  # (b, in_channels, h, w) -> (b, width, h, w)
        image = self.image(maps.mean((2, 3)))[:, :, None, None].expand(-1, -1, *maps.shape[2:])
        return self.project(torch.cat([*(branch(maps) for branch in self.branches), image], 1))


def conv_block(
    in_channels: int, out_channels: int, kernel: int = 1, *, dilation: int = 1, separable: bool = False
) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU; ``separable``: for each channel alone, then 1 x 1.

    Source: Chen et al. 2018, section 3.1 (dilated separable convolution), with a norm and ReLU after each half as in
    section 3.2.
    """
    if separable:
        return nn.Sequential(
            *_conv_norm(in_channels, in_channels, kernel, dilation, groups=in_channels),
            *_conv_norm(in_channels, out_channels, 1, 1),
        )
    return nn.Sequential(*_conv_norm(in_channels, out_channels, kernel, dilation))


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, dilation: int, groups: int = 1
) -> tuple[nn.Module, ...]:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)


def dilate_resnet(net: Any, output_stride: int) -> None:
    """Let the last one (output stride 16) or two stages (8) of a ``ResNetBackbone`` dilate where they strode; in place.

    Weights stay as they are. The new maps, taken at every second or fourth sample, are the former ones: a convolution
    behind a stride that has become 1 reads its inputs as far apart as it did before.

    Source: Chen et al. 2017, section 3.1.
    """
    rate = 1
    for stage in net.encoder.stages[{16: -1, 8: -2}[output_stride] :]:
        for layer in stage.layers:
            if not isinstance(layer.shortcut, nn.Identity):
                layer.shortcut.convolution.stride = (1, 1)
            for part in layer.layer:
                conv = part.convolution
                stride, kernel = conv.stride[0], conv.kernel_size[0]
                conv.dilation, conv.padding = (rate, rate), (rate * (kernel // 2),) * 2
                conv.stride = (1, 1)
                rate *= stride


def _encoder(config: DeepLabConfig, in_channels: int, pretrained: bool) -> tuple[Encoder, tuple[Scale, ...]]:
    """The encoder, and its maps, from stride 4 to ``output_stride``."""
    if config.family == "resnet":
        stages = [f"stage{1 + stage}" for stage in range(len(config.settings["depths"]))]
        net = make_network(config, in_channels, pretrained=pretrained, out_features=stages)
        if config.output_stride < 32:
            dilate_resnet(net, config.output_stride)
        read, widths = _resnet_maps, net.channels
    else:
        net = make_network(
            config,
            in_channels,
            pretrained=pretrained,
            arguments={"add_pooling_layer": False},
            output_stride=config.output_stride,
        )
        net.conv_1x1 = nn.Identity()
        if not (pretrained and config.weights):
            _start_at_he_scale(net)
        read, widths = _mobilenet_maps, [net.layer[block].reduce_1x1.convolution.out_channels for block in _TAPS]
    strides = [min(LOW_STRIDE << stage, config.output_stride) for stage in range(len(widths))]
    return Encoder(net, read, config.freeze), tuple(map(Scale, strides, widths))


def _start_at_he_scale(net: nn.Module) -> None:
    """Random convolutions at the scale of He et al. 2015, for a sample of theirs that has passed a ReLU.

    ``transformers`` draws those of MobileNetV2 with a deviation of 0.02. The 9 weights of a channel in a depthwise
    convolution, where He's is 0.47, then move by a sixth of their size in a step of Adam at 3e-3 (docs/decisions.md).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _resnet_maps(net: nn.Module, planes: Tensor) -> tuple[Tensor, ...]:
    return tuple(net(planes).feature_maps)


def _mobilenet_maps(net: nn.Module, planes: Tensor) -> tuple[Tensor, ...]:
    blocks = net(planes, output_hidden_states=True).hidden_states
    return tuple(blocks[tap] for tap in _TAPS)
