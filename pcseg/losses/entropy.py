"""Entropy of predictions."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(
    logits: Tensor,  # (N, K) float
) -> Tensor:  # (N,)
    """-sum q log q of each row, q the softmax of its logits: 0 where it is decided, log K where it is not.

    Raises:
        ValueError: no (N, K).

    Source: Grandvalet and Bengio 2004, Semi-supervised learning by entropy minimization.
    """
    if logits.ndim != 2:
        raise ValueError(f"entropy: logits must be (N, K), got {tuple(logits.shape)}")
    log_q = torch.log_softmax(logits, 1)
    return -(log_q.exp() * log_q).sum(1)
