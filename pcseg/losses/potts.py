"""Relaxations of the Potts model and couplings of soft labels with predictions, from log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops.potts_descent import Coupling
from pcseg.ops.potts_energy import RELAXATIONS, Relaxation

LOG_FLOOR = -30.0  # a log-probability below counts as this: one-hot rows give large finite values


def pairwise(
    log_p: Tensor,  # (..., K) float
    log_q: Tensor,  # (..., K), broadcast against log_p
    relaxation: Relaxation,
) -> Tensor:  # (...)
    """Relaxation of [labels differ] between soft labels; symmetric, at least 0. The pair term of ``ops.potts_energy``.

    ``"bl"`` 1 - p.q, ``"q"`` |p - q|^2 / 2, ``"nq"`` the same of p / |p| and q / |q|, ``"cce"`` -log p.q, ``"cd"`` -log
    of the cosine of p and q, ``"lq"`` -log(1 - |p - q|^2 / 2). Rows are logarithms of probabilities that sum to 1;
    values below -30 count as -30 and get no gradient.

    Raises:
        ValueError: an unknown relaxation.

    Source: Zhang and Boykov, Soft self-labeling and Potts relaxations for weakly-supervised segmentation, CVPR 2025.
    """
    log_p, log_q = log_p.clamp(min=LOG_FLOOR), log_q.clamp(min=LOG_FLOOR)
    if relaxation == "bl":
        return 1 - (log_p + log_q).exp().sum(-1)
    if relaxation == "q":
        return (log_p.exp() - log_q.exp()).square().sum(-1) / 2
    if relaxation == "nq":
        return (log_p - _log_norm(log_p)).exp().sub((log_q - _log_norm(log_q)).exp()).square().sum(-1) / 2
    if relaxation == "cce":
        return -torch.logsumexp(log_p + log_q, -1)
    if relaxation == "cd":
        return -torch.logsumexp((log_p + log_q) - (_log_norm(log_p) + _log_norm(log_q)), -1)
    if relaxation == "lq":
        return -torch.log((log_p + log_q).exp().sum(-1) + (_gini(log_p) + _gini(log_q)) / 2)
    raise ValueError(f"pairwise: relaxation must be one of {', '.join(RELAXATIONS)}, got {relaxation!r}")


def coupling(
    log_target: Tensor,  # (..., K) float
    log_probs: Tensor,  # (..., K), broadcast against log_target
    kind: Coupling,
) -> Tensor:  # (...)
    """How far a prediction s is from a soft label y: ``"ce"`` -sum y log s, ``"rce"`` -sum s log y, ``"cce"`` -log y.s.

    All three are -log s_k where y is one-hot at k and s above the floor (``"rce"`` only up to the floor: it costs 30 a
    unit of probability off k). Values below -30 count as -30 and get no gradient. Differentiable in both.

    Raises:
        ValueError: an unknown kind.

    Source: Zhang and Boykov, CVPR 2025; CCE: Zhang and Boykov 2023, Collision cross-entropy.
    """
    log_target, log_probs = log_target.clamp(min=LOG_FLOOR), log_probs.clamp(min=LOG_FLOOR)
    if kind == "ce":
        return -(log_target.exp() * log_probs).sum(-1)
    if kind == "rce":
        return -(log_probs.exp() * log_target).sum(-1)
    if kind == "cce":
        return -torch.logsumexp(log_target + log_probs, -1)
    raise ValueError(f"coupling: kind must be one of ce, rce, cce, got {kind!r}")


def _log_norm(log_p: Tensor) -> Tensor:
    return torch.logsumexp(2 * log_p, -1, keepdim=True) / 2


def _gini(log_p: Tensor) -> Tensor:
    """sum p_k (1 - p_k), with 1 - p_k as the sum of the other probabilities: it keeps its digits near one-hot."""
    p = log_p.exp()
    return (p * (p @ (1 - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)))).sum(-1)
