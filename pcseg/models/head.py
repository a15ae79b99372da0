"""A head alone: every row by its own features, which another network has computed once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.config import HeadConfig
from pcseg.models.heads import SegOutput
from pcseg.pyramid import Level


class HeadNet(nn.Module):
    """A linear layer, or a perceptron, on each row's features; coordinates are not read.

    Args:
        in_channels: C features a row, such as those that ``python -m pcseg.features`` stores.
        num_classes: K.
    """

    def __init__(self, config: HeadConfig, in_channels: int, num_classes: int):
        super().__init__()
        self.in_channels = in_channels
        widths = (in_channels, *config.hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.hidden = nn.Sequential(*layers, nn.Dropout(config.dropout))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def levels(self, batch: PointBatch) -> tuple[Level, ...]:
        """Nothing but the rows is needed."""
        return ()

    def forward(self, batch: PointBatch, levels: Sequence[Level] = ()) -> SegOutput:
        """Logits of every row, and what the last layer read.

        Raises:
            ValueError: another number of features.
        """
        if batch.feats.shape[1] != self.in_channels:
            raise ValueError(f"HeadNet: feats must be (N, {self.in_channels}), got {tuple(batch.feats.shape)}")
        feats = self.hidden(batch.feats)
        return SegOutput(self.classifier(feats), feats)

    def forward_with_penalties(
        self, batch: PointBatch, levels: Sequence[Level] = ()
    ) -> tuple[SegOutput, dict[str, Tensor]]:
        return self(batch, levels), {}
