"""Potts energy over the dense neighbourhood: all pairs, weighted by a Gaussian of their distance, by filtering."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pcseg import ops

DenseRelaxation = Literal["bl", "q", "nq"]


def dense_potts(
    log_probs: Tensor,  # (N, K) float32 or float64
    lattice: ops.PermutohedralLattice,
    relaxation: DenseRelaxation,
) -> Tensor:  # (N,)
    """Half the sum over all rows j of the cloud of ``w_ij P(row, row j)``: summed over rows, every pair counts once.

    ``w`` is the Gaussian of the lattice's positions, as :func:`pcseg.ops.gaussian_filter` approximates it. The pair of
    a row with itself costs nothing in ``"q"`` and ``"nq"``; in ``"bl"`` it is left out. Only relaxations that are
    bilinear in something have such a form: BL and Q in p, NQ in p / |p|.

    Raises:
        ValueError: another relaxation.

    Source: Tang et al. 2018, On regularized losses for weakly-supervised CNN segmentation (BL); Q and NQ by expansion.
    """
    probs = log_probs.exp()
    if relaxation == "nq":
        probs = probs / probs.norm(dim=1, keepdim=True).clamp(min=torch.finfo(probs.dtype).tiny)
    elif relaxation not in ("bl", "q"):
        raise ValueError(f"dense_potts: relaxation must be bl, q or nq, got {relaxation!r}")
    filtered = lattice.filter(torch.cat([probs, probs.new_ones(len(probs), 1)], 1))
    agreement, degree = (probs * filtered[:, :-1]).sum(1), filtered[:, -1]
    squares = probs.square().sum(1)
    if relaxation == "bl":
        return (degree - agreement - (1 - squares)) / 2
    return (degree * squares - agreement) / 2
