"""IPixMatch: what confident rows are to each other, handed from the weak view to the strong one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pcseg import losses
from pcseg.config import IPixMatchConfig
from pcseg.methods.consistency import Consistency
from pcseg.methods.streams import StreamLevels, Streams, ramp


class IPixMatch(nn.Module):
    """A host (FixMatch, UniMatch, mean teacher) plus ``relation_weight`` times the relation loss on its view pairs.

    Relations are those between rows that the teacher is sure of, as the host's threshold says, on soft predictions.
    With the scope "sample" they are those within a view; one that was mixed from two clouds is one view.

    Args:
        host: its network is this method's.

    Source: Wu et al., IPixMatch, IJCNN 2024; see :func:`pcseg.losses.relation` for what is a reading of ours.
    """

    def __init__(self, host: Consistency, config: IPixMatchConfig):
        super().__init__()
        self.host, self.config = host, config

    @property
    def model(self) -> nn.Module:
        return self.host.model

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ()."""
        config, host = self.config, self.host
        _, terms = host.labelled.step(host.model, streams, levels)
        pairs = host.pairs(streams, levels)
        terms["consistency"] = host.unlabelled(pairs, progress)
        related = [
            pair.weight
            * losses.relation(
                pair.teacher_logits,
                pair.student_logits,
                host.confident(pair),
                offsets=pair.offsets if config.scope == "sample" else None,
                kind=config.relation,
                on=config.relation_on,
                temperature=config.temperature,
            )
            for pair in pairs
        ]
        terms["relation"] = config.relation_weight * ramp(progress, config.warmup) * torch.stack(related).sum()
        return terms
