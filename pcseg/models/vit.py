"""A plain vision transformer with a linear layer on its patch tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.config import ViTConfig
from pcseg.errors import InputError
from pcseg.models.encoders import Encoder, Scale, make_network
from pcseg.models.heads import SegOutput
from pcseg.models.image_grid import segment_images
from pcseg.pyramid import Level


class ViTNet(nn.Module):
    """ViT or DINOv2, and a linear layer on the last normalised patch tokens; the class token is not read.

    Images of any size: the position table is interpolated, and where an edge is no multiple of the patch, the image is
    continued to the right and below by its last pixels and the result is cut back.

    Args:
        in_channels: C features a pixel.
        num_classes: K.
        pretrained: load ``config.weights``, whose settings stand in the config (``resolve_model``).

    Raises:
        InputError: see :func:`pcseg.models.encoders.make_network`; patches that are not square.

    Source: the encoder from Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 3.1; the linear layer as in
    Strudel et al. 2021, Segmenter, section 3.2, and Oquab et al. 2024, DINOv2, section 7.4.
    """

    def __init__(self, config: ViTConfig, in_channels: int, num_classes: int, *, pretrained: bool = False):
        super().__init__()
        self.in_channels = in_channels
        if config.family == "vit":
            net = make_network(config, in_channels, pretrained=pretrained, arguments={"add_pooling_layer": False})
            self.encoder = Encoder(net, _vit_map, config.freeze)
        else:
            net = make_network(config, in_channels, pretrained=pretrained)
            net.embeddings.mask_token = None  # of its pretraining
            self.encoder = Encoder(net, _dinov2_map, config.freeze)
        self.patch = net.config.patch_size
        if not isinstance(self.patch, int):
            raise InputError(f"model.encoder: patch_size must be one number, got {self.patch}")
        self.width: int = net.config.hidden_size
        self.scales = (Scale(self.patch, self.width),)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(self.width, num_classes, 1)

    def levels(self, batch: PointBatch) -> tuple[Level, ...]:
        """Nothing but the pixels is needed."""
        return ()

    def forward(self, batch: PointBatch, levels: Sequence[Level] = ()) -> SegOutput:
        """Logits of every pixel, and what the classifier read: patch tokens, interpolated.

        Raises:
            ValueError: see :func:`pcseg.models.image_grid.segment_images`.
        """
        return segment_images(
            batch,
            self.encode,
            lambda stages: stages[0],
            lambda maps: self.classifier(self.dropout(maps)),
            in_channels=self.in_channels,
            width=self.width,
            stride=self.patch,
        )

    def forward_with_penalties(
        self, batch: PointBatch, levels: Sequence[Level] = ()
    ) -> tuple[SegOutput, dict[str, Tensor]]:
        return self(batch, levels), {}

    def features(self, planes: Tensor) -> Tensor:  # (b, C, H, W) -> (b, hidden, H / patch, W / patch), rounded up
        return self.encode(planes)[0]

    def encode(self, planes: Tensor) -> tuple[Tensor, ...]:  # (b, C, H, W) -> one map
        below, right = (-size % self.patch for size in planes.shape[2:])
        if below or right:
            planes = F.pad(planes, (0, right, 0, below), mode="replicate")
        return self.encoder(planes)


def _vit_map(net: nn.Module, planes: Tensor) -> tuple[Tensor]:
    tokens = net(planes, interpolate_pos_encoding=True).last_hidden_state[:, 1:]  # (b, h w, hidden)
    height = planes.shape[2] // net.config.patch_size  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]
    return (tokens.unflatten(1, (height, -1)).permute(0, 3, 1, 2),)


def _dinov2_map(net: nn.Module, planes: Tensor) -> tuple[Tensor]:
    return (net(planes).feature_maps[-1],)
