"""A set of proposed masks against a set of true ones: matched one to one, then compared."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.batch import IGNORE


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


def seeded_mask_loss(
    class_logits: Tensor,  # (Q, K + 1) float
    mask_logits: Tensor,  # (n, Q) float
    classes: Tensor,  # (G,) int64
    masks: Tensor,  # (n, G) float, 0 or 1
    seeds: Tensor,  # (Q,) int64 in [0, G), the target of each proposal, or IGNORE
    *,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
) -> Tensor:  # ()
    """Cross entropy of the classes, of the masks, and Dice, each proposal against the target that it began in.

    Many proposals may learn one target; those that began in none learn nothing. Nothing to learn gives 0, connected to
    the graph. "Nothing" is never a proposal's class.

    Source: ours; the terms are those of :func:`mask_set_loss`. A set of a few dozen scenes is too small to learn which
    of several queries is to answer for a thing.
    """
    chosen = torch.nonzero(seeds != IGNORE)[:, 0]
    if not len(chosen) or not len(mask_logits):
        return 0.0 * (class_logits.sum() + mask_logits.sum())
    wanted = seeds[chosen]
    own, truth = mask_logits[:, chosen], masks[:, wanted]
    named = F.cross_entropy(class_logits[chosen], classes[wanted])
    return class_weight * named + _mask_terms(own, truth, mask_weight, dice_weight)


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
    named = F.cross_entropy(class_logits, target, weight)
    return class_weight * named + _mask_terms(mask_logits[:, proposals], masks[:, targets], mask_weight, dice_weight)


def _mask_terms(logits: Tensor, masks: Tensor, mask_weight: float, dice_weight: float) -> Tensor:  # (n, M) each
    cross = F.binary_cross_entropy_with_logits(logits, masks)
    inside = logits.sigmoid()
    dice = (1 - (2 * (inside * masks).sum(0) + 1) / (inside.sum(0) + masks.sum(0) + 1)).mean()
    return mask_weight * cross + dice_weight * dice


def _cross_entropies(mask_logits: Tensor, masks: Tensor) -> Tensor:  # (Q, G) means over rows
    inside, outside = F.softplus(-mask_logits), F.softplus(mask_logits)
    return (inside.T @ masks + outside.T @ (1 - masks)) / len(mask_logits)


def _dices(mask_logits: Tensor, masks: Tensor) -> Tensor:  # (Q, G)
    inside = mask_logits.sigmoid()
    return 1 - (2 * inside.T @ masks + 1) / (inside.sum(0)[:, None] + masks.sum(0) + 1)
