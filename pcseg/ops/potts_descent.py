"""Gradient descent on soft labels with a Potts energy, fused."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device
from pcseg.ops.potts_energy import RELAXATIONS, Relaxation

Coupling = Literal["ce", "rce", "cce"]
COUPLINGS: tuple[Coupling, ...] = get_args(Coupling)
MOST_NUMBERS = 2**28  # of values: places in its table are 32 bits


class PottsGraph(NamedTuple):
    """Neighbour lists as :func:`potts_descent` walks through them: made for some labels by :func:`potts_graph`.

    Each edge stands at both of its ends that have no label; one that both ends list is one, with the sum of its
    weights. Rows come sixteen at a time: slot s of block b, first_slot[b] <= s < first_slot[b + 1], has an entry for
    each of them, the row itself with weight 0 where it has no more edges.
    """

    first_slot: Tensor  # (ceil(N / 16) + 1,) int64
    other: Tensor  # (S, 16) int32
    weight: Tensor  # (S, 16) float32


def potts_graph(
    neighbors: Tensor,  # (N, k) int64 in [0, N], N where there is no neighbour
    edge_weight: Tensor,  # (N, k) float32
    labels: Tensor,  # (N,) int64, negative where there is none
) -> PottsGraph:
    """The edges that move rows without a label. On a CPU.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, an index outside [0, N].
    """
    op = "potts_graph"
    if neighbors.ndim != 2 or edge_weight.shape != neighbors.shape:
        raise ValueError(
            f"{op}: neighbors and edge_weight must both be (N, k), got {tuple(neighbors.shape)} and "
            f"{tuple(edge_weight.shape)}"
        )
    if labels.shape != neighbors.shape[:1]:
        raise ValueError(f"{op}: labels must be (N = {len(neighbors)},), got {tuple(labels.shape)}")
    _expect_dtypes(op, torch.int64, neighbors=neighbors, labels=labels)
    _expect_dtypes(op, torch.float32, edge_weight=edge_weight)
    _expect_cpu(op, neighbors=neighbors, edge_weight=edge_weight, labels=labels)
    return PottsGraph(*call(torch.ops.pcseg.potts_graph, neighbors, edge_weight, labels))


@torch.no_grad()
def potts_descent(
    values: Tensor,  # (N, K) float32
    log_probs: Tensor,  # (N, K) float32
    labels: Tensor,  # (N,) int64 in [0, K), or negative where there is none; those of ``graph``
    graph: PottsGraph,
    relaxation: Relaxation,
    coupling: Coupling,
    *,
    unary_weight: float,
    pairwise_weight: float,
    lr: float,
    steps: int,
) -> Tensor:  # (N, K)
    """``values`` after ``steps`` steps of plain gradient descent on an energy of ``y = softmax(values)``:

    ``unary_weight * sum of H(y, q) + pairwise_weight * sum over edges of weight * P(y_i, y_j)``, H the coupling of
    :func:`pcseg.losses.coupling` with ``q = exp(log_probs)`` over the rows without a label, P the relaxation of
    :func:`potts_energy`. Rows with a label are one-hot, and their values stay as they are. Probabilities below exp(-30)
    count as that and get no gradient from the edges.

    One kernel takes all steps: no tensor is made in between, and no edge is looked at twice for its two ends. On a CPU,
    without gradients; results do not depend on the number of threads.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, a label of K or more, an unknown relaxation or coupling, a
            graph of another number of rows, 2^28 numbers or more.
    """
    op = "potts_descent"
    if values.ndim != 2 or values.shape[1] < 1 or log_probs.shape != values.shape:
        raise ValueError(
            f"{op}: values and log_probs must both be (N, K) with K >= 1, got {tuple(values.shape)} and "
            f"{tuple(log_probs.shape)}"
        )
    if labels.shape != values.shape[:1]:
        raise ValueError(f"{op}: labels must be (N = {len(values)},), got {tuple(labels.shape)}")
    _expect_dtypes(op, torch.float32, values=values, log_probs=log_probs)
    _expect_dtypes(op, torch.int64, labels=labels)
    _expect_cpu(op, values=values, log_probs=log_probs, labels=labels, **graph._asdict())
    if len(labels) and int(labels.max()) >= values.shape[1]:
        raise ValueError(f"{op}: labels must be below K = {values.shape[1]}, got {int(labels.max())}")
    if values.numel() >= MOST_NUMBERS:
        raise ValueError(f"{op}: values must have fewer than 2^28 numbers, got {values.numel()}; go on in parts")
    if relaxation not in RELAXATIONS:
        raise ValueError(f"{op}: relaxation must be one of {', '.join(RELAXATIONS)}, got {relaxation!r}")
    if coupling not in COUPLINGS:
        raise ValueError(f"{op}: coupling must be one of {', '.join(COUPLINGS)}, got {coupling!r}")
    codes = RELAXATIONS.index(relaxation), COUPLINGS.index(coupling)
    return call(
        torch.ops.pcseg.potts_descent,
        *(values, log_probs, labels, *graph, *codes, unary_weight, pairwise_weight, lr, steps),
    )


def _expect_dtypes(op: str, dtype: torch.dtype, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{op}: {name} must be {str(dtype).removeprefix('torch.')}, got {tensor.dtype}")


def _expect_cpu(op: str, **tensors: Tensor) -> None:
    check_device(op, **tensors)
    device = next(iter(tensors.values())).device
    if device.type != "cpu":
        raise ValueError(f"{op}: runs on a CPU, got tensors on {device}")


@torch.library.register_fake("pcseg::potts_descent")
def _(values, *rest) -> Tensor:
    return torch.empty_like(values)
