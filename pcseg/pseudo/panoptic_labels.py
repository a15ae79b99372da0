"""From nearness to targets and class probabilities to a pseudo-label a row: a target, or nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.ops import GridEdges
from pcseg.pseudo.soft_labels import potts_on_edges, solve_soft_labels
from pcseg.pseudo.targets import Targets

AssignedBy = Literal["classes", "distance"]


@torch.no_grad()
def panoptic_labels(
    nearness: Tensor,  # (n, G) float, 1 - distance to each target
    probs: Tensor,  # (n, K) float, class probabilities
    targets: Targets,
    *,
    min_confidence: float = 0.5,
    presence: bool = True,
    by: AssignedBy = "classes",
    ties: GridEdges | None = None,
    smoothing: float = 0.0,
) -> Tensor:  # (n,) int64, index of a target or IGNORE
    """Rows whose most likely class is stuff go to it, the others to the thing with the largest nearness times
    probability of its class. Labelled rows keep their target, whatever else is said.

    A row is nothing's where no class reaches ``min_confidence``, and where its class has no target.

    Args:
        by: "distance" gives a row to the nearest of all targets, stuff among them, and asks no class: the way to
            compare distances where a network knows little of the classes.
        presence: only classes with a target are possible, and their probabilities are scaled to sum to 1: right where
            every thing and every stuff region of a cloud has a labelled row.
        ties: pairs that are held to have one target, weight 1, or not, 0; only looked at with ``smoothing``.
        smoothing: lambda of a quadratic Potts term on the tied pairs. Above 0 the probabilities of the targets become
            soft labels (:func:`pcseg.pseudo.soft_labels.solve_soft_labels`) before each row goes to its likeliest:
            borders move to where ties end.

    Source: PSPS (Fan et al. 2022), step 3 and 4, and methods of its line. Smoothing: ours.
    """
    if not len(targets):
        return torch.full_like(targets.of_row, IGNORE)
    if not smoothing:
        ties = None
    if by == "distance":
        of_target = nearness if ties is None else _smoothed(nearness, targets, ties, smoothing)
        return torch.where(targets.of_row != IGNORE, targets.of_row, of_target.argmax(1))
    there = torch.zeros(probs.shape[1], dtype=torch.bool, device=probs.device)
    there[targets.classes] = True
    if presence:
        probs = torch.where(there, probs, 0.0)
        probs = probs / probs.sum(1, keepdim=True).clamp(min=1e-12)
    confidence, likeliest = probs.max(1)
    if ties is None:
        result = _likeliest(nearness, probs, targets, likeliest)
    else:
        result = _smoothed(target_probs(nearness, probs, targets), targets, ties, smoothing).argmax(1)
    result[(confidence < min_confidence) | ~there[likeliest]] = IGNORE
    return torch.where(targets.of_row != IGNORE, targets.of_row, result)


def target_probs(
    nearness: Tensor,  # (n, G) float
    probs: Tensor,  # (n, K) float, class probabilities
    targets: Targets,
) -> Tensor:  # (n, G)
    """Stuff has its class' probability; things share that of their classes by nearness times probability of class."""
    things = targets.is_thing
    found = probs[:, targets.classes]
    wanted = nearness[:, things] * found[:, things]
    share = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-12)
    found[:, things] = share * probs[:, targets.classes[things].unique()].sum(1, keepdim=True)
    return found


def _smoothed(of_target: Tensor, targets: Targets, ties: GridEdges, weight: float) -> Tensor:  # (n, G) logarithms
    log_probs = torch.log(of_target / of_target.sum(1, keepdim=True).clamp(min=1e-12))
    # Few long steps end where they began to freeze: the descent's short ones let a border walk.
    return solve_soft_labels(log_probs, targets.of_row, potts_on_edges(ties, "q"), pairwise_weight=weight).log_targets


def _likeliest(nearness: Tensor, probs: Tensor, targets: Targets, likeliest: Tensor) -> Tensor:  # (n,)
    """The stuff of the most likely class, or the thing that is nearest and of a likely class."""
    things = torch.nonzero(targets.is_thing)[:, 0]
    result = torch.full_like(targets.of_row, IGNORE)
    if len(things):
        scores = nearness[:, things] * probs[:, targets.classes[things]]
        result = things[scores.argmax(1)]
    for number in torch.nonzero(~targets.is_thing)[:, 0].tolist():
        result[likeliest == targets.classes[number]] = number
    return result
