"""Scores of predictions."""

from pcseg.metrics.confusion import Scores, confusion_matrix, matched, scores

__all__ = ["Scores", "confusion_matrix", "matched", "scores"]
