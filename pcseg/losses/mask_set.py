"""A set of proposed masks against a set of true ones: matched one to one, then compared."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def match_masks(
    class_logits: Tensor,  # (Q, K + 1) float
    mask_logits: Tensor,  # (n, Q) float
    classes: Tensor,  # (G,) int64
    masks: Tensor,  # (n, G) float, 0 or 1
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
) -> tuple[Tensor, Tensor]:  # (M,) proposals, (M,) targets; M = min(Q, G)
    """The assignment of least total cost: ``-probability of the class``, cross entropy and Dice of the mask, weighted.

    Costs that are not finite count as very large. No gradient.

    Source: Cheng et al. 2022, Mask2Former, with all rows in place of sampled ones; the solver is SciPy's.
    """
    from scipy.optimize import linear_sum_assignment

    with torch.no_grad():
        cost = class_weight * -class_logits.softmax(1)[:, classes]
        cost = cost + mask_weight * _cross_entropies(mask_logits, masks)
        cost = cost + dice_weight * _dices(mask_logits, masks)
        proposals, targets = linear_sum_assignment(np.nan_to_num(cost.double().cpu().numpy(), nan=1e9, posinf=1e9))
    device = class_logits.device
    return torch.from_numpy(proposals).to(device), torch.from_numpy(targets).to(device)


def mask_set_loss(
    class_logits: Tensor,  # (Q, K + 1) float
    mask_logits: Tensor,  # (n, Q) float
    classes: Tensor,  # (G,) int64
    masks: Tensor,  # (n, G) float, 0 or 1
    *,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    nothing_weight: float = 0.1,
) -> Tensor:  # ()
    """Cross entropy of the classes, unmatched proposals being "nothing", and of the matched masks, and their Dice.

    Rows that carry no supervision are to be left out by the caller. Masks count only where they have rows: with n = 0
    or G = 0 only the classes are compared.

    Source: Cheng et al. 2022, Mask2Former, weights included.
    """
    target = torch.full(class_logits.shape[:1], class_logits.shape[1] - 1, device=class_logits.device)
    weight = torch.ones(class_logits.shape[1], device=class_logits.device)
    weight[-1] = nothing_weight
    if not len(classes) or not len(mask_logits):
        return class_weight * F.cross_entropy(class_logits, target, weight) + 0.0 * mask_logits.sum()
    weights = {"class_weight": class_weight, "mask_weight": mask_weight, "dice_weight": dice_weight}
    proposals, targets = match_masks(class_logits, mask_logits, classes, masks, **weights)
    target[proposals] = classes[targets]
    matched, wanted = mask_logits[:, proposals], masks[:, targets]
    cross = F.binary_cross_entropy_with_logits(matched, wanted)
    inside = matched.sigmoid()
    dice = (1 - (2 * (inside * wanted).sum(0) + 1) / (inside.sum(0) + wanted.sum(0) + 1)).mean()
    named = F.cross_entropy(class_logits, target, weight)
    return class_weight * named + mask_weight * cross + dice_weight * dice


def _cross_entropies(mask_logits: Tensor, masks: Tensor) -> Tensor:  # (Q, G) means over rows
    inside, outside = F.softplus(-mask_logits), F.softplus(mask_logits)
    return (inside.T @ masks + outside.T @ (1 - masks)) / len(mask_logits)


def _dices(mask_logits: Tensor, masks: Tensor) -> Tensor:  # (Q, G)
    inside = mask_logits.sigmoid()
    return 1 - (2 * inside.T @ masks + 1) / (inside.sum(0)[:, None] + masks.sum(0) + 1)
