"""What models return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SegOutput(NamedTuple):
    """Semantic segmentation of every row of a batch."""

    logits: Tensor  # (N, K) float
    feats: Tensor  # (N, C) float, what the last linear layer read: prototypes and embeddings start here
