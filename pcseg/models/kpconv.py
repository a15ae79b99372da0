"""KP-FCNN: the encoder-decoder of kernel point convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.config import KPConvConfig
from pcseg.models.heads import SegOutput
from pcseg.models.layers import (
    Bottleneck,
    DeformableKPConv,
    KPConv,
    Penalty,
    UpsampleUnary,
    activate,
    make_norm,
)
from pcseg.pyramid import Level, build_pyramid


class KPConvNet(nn.Module):
    """Kernel point convolutions on a pyramid, nearest upsampling back, two linear layers on top.

    Level 0 is the batch's own rows, subsampled at ``config.voxel_size``. A constant 1 stands before the features, as in
    the paper: it carries the geometry, and C = 0 is possible.

    Args:
        in_channels: C features a row.
        num_classes: K.

    Source: Thomas et al. 2019, KPConv, section 3.4 and supplementary material; channel counts as in the authors' code
    (a strided block keeps its channels, the next one doubles them).
    """

    def __init__(self, config: KPConvConfig, in_channels: int, num_classes: int):
        super().__init__()
        self.config = config
        self.in_channels = in_channels
        width = config.width
        self.stem = self._convolution(in_channels + 1, width // 2, level=0, deformable=False)
        self.stem_norm = self._norm(width // 2)
        self.encoder = nn.ModuleList()
        channels, widths = width // 2, []
        for level in range(config.num_levels):
            widths.append(width << level)
            blocks = nn.ModuleList()
            if level > 0:
                blocks.append(self._bottleneck(channels, channels, level - 1, strided=True))
            for _ in range(config.blocks_per_level - 1):
                blocks.append(self._bottleneck(channels, widths[level], level, strided=False))
                channels = widths[level]
            self.encoder.append(blocks)
        # decoder[l] brings level l + 1 to level l.
        self.decoder = nn.ModuleList(
            UpsampleUnary(widths[level + 1], widths[level], widths[level], self._norm(widths[level]))
            for level in range(config.num_levels - 1)
        )
        self.head = nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_classes)

    def levels(self, batch: PointBatch) -> tuple[Level, ...]:
        """The pyramid of a batch, on the batch's device, without gradients.

        Raises:
            ValueError: coordinates of another dimension than the network's.
        """
        config = self.config
        if batch.coords.shape[1] != config.dim:
            raise ValueError(f"KPConvNet: coords must be (N, {config.dim}), got {tuple(batch.coords.shape)}")
        return build_pyramid(
            batch.coords,
            batch.offsets,
            voxel_size=config.voxel_size,
            num_levels=config.num_levels,
            radius=config.radii,
            max_neighbors=config.max_neighbors,
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
        return self.forward_with_penalties(batch, levels)[0]

    def forward_with_penalties(
        self,
        batch: PointBatch,
        levels: Sequence[Level],
    ) -> tuple[SegOutput, dict[str, Tensor]]:
        """As :meth:`forward`, with the loss terms that the network itself brings, by name.

        A rigid network has none. Deformable convolutions bring ``deform_fitting`` and ``deform_repulsion``, each summed
        over the convolutions; the authors' code adds 2 x fitting + 1 x repulsion to the loss.

        Source: Thomas et al. 2019, KPConv, equations 7 to 9.
        """
        if batch.feats.shape[1] != self.in_channels:
            raise ValueError(f"KPConvNet: feats must be (N, {self.in_channels}), got {tuple(batch.feats.shape)}")
        if len(levels) != len(self.encoder):
            raise ValueError(f"KPConvNet: {len(self.encoder)} levels expected, got {len(levels)}")
        penalties: list[Penalty] = []
        feats = self._encode(batch, levels, penalties)
        feats = activate(self.head(feats))
        output = SegOutput(self.classifier(feats), feats)
        if not penalties:
            return output, {}
        return output, {
            "deform_fitting": torch.stack([p.fitting for p in penalties]).sum(),
            "deform_repulsion": torch.stack([p.repulsion for p in penalties]).sum(),
        }

    def _encode(self, batch: PointBatch, levels: Sequence[Level], penalties: list[Penalty]) -> Tensor:  # (N, width)
        first = levels[0]
        feats = torch.cat([batch.feats.new_ones(batch.num_rows, 1), batch.feats], 1)
        feats = self.stem(first.coords, first.coords, first.neighbors, feats)
        feats = activate(self.stem_norm(feats))
        skips: list[Tensor] = []
        for index, (level, blocks) in enumerate(zip(levels, self.encoder, strict=True)):
            for number, block in enumerate(blocks):  # pyright: ignore[reportArgumentType]
                if index > 0 and number == 0:
                    finer = levels[index - 1]
                    feats, penalty = block(level.coords, finer.coords, finer.pool, feats)
                else:
                    feats, penalty = block(level.coords, level.coords, level.neighbors, feats)
                if penalty is not None:
                    penalties.append(penalty)
            skips.append(feats)
        for index in reversed(range(len(self.decoder))):
            feats = self.decoder[index](feats, skips[index], levels[index].upsample)
        return feats

    def _norm(self, channels: int) -> nn.Module:
        return make_norm(self.config.norm, channels, self.config.norm_momentum)

    def _bottleneck(self, in_channels: int, out_channels: int, level: int, *, strided: bool) -> Bottleneck:
        """A block whose neighbour lists hold rows of ``level``."""
        middle = out_channels // 4
        conv = self._convolution(middle, middle, level, level in self.config.deformable_levels)
        return Bottleneck(in_channels, out_channels, conv, self._norm, strided=strided)

    def _convolution(self, in_channels: int, out_channels: int, level: int, deformable: bool):
        config = self.config
        sigma = config.sigma * config.voxel_size * 2**level
        points, dim, layout = config.kernel_points, config.dim, config.kernel_layout
        if deformable:
            return DeformableKPConv(
                in_channels,
                out_channels,
                num_points=points,
                dim=dim,
                sigma=sigma,
                layout=layout,
                modulated=config.modulated,
            )
        return KPConv(in_channels, out_channels, num_points=points, dim=dim, sigma=sigma, layout=layout)
