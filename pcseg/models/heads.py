"""What models return."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


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
