"""The loss on the rows that carry a label: the part that all methods share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pcseg import losses
from pcseg.config import LossConfig
from pcseg.methods.streams import StreamLevels, Streams
from pcseg.models.heads import SegOutput

TERMS = ("cross_entropy", "focal", "lovasz", "dice")
"""Those of the labelled rows; a network's own penalties go by other names."""


class LabelledLoss(nn.Module):
    """The terms that a config names, on labelled rows.

    Args:
        config: weights and settings of the terms.
        class_weights: (K,) float, of cross entropy and focal loss; None: all alike.
    """

    class_weights: Tensor | None

    def __init__(self, config: LossConfig, class_weights: Tensor | None = None):
        super().__init__()
        self.config = config
        self.register_buffer("class_weights", class_weights, persistent=False)

    def step(self, model: nn.Module, streams: Streams, levels: StreamLevels) -> tuple[SegOutput, dict[str, Tensor]]:
        """What a network makes of the stream "labelled", and the terms on its labelled rows: how every method begins.

        Raises:
            ValueError: a stream without labels.
        """
        batch = streams["labelled"]
        output, penalties = model.forward_with_penalties(batch, levels["labelled"])  # pyright: ignore
        return output, self(output.logits, batch.labels, penalties)

    def forward(
        self,
        logits: Tensor,  # (N, K) float
        labels: Tensor | None,  # (N,) int64 in [0, K) or IGNORE
        penalties: Mapping[str, Tensor],  # () each, of the network
    ) -> dict[str, Tensor]:
        """The weighted terms by name, each (); their sum is the loss. Nothing labelled gives 0, connected to the graph.

        Raises:
            ValueError: no labels.
        """
        if labels is None:
            raise ValueError("LabelledLoss: the stream 'labelled' has no labels")
        logits, config = logits.float(), self.config
        terms: dict[str, Tensor] = {}
        if config.cross_entropy:
            terms["cross_entropy"] = config.cross_entropy * losses.cross_entropy(
                logits, labels, class_weights=self.class_weights, label_smoothing=config.label_smoothing
            )
        if config.focal:
            terms["focal"] = config.focal * losses.focal(
                logits, labels, gamma=config.gamma, class_weights=self.class_weights
            )
        if config.lovasz:
            terms["lovasz"] = config.lovasz * losses.lovasz_softmax(logits, labels)
        if config.dice:
            terms["dice"] = config.dice * losses.dice(logits, labels)
        for name, penalty in penalties.items():
            if weight := getattr(config, name):
                terms[name] = weight * penalty
        return terms
