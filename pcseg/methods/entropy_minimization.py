"""Entropy minimisation: predictions on unlabelled rows are pushed to be decided."""

from __future__ import annotations

from torch import Tensor, nn

from pcseg import losses
from pcseg.batch import IGNORE
from pcseg.config import EntropyMinimizationConfig
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.streams import StreamLevels, Streams, ramp


class EntropyMinimization(nn.Module):
    """Partial cross-entropy plus the mean entropy of the unlabelled rows.

    Source: Grandvalet and Bengio 2004, Semi-supervised learning by entropy minimization.
    """

    def __init__(self, model: nn.Module, labelled: LabelledLoss, config: EntropyMinimizationConfig):
        super().__init__()
        self.model, self.labelled, self.config = model, labelled, config

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ()."""
        batch, config = streams["labelled"], self.config
        output, terms = self.labelled.step(self.model, streams, levels)
        unlabelled = batch.labels == IGNORE
        mean = losses.masked_mean(losses.entropy(output.logits.float()), unlabelled)
        terms["entropy"] = config.weight * ramp(progress, config.warmup) * mean
        return terms
