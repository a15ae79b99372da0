"""Panoptic supervision: the network's classes, and its panoptic branch against the labelled rows' own targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcseg import losses
from pcseg.config import PanopticConfig
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.streams import StreamLevels, Streams
from pcseg.models.heads import PanopticOutput
from pcseg.pseudo.targets import Targets, targets_of


class Panoptic(nn.Module):
    """The losses on labelled rows, and the set loss of the panoptic branch on them: the upper bound of few labels.

    Args:
        model: with the branch as ``model.panoptic``.
        is_thing: (K,).
    """

    def __init__(self, model: nn.Module, labelled: LabelledLoss, config: PanopticConfig, is_thing: Sequence[bool]):
        super().__init__()
        self.model, self.labelled, self.config, self.is_thing = model, labelled, config, tuple(is_thing)

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ().

        Raises:
            ValueError: a stream without labels or instances.
        """
        batch = streams["labelled"]
        output, terms = self.labelled.step(self.model, streams, levels)
        proposed = self.model.panoptic(batch, output)  # pyright: ignore[reportCallIssue]
        terms["masks"] = panoptic_loss(proposed, batch.offsets, targets_of(batch, self.is_thing), self.config)
        return terms


def panoptic_loss(
    output: PanopticOutput,
    offsets: Tensor,  # (B + 1,) int64
    targets: list[Targets],  # B
    config: PanopticConfig,
) -> Tensor:  # ()
    """Mean of :func:`pcseg.losses.mask_set_loss` over the decoder's layers and the clouds, on rows with a target."""
    terms = []
    bounds = offsets.tolist()
    kept = [torch.nonzero(wanted.of_row >= 0)[:, 0] for wanted in targets]
    for layer in output.layers:
        for number, wanted in enumerate(targets):
            terms.append(
                losses.mask_set_loss(
                    layer.class_logits[number].float(),
                    layer.mask_logits[bounds[number] : bounds[number + 1]][kept[number]].float(),
                    wanted.classes,
                    wanted.masks[kept[number]],
                    class_weight=config.class_weight,
                    mask_weight=config.mask_weight,
                    dice_weight=config.dice_weight,
                    nothing_weight=config.nothing_weight,
                )
            )
    return torch.stack(terms).mean()
