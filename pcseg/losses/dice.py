"""Soft Dice loss on labelled rows."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.losses.labelled import check_labelled


def dice(
    logits: Tensor,  # (N, K) float
    labels: Tensor,  # (N,) int64 in [0, K) or IGNORE
    *,
    smooth: float = 1.0,
) -> Tensor:  # ()
    """Mean over the classes present in the labels of 1 - (2 sum(p g) + s) / (sum(p) + sum(g) + s), on labelled rows.

    p is the softmax probability of the class, g 1 on its rows and 0 elsewhere. Nothing labelled gives 0, connected to
    the graph.

    Args:
        smooth: s >= 0, keeps the loss of tiny classes calm.

    Raises:
        ValueError, TypeError: a negative ``smooth``, shapes, dtypes, a label out of range.

    Source: Milletari et al. 2016, V-Net, section 3, with plain sums instead of sums of squares in the denominator.
    """
    if smooth < 0:
        raise ValueError(f"dice: smooth must be at least 0, got {smooth}")
    check_labelled("dice", logits, labels)
    rows = torch.nonzero(labels != IGNORE)[:, 0]
    if rows.numel() == 0:
        return 0.0 * logits.sum()
    labels = labels[rows]
    present = torch.unique(labels)
    probs = torch.softmax(logits[rows], 1)[:, present]  # (n, P)
    truth = (labels[:, None] == present).to(probs.dtype)
    overlap = 2.0 * (probs * truth).sum(0) + smooth
    return (1.0 - overlap / (probs.sum(0) + truth.sum(0) + smooth)).mean()
