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

CHECKED_EVERY = 20  # steps: an energy costs about half as much as a step

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
    tolerance: float = 0.0,
) -> SoftLabels:
    """Soft labels y that lower ``unary_weight * sum of H(y, prediction) + pairwise_weight * Potts(y)``.

    The sum of couplings H runs over the unlabelled rows; labelled rows (seeds) are one-hot and stay so. y is a softmax
    of free values that start at the network's logits and take ``steps`` steps of plain gradient descent on the sums,
    not on means: a step of one row does not depend on how many others there are. Where the steps were too long (the
    energy at the end is above that of the start) the labels started from are returned: this never raises the energy.

    Args:
        tolerance: the descent ends early where 20 steps lowered the energy by no more than this share of what all steps
            so far did; 0: never.

    Raises:
        ValueError: shapes that differ, an unknown coupling.

    Source: Zhang and Boykov, Soft self-labeling and Potts relaxations for weakly-supervised segmentation, CVPR 2025
    (pseudo-labels by gradient descent, seeds as a hard constraint). Number and size of the steps, and where to end, are
    ours to choose.
    """
    if labels.shape != log_probs.shape[:1]:
        raise ValueError(
            f"solve_soft_labels: labels must be ({len(log_probs)},), one a row of log_probs, got {tuple(labels.shape)}"
        )
    # Classes first: along an axis of a few numbers torch takes ten times as long on a CPU.
    log_q = log_probs.detach().clamp(min=LOG_FLOOR).T.contiguous()
    q = log_q.exp()
    seeds = torch.nonzero(labels != IGNORE)[:, 0]
    at_seeds = _one_hot_logs(labels[seeds], log_probs).T
    free = (labels == IGNORE).to(log_q)

    def targets(values: Tensor) -> Tensor:  # (K, N)
        return torch.log_softmax(values, 0).index_copy_(1, seeds, at_seeds)

    def energy(log_y: Tensor) -> Tensor:  # ()
        unary = (free * coupling(log_y.T, log_q.T, kind)).sum()
        return unary_weight * unary + pairwise_weight * pairwise.energy(log_y.T.contiguous())

    values = log_q.clone()  # what becomes of those of the seeds has no effect
    start = log_y = targets(values)
    first = latest = energy(start)
    rows, slope = torch.empty_like(log_probs), torch.empty_like(log_q)
    for step in range(1, steps + 1):
        y = log_y.exp()
        slope.copy_(pairwise.gradient(rows.copy_(log_y.T)).T).mul_(pairwise_weight)
        slope.add_(_coupling_slope(y, q, log_q, kind), alpha=unary_weight)
        # From logarithms to the free values: that y sums to 1 takes away the part along y.
        values.add_(slope, alpha=-lr).addcmul_(y, slope.sum(0), value=lr)
        log_y = targets(values)
        if tolerance and step % CHECKED_EVERY == 0:
            before, latest = latest, energy(log_y)
            if bool(before - latest <= tolerance * (first - latest)):
                break
    last = energy(log_y)
    better = last <= first
    return SoftLabels(
        log_targets=torch.where(better, log_y, start).T,
        first_energy=first,
        last_energy=torch.where(better, last, first),
    )


def _coupling_slope(y: Tensor, q: Tensor, log_q: Tensor, kind: Coupling) -> Tensor:  # (K, N) each
    """Gradient of the coupling with respect to the logarithms of y."""
    if kind == "ce":
        return -y * log_q
    if kind == "rce":
        return -q
    if kind == "cce":
        both = y * q
        return both.div_(both.sum(0).clamp_(min=torch.finfo(y.dtype).tiny)).neg_()
    raise ValueError(f"solve_soft_labels: kind must be one of ce, rce, cce, got {kind!r}")


def _one_hot_logs(labels: Tensor, like: Tensor) -> Tensor:  # (n,) -> (n, K)
    return (1.0 - F.one_hot(labels, like.shape[1]).to(like)) * LOG_FLOOR
