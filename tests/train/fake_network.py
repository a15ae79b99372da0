"""A network whose answers a test chooses, and small batches for it: loss terms can then be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.models.heads import SegOutput


class FakeNetwork(nn.Module):
    """Says of each stream, whose levels are its name, the logits that it was given; features are parameters too.

    Args:
        logits: (N, K) of each stream.
        feats: (N, C) of each stream.
        penalties: of the network itself, on the labelled stream.
    """

    def __init__(
        self,
        logits: Mapping[str, Tensor],
        feats: Mapping[str, Tensor] | None = None,
        penalties: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.logits = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in logits.items()})
        given = feats or {name: value[:, :1] for name, value in logits.items()}
        self.seen = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in given.items()})
        first = next(iter(self.logits.values()))
        self.classifier = nn.Linear(next(iter(self.seen.values())).shape[1], first.shape[1])
        self.penalties = dict(penalties or {})
        self.modes: list[tuple[str, bool]] = []
        """Streams that were looked at, and whether in training mode."""

    def forward(self, batch: PointBatch, levels: str) -> SegOutput:
        self.modes.append((levels, self.training))
        assert batch.num_rows == len(self.logits[levels])
        return SegOutput(self.logits[levels], self.seen[levels])

    def forward_with_penalties(self, batch: PointBatch, levels: str) -> tuple[SegOutput, dict[str, Tensor]]:
        return self(batch, levels), {name: torch.tensor(value) for name, value in self.penalties.items()}


def batch_of(
    labels: list[int] | None,
    *,
    lengths: list[int] | None = None,
    coords: Tensor | None = None,
    feats: Tensor | None = None,
    rows: list[int] | None = None,
) -> PointBatch:
    """Rows with these labels, or without any."""
    count = len(labels) if labels is not None else len(rows) if rows is not None else sum(lengths or [])
    return PointBatch(
        coords=torch.zeros(count, 3) if coords is None else coords,
        feats=torch.ones(count, 1) if feats is None else feats,
        offsets=offsets_of(lengths or [count]),
        labels=None if labels is None else torch.tensor(labels),
        rows=None if rows is None else torch.tensor(rows),
    )


def levels_of(streams: Mapping[str, PointBatch]) -> dict:
    """What stands for the levels of a fake network: the name of the stream."""
    return {name: name for name in streams}


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Mean of ``ln sum exp z - z_y`` over the labelled rows."""
    labelled = labels != IGNORE
    z, y = logits.detach().double()[labelled], labels[labelled]
    return float((z.exp().sum(1).log() - z[torch.arange(len(z)), y]).mean())
