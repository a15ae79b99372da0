"""Point Transformer: the encoder-decoder of vector attention."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.config import PointTransformerConfig
from pcseg.models.attention import (
    AttentionBlock,
    CloudMean,
    DenseRows,
    Neighborhood,
    TransitionDown,
    TransitionUp,
    neighborhood,
)
from pcseg.models.heads import SegOutput
from pcseg.pyramid import Level, build_knn_pyramid


class PointTransformerNet(nn.Module):
    """Vector attention on a pyramid of nearest neighbours, interpolation back, a dense and a linear layer on top.

    Level 0 is the batch's own rows. Where there are no features (C = 0) a constant 1 stands for them. With "farthest"
    pooling the result depends on which row of a cloud comes first: sampling starts there.

    Args:
        in_channels: C features a row.
        num_classes: K.

    Source: Zhao et al. 2021, Point Transformer, section 3 and figure 3. Norms, shared weights, the order of layers and
    the mean at the lowest level are as in the authors' code, so that parameters are those of Open3D-ML's network at the
    same settings. The authors give a row's coordinates as features too: put them among ``feats`` for that. A cloud of
    n points keeps max(1, n // stride) of them, not n // stride; lists that a small cloud cannot fill have empty
    places, which take part in nothing.
    """

    def __init__(self, config: PointTransformerConfig, in_channels: int, num_classes: int):
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        widths, momentum = config.widths, config.norm_momentum
        self.stem = DenseRows(max(1, in_channels), widths[0], momentum, bias=False)
        # down[l] brings level l to level l + 1, up[l] level l + 1 to level l.
        self.down = nn.ModuleList(
            TransitionDown(fine, coarse, dim=config.dim, momentum=momentum)
            for fine, coarse in itertools.pairwise(widths)
        )
        self.encoder = nn.ModuleList(self._blocks(*each) for each in zip(widths, config.encoder_blocks, strict=True))
        self.bottom = CloudMean(widths[-1], momentum)
        self.up = nn.ModuleList(
            TransitionUp(coarse, fine, momentum=momentum) for fine, coarse in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(self._blocks(*each) for each in zip(widths, config.decoder_blocks, strict=True))
        self.head = DenseRows(widths[0], widths[0], momentum, bias=True)
        self.classifier = nn.Linear(widths[0], num_classes)

    def levels(self, batch: PointBatch) -> tuple[Level, ...]:
        """The pyramid of a batch, on the batch's device, without gradients.

        Raises:
            ValueError: coordinates of another dimension than the network's.
        """
        config = self.config
        if batch.coords.shape[1] != config.dim:
            raise ValueError(f"PointTransformerNet: coords must be (N, {config.dim}), got {tuple(batch.coords.shape)}")
        return build_knn_pyramid(
            batch.coords,
            batch.offsets,
            neighbors=config.neighbors,
            pooling=config.pooling,
            stride=config.stride,
            voxel_size=config.voxel_size,
        )

    def forward(
        self,
        batch: PointBatch,
        levels: Sequence[Level],  # of this batch, num_levels of them
    ) -> SegOutput:
        """Logits and features of every row.

        Raises:
            ValueError: features or levels that do not fit the network.
        """
        if batch.feats.shape[1] != self.in_channels:
            raise ValueError(
                f"PointTransformerNet: feats must be (N, {self.in_channels}), got {tuple(batch.feats.shape)}"
            )
        if len(levels) != len(self.encoder):
            raise ValueError(f"PointTransformerNet: {len(self.encoder)} levels expected, got {len(levels)}")
        near = [neighborhood(v.coords, v.coords, v.neighbors, complete=v.complete) for v in levels]
        feats = self.head(self._encode_and_decode(batch, levels, near))
        return SegOutput(self.classifier(feats), feats)

    def forward_with_penalties(
        self,
        batch: PointBatch,
        levels: Sequence[Level],
    ) -> tuple[SegOutput, dict[str, Tensor]]:
        """As :meth:`forward`; this network brings no loss terms of its own."""
        return self(batch, levels), {}

    def _encode_and_decode(self, batch: PointBatch, levels: Sequence[Level], near: Sequence[Neighborhood]) -> Tensor:
        feats = self.stem(batch.feats if self.in_channels else batch.feats.new_ones(batch.num_rows, 1))
        skips: list[Tensor] = []
        for index, blocks in enumerate(self.encoder):
            if index > 0:
                fine = levels[index - 1]
                feats = self.down[index - 1](feats, fine.coords, levels[index].coords, fine.pool)
            feats = _through(blocks, feats, near[index])
            skips.append(feats)
        feats = _through(self.decoder[-1], self.bottom(feats, levels[-1].offsets), near[-1])
        for index in reversed(range(len(self.up))):
            level = levels[index]
            feats = self.up[index](feats, skips[index], level.interpolate, level.interpolate_weights)
            feats = _through(self.decoder[index], feats, near[index])
        return feats

    def _blocks(self, channels: int, count: int) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            AttentionBlock(channels, dim=config.dim, share=config.share, momentum=config.norm_momentum)
            for _ in range(count)
        )


def _through(blocks: nn.Module, feats: Tensor, near: Neighborhood) -> Tensor:  # (N, C) -> (N, C)
    for block in blocks.children():
        feats = block(feats, near)
    return feats
