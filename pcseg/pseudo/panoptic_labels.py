"""From nearness to targets and class probabilities to a pseudo-label a row: a target, or nothing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pcseg.batch import IGNORE
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
) -> Tensor:  # (n,) int64, index of a target or IGNORE
    """Rows whose most likely class is stuff go to it, the others to the thing with the largest nearness times
    probability of its class. Labelled rows keep their target, whatever else is said.

    A row is nothing's where no class reaches ``min_confidence``, and where its class has no target.

    Args:
        by: "distance" gives a row to the nearest of all targets, stuff among them, and asks no class: the way to
            compare distances where a network knows little of the classes.
        presence: only classes with a target are possible, and their probabilities are scaled to sum to 1: right where
            every thing and every stuff region of a cloud has a labelled row.

    Source: PSPS (Fan et al. 2022), step 3 and 4, and methods of its line.
    """
    if not len(targets):
        return torch.full_like(targets.of_row, IGNORE)
    if by == "distance":
        return torch.where(targets.of_row != IGNORE, targets.of_row, nearness.argmax(1))
    if presence:
        there = torch.zeros(probs.shape[1], dtype=torch.bool, device=probs.device)
        there[targets.classes] = True
        probs = torch.where(there, probs, 0.0)
        probs = probs / probs.sum(1, keepdim=True).clamp(min=1e-12)
    confidence, likeliest = probs.max(1)
    things = torch.nonzero(targets.is_thing)[:, 0]
    result = torch.full_like(targets.of_row, IGNORE)
    thing_classes = torch.zeros(probs.shape[1], dtype=torch.bool, device=probs.device)
    thing_classes[targets.classes[things]] = True
    if len(things):
        scores = nearness[:, things] * probs[:, targets.classes[things]]
        result = torch.where(thing_classes[likeliest], things[scores.argmax(1)], result)
    for number in torch.nonzero(~targets.is_thing)[:, 0].tolist():
        result[likeliest == targets.classes[number]] = number
    result[confidence < min_confidence] = IGNORE
    return torch.where(targets.of_row != IGNORE, targets.of_row, result)
