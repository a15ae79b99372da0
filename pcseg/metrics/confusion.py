"""Confusion matrix and the scores of semantic segmentation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcseg.batch import IGNORE


class Scores(NamedTuple):
    """Scores in [0, 1]; nan where there is nothing to score."""

    miou: float  # mean of iou over the classes that occur in the truth or in the prediction
    macc: float  # mean of acc over the classes that occur in the truth
    oa: float  # share of the labelled rows that are right
    iou: np.ndarray  # (K,) float64, nan for a class that occurs neither in the truth nor in the prediction
    acc: np.ndarray  # (K,) float64, recall, nan for a class that does not occur in the truth


def confusion_matrix(
    predicted: Tensor | np.ndarray,  # (N,) integer in [0, K)
    labels: Tensor | np.ndarray,  # (N,) integer in [0, K) or IGNORE
    num_classes: int,
) -> np.ndarray:  # (K, K) int64
    """Counts of rows: truth along the first axis, prediction along the second. IGNORE rows are left out.

    Matrices of parts add up to the matrix of the whole: ``total += confusion_matrix(...)``.

    Raises:
        ValueError: lengths that differ, a label or a prediction of a labelled row out of range.
        TypeError: a dtype that is not an integer.
    """
    predicted, labels = _integers("predicted", predicted), _integers("labels", labels)
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise ValueError(
            f"confusion_matrix: predicted and labels must be (N,), got {tuple(predicted.shape)} "
            f"and {tuple(labels.shape)}"
        )
    labelled = labels != IGNORE
    predicted, labels = predicted[labelled], labels[labelled]
    for name, value in (("labels", labels), ("predicted", predicted)):
        if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < num_classes:
            wrong = value.min() if value.min() < 0 else value.max()
            raise ValueError(f"confusion_matrix: {name} must be in [0, {num_classes}), got {int(wrong)}")
    cells = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.view(num_classes, num_classes).cpu().numpy()


def matched(
    confusion: np.ndarray,  # (K, K) integer, truth along the first axis, clusters along the second
) -> np.ndarray:  # (K, K), clusters in the order of the classes that they are
    """The matrix of clusters that have no names: each stands for one class, so that most rows are right.

    Source: the usual protocol of unsupervised segmentation (Hungarian matching on counts, by SciPy). Matrices of parts
    are to be summed first: one matching of all scenes.

    Raises:
        ValueError: a matrix that is not square.
    """
    from scipy.optimize import linear_sum_assignment

    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"matched: confusion must be (K, K), got {confusion.shape}")
    return confusion[:, linear_sum_assignment(confusion, maximize=True)[1]]


def scores(
    confusion: np.ndarray,  # (K, K) integer, truth along the first axis
) -> Scores:
    """mIoU, mAcc, OA and what they are means of.

    A class that occurs neither in the truth nor in the prediction is nan and left out of mIoU; one that is predicted
    but never true has IoU 0 and counts. mAcc leaves out the classes that are never true.

    Raises:
        ValueError: a matrix that is not square.
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"scores: confusion must be (K, K), got {confusion.shape}")
    hits = np.diag(confusion).astype(np.float64)
    truth, found = confusion.sum(1), confusion.sum(0)
    iou = _ratio(hits, truth + found - hits)
    acc = _ratio(hits, truth)
    oa = _ratio(hits.sum(), confusion.sum())
    return Scores(miou=_mean(iou), macc=_mean(acc), oa=float(oa), iou=iou, acc=acc)


def _integers(name: str, values: Tensor | np.ndarray) -> Tensor:
    # A copy: torch warns about sharing memory with arrays that are read-only, as memory-mapped labels are.
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise TypeError(f"confusion_matrix: {name} must be integers, got {tensor.dtype}")
    return tensor.to(torch.int64)


def _ratio(part, whole) -> np.ndarray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")
