"""What losses on labelled rows check, and how rows are averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.batch import IGNORE


def check_labelled(
    loss: str,
    logits: Tensor,  # (N, K) float
    labels: Tensor,  # (N,) int64 in [0, K) or IGNORE
) -> None:
    """Refuse shapes, dtypes and classes that do not fit; one pass over the labels.

    Raises:
        ValueError: shapes, or a label outside [0, K) that is not IGNORE.
        TypeError: labels that are not int64.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"{loss}: logits (N, K) and labels (N,) expected, got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"{loss}: labels must be int64, got {labels.dtype}")
    if labels.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < IGNORE or high >= logits.shape[1]:
        wrong = low if low < IGNORE else high
        raise ValueError(f"{loss}: labels must be in [0, {logits.shape[1]}) or {IGNORE} (IGNORE), got {wrong}")


def check_class_weights(
    loss: str,
    logits: Tensor,  # (N, K)
    class_weights: Tensor | None,  # (K,) float
) -> None:
    if class_weights is not None and class_weights.shape != logits.shape[1:]:
        raise ValueError(
            f"{loss}: class_weights must be ({logits.shape[1]},), one a class, got {tuple(class_weights.shape)}"
        )


def weighted_mean(
    values: Tensor,  # (N,) float, 0 where unlabelled
    weights: Tensor,  # (N,) float >= 0, 0 where unlabelled
) -> Tensor:  # ()
    """sum(weights * values) / sum(weights); 0, still connected to the graph, where all weights are 0."""
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)


def row_weights(
    labels: Tensor,  # (N,) int64
    class_weights: Tensor | None,  # (K,) float
    like: Tensor,
) -> Tensor:  # (N,), dtype of like
    """The weight of each row's class, 1 without class weights, 0 where the row is unlabelled."""
    labelled = labels != IGNORE
    if class_weights is None:
        return labelled.to(like.dtype)
    return torch.where(labelled, class_weights.to(like)[labels.clamp(min=0)], 0.0)


def masked_mean(
    values: Tensor,  # (N,) float
    chosen: Tensor,  # (N,) bool
    total: Tensor | None = None,  # () number of rows to divide by; None: that of the chosen ones
) -> Tensor:  # ()
    """Mean over the chosen rows; 0, connected to the graph, where there is none."""
    count = chosen.sum() if total is None else total
    return torch.where(chosen, values, 0.0).sum() / count.clamp(min=1)
