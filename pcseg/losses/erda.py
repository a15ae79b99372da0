"""Entropy regularisation and distribution alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.config.method import Alignment
from pcseg.losses.potts import LOG_FLOOR


def erda(
    pseudo_logits: Tensor,  # (N, K) float
    logits: Tensor,  # (N, K) float
    *,
    entropy_weight: float = 1.0,
    alignment: Alignment = "kl_pq",
) -> Tensor:  # (N,)
    """``entropy_weight * H(p) + D(p, q)`` of each row, p the softmax of the pseudo-label's logits, q the prediction's.

    ``"kl_pq"`` D = KL(p || q), with which a weight of 1 makes the sum the cross entropy H(p, q) of a soft target that
    is learnt too; ``"kl_qp"`` KL(q || p); ``"js"`` the Jensen-Shannon divergence, with its halves (the authors' code
    leaves them out and so is twice that); ``"mse"`` |p - q|^2 / 2. Differentiable in both.

    A pseudo-logit of -1e9 rules a class out: its probability is 0, and its logarithm counts as -30 where ``"kl_qp"``
    asks for it.

    Raises:
        ValueError: shapes that differ, or an unknown alignment.

    Source: Tang et al., All Points Matter: Entropy-Regularized Distribution Alignment for Weakly-supervised 3D
    Segmentation, NeurIPS 2023, section 3.
    """
    if pseudo_logits.shape != logits.shape or logits.ndim != 2:
        raise ValueError(
            f"erda: pseudo_logits and logits must both be (N, K), got {tuple(pseudo_logits.shape)} "
            f"and {tuple(logits.shape)}"
        )
    # Classes first in memory: along an axis of a few numbers torch takes several times as long on a CPU.
    log_p, log_q = (torch.log_softmax(values.T.contiguous(), 0).T for values in (pseudo_logits, logits))
    p, q = log_p.exp(), log_q.exp()
    entropy = -(p * log_p).sum(1)
    if alignment == "kl_pq":
        # As a cross entropy less what is left of the entropy: at a weight of 1 nothing is subtracted.
        return -(p * log_q).sum(1) - (1 - entropy_weight) * entropy
    if alignment == "kl_qp":
        distance = (q * (log_q - log_p.clamp(min=LOG_FLOOR))).sum(1)
    elif alignment == "js":
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=log_p.dtype, device=log_p.device))
        distance = ((p * (log_p - log_m)).sum(1) + (q * (log_q - log_m)).sum(1)) / 2
    elif alignment == "mse":
        distance = (p - q).square().sum(1) / 2
    else:
        raise ValueError(f"erda: alignment must be one of kl_pq, kl_qp, js, mse, got {alignment!r}")
    return entropy_weight * entropy + distance
