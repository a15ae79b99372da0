"""Cross entropy on labelled rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.losses.labelled import check_class_weights, check_labelled, row_weights


def cross_entropy(
    logits: Tensor,  # (N, K) float
    labels: Tensor,  # (N,) int64 in [0, K) or IGNORE
    *,
    class_weights: Tensor | None = None,  # (K,) float
    label_smoothing: float = 0.0,
) -> Tensor:  # ()
    """Mean of -log softmax(logits)[label] over the labelled rows.

    Nothing labelled gives 0, connected to the graph. With class weights the mean is weighted: the sum of
    weight[label] * loss over the sum of weight[label].

    Args:
        class_weights: non-negative weight of each class; None: all 1.
        label_smoothing: share in [0, 1) of the target spread evenly over all classes (Szegedy et al. 2016). As in
            ``torch.nn.functional.cross_entropy`` the spread part of class c also has weight[c].

    Raises:
        ValueError, TypeError: shapes, dtypes, a label out of range.
    """
    check_labelled("cross_entropy", logits, labels)
    check_class_weights("cross_entropy", logits, class_weights)
    weights = None if class_weights is None else class_weights.to(logits)
    total = F.cross_entropy(
        logits, labels, weight=weights, ignore_index=IGNORE, reduction="sum", label_smoothing=label_smoothing
    )
    mass = row_weights(labels, class_weights, logits).sum()
    return total / torch.where(mass > 0, mass, 1.0)
