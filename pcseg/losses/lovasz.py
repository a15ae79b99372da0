"""Lovasz-softmax: a surrogate of the mean Jaccard index."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.losses.labelled import check_labelled


def lovasz_softmax(
    logits: Tensor,  # (N, K) float
    labels: Tensor,  # (N,) int64 in [0, K) or IGNORE
) -> Tensor:  # ()
    """Mean over the classes present in the labels of the Lovasz extension of the Jaccard loss, on labelled rows.

    Equals 1 - mean IoU where the probabilities are 0 or 1. All rows of the batch count as one image. Nothing labelled
    gives 0, connected to the graph.

    Raises:
        ValueError, TypeError: shapes, dtypes, a label out of range.

    Source: Berman et al. 2018, The Lovasz-Softmax loss, equations 8, 9 and 11, algorithm 1.
    """
    check_labelled("lovasz_softmax", logits, labels)
    rows = torch.nonzero(labels != IGNORE)[:, 0]
    if rows.numel() == 0:
        return 0.0 * logits.sum()
    labels = labels[rows]
    present = torch.unique(labels)
    probs = torch.softmax(logits[rows], 1)[:, present]  # (n, P)
    truth = (labels[:, None] == present).to(probs.dtype)
    errors, order = (truth - probs).abs().sort(0, descending=True)
    return (errors * _jaccard_gradient(truth.gather(0, order))).sum(0).mean()


def _jaccard_gradient(
    truth: Tensor,  # (n, P) 0 or 1, each column in the order of falling errors and not all 0
) -> Tensor:  # (n, P)
    """Growth of the Jaccard loss of each class as row after row is counted as wrong."""
    positives = truth.sum(0)
    intersection = positives - truth.cumsum(0)
    union = positives + (1.0 - truth).cumsum(0)
    jaccard = 1.0 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
