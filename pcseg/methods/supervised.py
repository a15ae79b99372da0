"""Plain supervision: the labelled rows and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pcseg import losses
from pcseg.batch import PointBatch
from pcseg.config import LossConfig
from pcseg.pyramid import Level


class Supervised(nn.Module):
    """A network and the losses on its labelled rows.

    Args:
        model: ``model(batch, levels) -> SegOutput``, with ``model.levels(batch)``.
        loss: weights and settings of the terms.
        class_weights: (K,) float, of cross entropy and focal loss; None: all alike.
    """

    class_weights: Tensor | None

    def __init__(self, model: nn.Module, loss: LossConfig, class_weights: Tensor | None = None):
        super().__init__()
        self.model = model
        self.loss = loss
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        streams: Mapping[str, PointBatch],  # "labelled"
        levels: Mapping[str, Sequence[Level]] | None = None,  # of each stream, where they are built already
    ) -> dict[str, Tensor]:
        """The weighted loss terms by name, each (); their sum is the loss.

        Raises:
            ValueError: a labelled stream without labels.
        """
        batch = streams["labelled"]
        if batch.labels is None:
            raise ValueError("Supervised: the stream 'labelled' has no labels")
        built = self.model.levels(batch) if levels is None else levels["labelled"]  # pyright: ignore[reportCallIssue]
        output, penalties = self.model.forward_with_penalties(batch, built)  # pyright: ignore[reportCallIssue]
        logits, labels, loss = output.logits.float(), batch.labels, self.loss
        terms: dict[str, Tensor] = {}
        if loss.cross_entropy:
            terms["cross_entropy"] = loss.cross_entropy * losses.cross_entropy(
                logits, labels, class_weights=self.class_weights, label_smoothing=loss.label_smoothing
            )
        if loss.focal:
            terms["focal"] = loss.focal * losses.focal(
                logits, labels, gamma=loss.gamma, class_weights=self.class_weights
            )
        if loss.lovasz:
            terms["lovasz"] = loss.lovasz * losses.lovasz_softmax(logits, labels)
        if loss.dice:
            terms["dice"] = loss.dice * losses.dice(logits, labels)
        for name, penalty in penalties.items():
            if weight := getattr(loss, name):
                terms[name] = weight * penalty
        return terms


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
