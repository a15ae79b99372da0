"""Focal loss on labelled rows."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.losses.labelled import check_class_weights, check_labelled, row_weights, weighted_mean


def focal(
    logits: Tensor,  # (N, K) float
    labels: Tensor,  # (N,) int64 in [0, K) or IGNORE
    *,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,  # (K,) float
) -> Tensor:  # ()
    """Mean of (1 - p)^gamma * -log p over the labelled rows, p = softmax(logits)[label]; gamma 0 is cross entropy.

    Nothing labelled gives 0, connected to the graph.

    Args:
        gamma: at least 0; how strongly rows that are already right are played down.
        class_weights: non-negative weight of each class (the paper's alpha); the mean is weighted as in
            :func:`pcseg.losses.cross_entropy`.

    Raises:
        ValueError, TypeError: a negative gamma, shapes, dtypes, a label out of range.

    Source: Lin et al. 2017, Focal loss, equation 5, with a softmax instead of a sigmoid, and the mean over rows instead
    of over matched anchors.
    """
    if gamma < 0:
        raise ValueError(f"focal: gamma must be at least 0, got {gamma}")
    check_labelled("focal", logits, labels)
    check_class_weights("focal", logits, class_weights)
    log_prob = torch.log_softmax(logits, 1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    # Away from 0: below gamma = 1 the power has an infinite slope there.
    miss = (-torch.expm1(log_prob)).clamp(min=torch.finfo(logits.dtype).tiny ** 0.5)
    return weighted_mean(miss**gamma * -log_prob, row_weights(labels, class_weights, logits))
