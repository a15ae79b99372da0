"""The set loss of ``transformers``' Mask2Former, on masks that are maps, with pixels that teach nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from pcseg.config import Mask2FormerConfig
from pcseg.models.heads import MaskMaps
from pcseg.models.mask2former import settings_of
from pcseg.processes import num_processes, summed

_OUTSIDE = -10.0  # a logit that costs nothing where the truth is "outside": softplus(-10) is 5e-5


def mask2former_loss(
    maps: Sequence[MaskMaps],
    classes: Sequence[Sequence[Tensor]],  # of each group and image: (G,) int64
    masks: Sequence[Sequence[Tensor]],  # of each group and image: (G, H, W) float, 0 or 1
    void: Sequence[Tensor],  # of each group: (b, H, W) bool, pixels without supervision
    config: Mask2FormerConfig,
    *,
    num_masks: float | None = None,
) -> Tensor:  # ()
    """Sum over the layers of cross entropy of the classes, and of cross entropy and Dice of the matched masks.

    Where more than half of a map's cell is void, its logits are replaced by "outside" and no mask is there, in
    matching and in learning alike: nothing is learnt there. What the map has beyond the image counts as void. Groups of
    images count by their numbers of images (classes) and of masks (masks), so that one group is Mask2Former's own loss
    on it.

    Args:
        num_masks: what the sums over masks are divided by, at least 1; None: the number of masks here. Of several
            processes it is the mean over them (:func:`mean_num_masks`).

    Source: Cheng et al. 2022, Mask2Former; matching, sampling of points and terms are those of ``transformers``.
    """
    count = sum(len(group.images) for group in maps)
    total = sum(len(named) for group in classes for named in group) if num_masks is None else num_masks
    terms = []
    for group, named, truth, unknown in zip(maps, classes, masks, void, strict=True):
        criterion = _Criterion(config, group.class_logits[0].shape[2] - 1, total).to(unknown.device)
        height, width = group.mask_logits[0].shape[2:]
        below, right = height * group.stride - group.size[0], width * group.stride - group.size[1]
        padded = [F.pad(values, (0, right, 0, below)) for values in truth]
        free = F.pad(unknown.float(), (0, right, 0, below), value=1.0)
        outside = F.avg_pool2d(free[:, None], group.stride) > 0.5  # (b, 1, h, w)
        share = len(group.images) / count
        layers = list(zip(group.class_logits, group.mask_logits, strict=True))
        for class_logits, mask_logits in (layers[-1], *layers[:-1]):  # the same seed draws the points that theirs draws
            seen = torch.where(outside, _OUTSIDE, mask_logits.float())
            found = criterion(seen, class_logits.float(), padded, list(named))
            terms.append(config.class_weight * share * found["loss_cross_entropy"])
            terms.append(config.mask_weight * found["loss_mask"] + config.dice_weight * found["loss_dice"])
    return torch.stack(terms).sum()


def mean_num_masks(count: int, device: torch.device) -> float:
    """The mean number of masks over the processes; each must ask, once a step, with its own number (0 as well).

    The mean of the processes' gradients is then that of all masks alike, wherever they are.
    """
    if num_processes() == 1:
        return float(count)
    return float(summed(torch.tensor(float(count), device=device))) / num_processes()


class _Criterion(Mask2FormerLoss):
    """The loss with the number of masks given: theirs is counted over processes once a group of images, and processes
    that differ in their number of groups would wait for each other for ever."""

    def __init__(self, config: Mask2FormerConfig, num_classes: int, count: float):
        super().__init__(settings_of(config, num_classes), weight_dict={})
        self.count = max(count, 1.0)

    def get_num_masks(self, class_labels: list[Tensor], device: torch.device) -> Tensor:  # pyright: ignore
        return torch.tensor(self.count, device=device)
