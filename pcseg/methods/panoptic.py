"""Panoptic supervision: the network's classes, and its panoptic branch against the labelled rows' own targets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcseg import losses
from pcseg.batch import IGNORE
from pcseg.config import Mask2FormerConfig, PanopticConfig
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
    """Mean of :func:`pcseg.losses.mask_set_loss`, or of :func:`pcseg.losses.seeded_mask_loss` as the config asks, over
    the decoder's layers and the clouds, on rows with a target; or :func:`pcseg.losses.mask2former.mask2former_loss`."""
    if isinstance(config, Mask2FormerConfig):
        return _loss_on_maps(output, targets, config)
    weights = {
        "class_weight": config.class_weight,
        "mask_weight": config.mask_weight,
        "dice_weight": config.dice_weight,
    }
    terms = []
    for number, ((start, end), wanted) in enumerate(zip(itertools.pairwise(offsets.tolist()), targets, strict=True)):
        kept = torch.nonzero(wanted.of_row != IGNORE)[:, 0]
        masks = wanted.masks[kept]
        for layer in output.layers:
            given = (layer.class_logits[number].float(), layer.mask_logits[start:end][kept].float())
            if config.matching == "seed":
                assert output.seeds is not None  # the config refuses learned queries
                seeds = _targets_of(output.seeds[number] - start, wanted)
                terms.append(losses.seeded_mask_loss(*given, wanted.classes, masks, seeds, **weights))
            else:
                nothing = config.nothing_weight
                terms.append(losses.mask_set_loss(*given, wanted.classes, masks, nothing_weight=nothing, **weights))
    return torch.stack(terms).mean()


def _loss_on_maps(output: PanopticOutput, targets: list[Targets], config: Mask2FormerConfig) -> Tensor:
    """The loss of Mask2Former, whose masks are compared before they are brought to the pixels."""
    from pcseg.losses.mask2former import mask2former_loss, mean_num_masks  # imports transformers

    # Before anything that depends on the data: every process must come here.
    num_masks = mean_num_masks(sum(len(each) for each in targets), output.layers[0].class_logits.device)
    if not output.maps:  # no image has a pixel
        return sum((layer.class_logits.sum() * 0.0 for layer in output.layers), torch.zeros(()))
    groups = [[targets[image] for image in group.images] for group in output.maps]
    masks, void = [], []
    for group, wanted in zip(output.maps, groups, strict=True):
        masks.append([each.masks.T.unflatten(1, group.size) for each in wanted])
        void.append(torch.stack([(each.of_row == IGNORE).view(group.size) for each in wanted]))
    classes = [[each.classes for each in wanted] for wanted in groups]
    return mask2former_loss(output.maps, classes, masks, void, config, num_masks=num_masks)


def _targets_of(rows: Tensor, targets: Targets) -> Tensor:  # (Q,) -> (Q,)
    """The target of each row of a cloud; none for a negative one."""
    if not len(targets.of_row):
        return torch.full_like(rows, IGNORE)
    return torch.where(rows >= 0, targets.of_row[rows.clamp(min=0)], IGNORE)
