"""Scores of predictions."""

from pcseg.metrics.confusion import Scores, confusion_matrix, scores

__all__ = ["Scores", "confusion_matrix", "scores"]
