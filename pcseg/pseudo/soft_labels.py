"""Soft labels of a batch: what the network says, smoothed along a graph, with the seeds held fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg import ops
from pcseg.batch import IGNORE
from pcseg.losses.dense_potts import DenseRelaxation, dense_potts
from pcseg.losses.potts import LOG_FLOOR, coupling
from pcseg.ops import GridEdges
from pcseg.ops.potts_descent import MOST_NUMBERS, Coupling
from pcseg.ops.potts_energy import RELAXATIONS, Relaxation

CHECKED_EVERY = 20  # steps: an energy costs about half as much as a step

PairwiseGradient = Callable[[Tensor], Tensor]  # log_probs (N, K) -> gradient of the energy with respect to them
PairwiseEnergy = Callable[[Tensor], Tensor]  # log_probs (N, K) -> ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairwise:
    """A Potts energy on the rows of a batch, and its gradient."""

    energy: PairwiseEnergy
    gradient: PairwiseGradient
    graph: tuple[GridEdges, Relaxation] | None = None
    """What the energy is made of, where that is a list of edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """What the soft labels of the rows are drawn to: ``weight`` times a coupling with the network's prediction."""

    log_probs: Tensor  # (N, K), no less than LOG_FLOOR
    labels: Tensor  # (N,) int64, IGNORE at the rows that move
    kind: Coupling
    weight: float


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

    return Pairwise(
        energy=lambda log_probs: ops.potts_energy(log_probs, *edges, relaxation).sum(),
        gradient=gradient,
        graph=(edges, relaxation),
    )


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
    start: Tensor | None = None,  # (N, K) logarithms of labels; None: log_probs
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
    On a batch that was solved before, ``start`` takes its labels up again, and so never raises the joint loss.

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
    log_probs = log_probs.detach().clamp(min=LOG_FLOOR)
    unary = Unary(log_probs=log_probs, labels=labels, kind=kind, weight=unary_weight)

    def targets(values: Tensor) -> Tensor:  # (N, K)
        return _soft_labels(values.T.contiguous(), labels).T

    def energy(log_y: Tensor) -> Tensor:  # ()
        coupled = torch.where(labels == IGNORE, coupling(log_y, log_probs, kind), 0.0).sum()
        return unary_weight * coupled + pairwise_weight * pairwise.energy(log_y.contiguous())

    descend = _descent(unary, pairwise, pairwise_weight, lr)
    values = log_probs.clone() if start is None else start.detach().clone()  # those of the seeds have no effect
    log_start = log_y = targets(values)
    first = latest = energy(log_start)
    for done in range(0, steps, CHECKED_EVERY if tolerance else max(steps, 1)):
        count = min(CHECKED_EVERY, steps - done) if tolerance else steps
        values = descend(values, count)
        log_y = targets(values)
        if tolerance and count == CHECKED_EVERY:
            before, latest = latest, energy(log_y)
            if bool(before - latest <= tolerance * (first - latest)):
                break
    last = energy(log_y)
    better = last <= first
    return SoftLabels(
        log_targets=torch.where(better, log_y, log_start),
        first_energy=first,
        last_energy=torch.where(better, last, first),
    )


def _descent(
    unary: Unary, pairwise: Pairwise, pairwise_weight: float, lr: float
) -> Callable[[Tensor, int], Tensor]:  # values (N, K), a number of steps -> values (N, K)
    """One kernel for all steps where there is one; else a step after the other, from ops that every device has."""
    log_probs = unary.log_probs
    fused = log_probs.device.type == "cpu" and log_probs.dtype == torch.float32 and log_probs.numel() < MOST_NUMBERS
    if pairwise.graph is None or not fused:
        return partial(_descend, unary=unary, pairwise=pairwise, pairwise_weight=pairwise_weight, lr=lr)
    edges, relaxation = pairwise.graph
    graph = ops.potts_graph(*edges, unary.labels)

    def descend(values: Tensor, steps: int) -> Tensor:
        return ops.potts_descent(
            *(values, log_probs, unary.labels, graph, relaxation, unary.kind),
            unary_weight=unary.weight,
            pairwise_weight=pairwise_weight,
            lr=lr,
            steps=steps,
        )

    return descend


def _descend(
    values: Tensor,  # (N, K)
    steps: int,
    *,
    unary: Unary,
    pairwise: Pairwise,
    pairwise_weight: float,
    lr: float,
) -> Tensor:  # (N, K)
    """``steps`` steps of gradient descent."""
    log_q = unary.log_probs.T.contiguous()
    q, values = log_q.exp(), values.T.contiguous()
    rows, slope = torch.empty_like(unary.log_probs), torch.empty_like(log_q)
    for _ in range(steps):
        log_y = _soft_labels(values, unary.labels)
        y = log_y.exp()
        slope.copy_(pairwise.gradient(rows.copy_(log_y.T)).T).mul_(pairwise_weight)
        slope.add_(_coupling_slope(y, q, log_q, unary.kind), alpha=unary.weight)
        # From logarithms to the free values: that y sums to 1 takes away the part along y.
        values.add_(slope, alpha=-lr).addcmul_(y, slope.sum(0), value=lr)
    return values.T


def _soft_labels(values: Tensor, labels: Tensor) -> Tensor:  # (K, N), (N,) -> (K, N)
    """Logarithms, one-hot at the seeds. Along an axis of a few numbers torch takes ten times as long on a CPU."""
    seeds = torch.nonzero(labels != IGNORE)[:, 0]
    at_seeds = (1.0 - F.one_hot(labels[seeds], len(values)).T.to(values)) * LOG_FLOOR
    return torch.log_softmax(values, 0).index_copy_(1, seeds, at_seeds)


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
