"""Pseudo-labels with a threshold: the network's confident predictions teach it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pcseg import losses
from pcseg.batch import IGNORE
from pcseg.config import PseudoLabelConfig
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.streams import StreamLevels, Streams, ramp


class PseudoLabel(nn.Module):
    """Partial cross-entropy plus the cross entropy of unlabelled rows with their most likely class.

    Rows whose most likely class is less likely than the threshold count as 0: the sum over the confident rows is
    divided by the number of all unlabelled ones.

    Source: Lee 2013, Pseudo-label; the threshold and the denominator as in FixMatch (Sohn et al. 2020).
    """

    def __init__(self, model: nn.Module, labelled: LabelledLoss, config: PseudoLabelConfig):
        super().__init__()
        self.model, self.labelled, self.config = model, labelled, config

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ()."""
        batch, config = streams["labelled"], self.config
        output, terms = self.labelled.step(self.model, streams, levels)
        logits = output.logits.float()
        confidence, pseudo_labels = logits.detach().softmax(1).max(1)
        unlabelled = batch.labels == IGNORE
        learnt = unlabelled & (confidence >= config.threshold)
        cost = F.cross_entropy(logits, pseudo_labels, reduction="none")
        mean = losses.masked_mean(cost, learnt, unlabelled.sum())
        terms["pseudo_label"] = config.weight * ramp(progress, config.warmup) * mean
        return terms
