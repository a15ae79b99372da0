"""Plain supervision: the labelled rows and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.streams import StreamLevels, Streams


class Supervised(nn.Module):
    """A network and the losses on its labelled rows: partial cross-entropy, where only some are labelled.

    Args:
        model: ``model(batch, levels) -> SegOutput``, with ``model.levels(batch)``.
        labelled: the loss on labelled rows.
    """

    def __init__(self, model: nn.Module, labelled: LabelledLoss):
        super().__init__()
        self.model, self.labelled = model, labelled

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each (); their sum is the loss.

        Args:
            streams: "labelled".
            progress: share of the run that is done; nothing here depends on it.

        Raises:
            ValueError: a labelled stream without labels.
        """
        return self.labelled.step(self.model, streams, levels)[1]


def frequency_weights(
    histogram: Sequence[int],  # K counts of labelled rows
    power: float,
) -> Tensor:  # (K,) float32, mean 1 over the classes that occur
    """Weights that fall with a class's frequency to the given power (1: inverse, 0.5: inverse square root).

    A class that does not occur gets the weight 1.
    """
    counts = torch.as_tensor(histogram, dtype=torch.float64)
    present = counts > 0
    weights = torch.where(present, counts.clamp(min=1) ** -power, 0.0)
    weights = weights * present.sum() / weights.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(present, weights, 1.0).float()
