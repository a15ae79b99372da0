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
    a row with itself costs nothing in ``"q"`` and ``"nq"``. In ``"bl"`` it stays in, as in the source's loss: what a
    row weighs in its own filtered value depends on its neighbours (0.4 to 1.9), and taking away a fixed weight would
    make energies of thin clouds negative. With many neighbours it does not matter; alone, a row is drawn to one class.
    Only relaxations that are bilinear in something have such a form: BL and Q in p, NQ in p / |p|.

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
    if relaxation == "bl":
        return (degree - agreement) / 2
    return (degree * probs.square().sum(1) - agreement) / 2
