"""Soft labels of a batch: what the network says, smoothed along a graph, with the seeds held fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg import ops
from pcseg.batch import IGNORE
from pcseg.losses.dense_potts import DenseRelaxation, dense_potts
from pcseg.losses.potts import LOG_FLOOR, Coupling, coupling
from pcseg.ops import GridEdges
from pcseg.ops.potts_energy import RELAXATIONS, Relaxation

PairwiseGradient = Callable[[Tensor], Tensor]  # log_probs (N, K) -> gradient of the energy with respect to them
PairwiseEnergy = Callable[[Tensor], Tensor]  # log_probs (N, K) -> ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """A Potts energy on the rows of a batch, and its gradient."""

    energy: PairwiseEnergy
    gradient: PairwiseGradient


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftLabels:
    """The result of :func:`solve_soft_labels`."""

    log_targets: Tensor  # (N, K) float32, logarithms; one-hot at the seeds (0 and -30)
    first_energy: Tensor  # () of the labels that were started from
    last_energy: Tensor  # ()


def potts_on_edges(edges: GridEdges, relaxation: Relaxation) -> Pairwise:
    """The energy of a list of edges, by the fused op; its gradient without a graph in between.

    Raises:
        ValueError: an unknown relaxation.
    """
    if relaxation not in RELAXATIONS:
        raise ValueError(f"potts_on_edges: relaxation must be one of {', '.join(RELAXATIONS)}, got {relaxation!r}")
    code = RELAXATIONS.index(relaxation)

    def gradient(log_probs: Tensor) -> Tensor:
        ones = log_probs.new_ones(len(log_probs))
        neighbors, weight = edges
        return torch.ops.pcseg.potts_energy_backward(ones, log_probs, neighbors, weight, None, code, True, False)[0]

    return Pairwise(energy=lambda log_probs: ops.potts_energy(log_probs, *edges, relaxation).sum(), gradient=gradient)


def potts_on_lattice(lattice: ops.PermutohedralLattice, relaxation: DenseRelaxation) -> Pairwise:
    """The energy of all pairs, by filtering."""

    def gradient(log_probs: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = log_probs.detach().requires_grad_()
            return torch.autograd.grad(dense_potts(leaf, lattice, relaxation).sum(), leaf)[0]

    return Pairwise(energy=lambda log_probs: dense_potts(log_probs, lattice, relaxation).sum(), gradient=gradient)


@torch.no_grad()
def solve_soft_labels(
    log_probs: Tensor,  # (N, K) float32 or float64, of the network
    labels: Tensor,  # (N,) int64 in [0, K) or IGNORE
    pairwise: Pairwise,
    *,
    kind: Coupling = "cce",
    unary_weight: float = 0.3,
    pairwise_weight: float = 6.0,
    steps: int = 200,
    lr: float = 0.075,
) -> SoftLabels:
    """Soft labels y that lower ``unary_weight * sum of H(y, prediction) + pairwise_weight * Potts(y)``.

    The sum of couplings H runs over the unlabelled rows; labelled rows (seeds) are one-hot and stay so. y is a softmax
    of free values that start at the network's logits and take ``steps`` steps of plain gradient descent on the sums,
    not on means: a step of one row does not depend on how many others there are. Where the steps were too long (the
    energy at the end is above that of the start) the labels started from are returned: this never raises the energy.

    Raises:
        ValueError: shapes that differ, an unknown coupling.

    Source: Zhang and Boykov, Soft self-labeling and Potts relaxations for weakly-supervised segmentation, CVPR 2025
    (pseudo-labels by gradient descent, seeds as a hard constraint). Number and size of the steps are ours to choose.
    """
    if labels.shape != log_probs.shape[:1]:
        raise ValueError(
            f"solve_soft_labels: labels must be ({len(log_probs)},), one a row of log_probs, got {tuple(labels.shape)}"
        )
    log_probs = log_probs.detach().clamp(min=LOG_FLOOR)
    probs = log_probs.exp()
    seeds = labels != IGNORE
    at_seeds = _one_hot_logs(labels[seeds], log_probs)
    moving = (~seeds).unsqueeze(1).to(log_probs)

    def targets(values: Tensor) -> Tensor:
        # Of a few classes this is two to four times as fast on a CPU as log_softmax.
        log_targets = values - torch.logsumexp(values, 1, keepdim=True)
        log_targets[seeds] = at_seeds
        return log_targets

    def energy(log_targets: Tensor) -> Tensor:
        unary = torch.where(seeds, 0.0, coupling(log_targets, log_probs, kind)).sum()
        return unary_weight * unary + pairwise_weight * pairwise.energy(log_targets)

    values = log_probs.clone()
    start = targets(values)
    first = energy(start)
    log_targets = start
    for _ in range(steps):
        y = log_targets.exp()
        toward = pairwise.gradient(log_targets)
        step = pairwise_weight * (toward - y * toward.sum(1, keepdim=True))
        step += unary_weight * _coupling_gradient(y, log_targets, probs, log_probs, kind)
        values.addcmul_(step, moving, value=-lr)
        log_targets = targets(values)
    last = energy(log_targets)
    better = last <= first
    return SoftLabels(
        log_targets=torch.where(better, log_targets, start),
        first_energy=first,
        last_energy=torch.where(better, last, first),
    )


def _coupling_gradient(y: Tensor, log_y: Tensor, probs: Tensor, log_probs: Tensor, kind: Coupling) -> Tensor:
    """Of the coupling with respect to the logits of y."""
    if kind == "ce":
        cost = -log_probs
        return y * (cost - (y * cost).sum(1, keepdim=True))
    if kind == "rce":
        return y - probs
    if kind == "cce":
        both = y * probs
        return y - both / both.sum(1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
    raise ValueError(f"solve_soft_labels: kind must be one of ce, rce, cce, got {kind!r}")


def _one_hot_logs(labels: Tensor, like: Tensor) -> Tensor:  # (n,) -> (n, K)
    return (1.0 - F.one_hot(labels, like.shape[1]).to(like)) * LOG_FLOOR
