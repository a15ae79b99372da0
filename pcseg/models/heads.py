"""What models return."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Proposals(NamedTuple):
    """What a decoder layer thinks of every cloud of a batch: Q proposals each."""

    class_logits: Tensor  # (B, Q, K + 1) float; the last class is "nothing"
    mask_logits: Tensor  # (N, Q) float: whether row n belongs to proposal q of its own cloud


class PanopticOutput(NamedTuple):
    """Panoptic segmentation of a batch; the last layer's proposals count, the others are for training."""

    layers: tuple[Proposals, ...]
    seeds: Tensor | None  # (B, Q) int64, row of the batch at which each query began, -1 for none; None: at no row

    @property
    def last(self) -> Proposals:
        return self.layers[-1]


class SegOutput:
    """Semantic segmentation of every row of a batch.

    Args:
        logits: (N, K) float.
        feats: (N, C) float, or a function that computes them. An image network has hundreds of channels on a coarse
            grid; brought to the pixels they take more memory than all the rest, so they are made when asked for.
    """

    __slots__ = ("_feats", "logits")

    def __init__(self, logits: Tensor, feats: Tensor | Callable[[], Tensor]):
        self.logits = logits
        self._feats = feats

    @property
    def feats(self) -> Tensor:  # (N, C) float
        """What the last linear layer read, before dropout: prototypes and embeddings start here."""
        if not isinstance(self._feats, Tensor):
            self._feats = self._feats()
        return self._feats
