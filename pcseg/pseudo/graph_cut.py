"""Hard labels by graph cuts: alpha-expansion of a Potts model on a list of edges."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.ops import GridEdges

_UNITS = 1 << 10  # integer capacity of the cost 1: flows are exact in integers
_MOST = 1 << 26  # capacity of what must not be cut
_SWEEPS = 5


def expand(
    unary: Tensor,  # (N, K) float, cost of each class
    edges: GridEdges,  # neighbors (N, k), edge_weight (N, k): cost of a difference
    labels: Tensor,  # (N,) int64 in [0, K) or IGNORE: seeds, which keep their label
    *,
    sweeps: int = _SWEEPS,
) -> Tensor:  # (N,) int64
    """A labelling near the least ``sum of unary + sum of edge_weight * [labels differ]``, seeds held fast.

    Starts at the class of least cost and expands one class after the other until none lowers the energy, at most
    ``sweeps`` times round: each expansion is optimal, and the energy never rises. Costs count in units of 1 / 1024.

    Raises:
        ValueError: shapes that differ, a neighbour outside [0, N], a label that is no class, a cost that is NaN, a
            weight that is not finite.

    Source: Boykov, Veksler and Zabih 2001, Fast approximate energy minimization via graph cuts (expansion moves; the
    construction without auxiliary nodes is that of Kolmogorov and Zabih 2004). Maximum flow is SciPy's.
    """
    _check("expand", unary, edges, labels)
    rows, classes = unary.shape
    seeds = labels != IGNORE
    costs = np.rint(unary.detach().double().cpu().numpy() * _UNITS).clip(0, _MOST // 4).astype(np.int64)
    fixed = seeds.cpu().numpy()
    given = labels.cpu().numpy()
    costs[fixed] = _MOST // 4
    costs[fixed, given[fixed]] = 0
    first, second, weights = _pairs(edges, rows)
    current = costs.argmin(1)
    energy = _energy(costs, current, first, second, weights)
    for _ in range(sweeps):
        before = energy
        for alpha in range(classes):
            proposed = _expansion(costs, current, alpha, first, second, weights)
            cost = _energy(costs, proposed, first, second, weights)
            if cost < energy:
                current, energy = proposed, cost
        if energy == before:
            break
    return torch.from_numpy(current).to(labels.device)


def potts_cost(unary: Tensor, edges: GridEdges, labels: Tensor) -> float:
    """The energy that :func:`expand` lowers, of a labelling (N,).

    Raises:
        ValueError: as :func:`expand`.
    """
    rows = len(unary)
    _check("potts_cost", unary, edges, labels)
    first, second, weights = _pairs(edges, rows)
    chosen = labels.cpu().numpy()
    own = unary.detach().double().cpu().numpy()[np.arange(rows), chosen].sum()
    return float(own + (weights * (chosen[first] != chosen[second])).sum() / _UNITS)


def _check(op: str, unary: Tensor, edges: GridEdges, labels: Tensor) -> None:
    if unary.ndim != 2 or unary.shape[1] < 1:
        raise ValueError(f"{op}: unary must be (N, K) with K >= 1, got {tuple(unary.shape)}")
    rows, classes = unary.shape
    neighbors, weight = edges
    if neighbors.ndim != 2 or len(neighbors) != rows:
        raise ValueError(f"{op}: neighbors must be (N = {rows}, k), got {tuple(neighbors.shape)}")
    if weight.shape != neighbors.shape:
        raise ValueError(
            f"{op}: edge_weight must have the shape of neighbors, {tuple(neighbors.shape)}, got {tuple(weight.shape)}"
        )
    if labels.shape != (rows,):
        raise ValueError(f"{op}: labels must be (N = {rows},), got {tuple(labels.shape)}")
    outside = (neighbors < 0) | (neighbors > rows)
    if bool(outside.any()):
        raise ValueError(
            f"{op}: neighbors must lie in [0, N = {rows}], where N means no edge, got {_first(neighbors, outside)}"
        )
    unknown = (labels != IGNORE) & ((labels < 0) | (labels >= classes))
    if bool(unknown.any()):
        raise ValueError(
            f"{op}: labels must lie in [0, K = {classes}) or be IGNORE ({IGNORE}), got {_first(labels, unknown)}"
        )
    missing = unary.isnan()
    if bool(missing.any()):
        raise ValueError(
            f"{op}: unary must be numbers (inf where a class is ruled out), got {_first(unary, missing)}; look for "
            f"what made the network's output NaN"
        )
    endless = ~weight.isfinite() & (neighbors < rows)
    if bool(endless.any()):
        raise ValueError(
            f"{op}: edge_weight must be finite where there is a neighbour, got {_first(weight, endless)}; a large "
            f"weight does what inf would"
        )


def _first(values: Tensor, wrong: Tensor) -> str:
    """The first wrong value and where it stands."""
    place = torch.nonzero(wrong)[0].tolist()
    return f"{values[tuple(place)].item():g} at {place}"


def _pairs(edges: GridEdges, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each undirected pair once, with its integer weight: what both ends say of it, added up."""
    neighbors = edges.neighbors.cpu().numpy()
    weight = edges.edge_weight.detach().double().cpu().numpy()
    here = np.repeat(np.arange(rows), neighbors.shape[1])
    there = neighbors.reshape(-1)
    kept = (there < rows) & (there != here)
    low, high = np.minimum(here, there)[kept], np.maximum(here, there)[kept]
    summed = coo_array((weight.reshape(-1)[kept], (low, high)), shape=(rows, rows)).tocsr().tocoo()
    weights = np.rint(summed.data * _UNITS).astype(np.int64)
    first, second = summed.coords
    some = weights > 0
    return first[some], second[some], weights[some]


def _energy(costs: np.ndarray, labels: np.ndarray, first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> int:
    own = costs[np.arange(len(labels)), labels].sum()
    return int(own + (weights * (labels[first] != labels[second])).sum())


def _expansion(
    costs: np.ndarray, labels: np.ndarray, alpha: int, first: np.ndarray, second: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The best labelling in which every row keeps its label or takes ``alpha``; rows that have it are no variables."""
    rows = len(labels)
    free = labels != alpha
    stay = costs[np.arange(rows), labels].astype(np.int64)
    take = costs[:, alpha].astype(np.int64)
    of_first, of_second = free[first], free[second]
    # A pair with a fixed end costs its weight unless the other end takes alpha too.
    np.add.at(stay, first[of_first & ~of_second], weights[of_first & ~of_second])
    np.add.at(stay, second[of_second & ~of_first], weights[of_second & ~of_first])
    both = of_first & of_second
    a, b, w = first[both], second[both], weights[both]
    # E(keep, keep) = w [labels differ], E(keep, take) = E(take, keep) = w, E(take, take) = 0.
    # Written as: differ * w * (a keeps) + w * (b keeps and a takes) + (1 - differ) * w * (a keeps and b takes).
    differ = labels[a] != labels[b]
    np.add.at(stay, a[differ], w[differ])
    tails, heads, capacities = [b, a[~differ]], [a, b[~differ]], [w, w[~differ]]
    # Side of the source: keeps its label. Cut source -> i costs take, cut i -> sink costs stay.
    source, sink = rows, rows + 1
    gain = stay - take
    nodes = np.flatnonzero(free)
    keeps = nodes[gain[nodes] < 0]  # rather keeps
    takes = nodes[gain[nodes] > 0]
    tails += [np.full(len(keeps), source), takes]
    heads += [keeps, np.full(len(takes), sink)]
    capacities += [-gain[keeps], gain[takes]]
    capacity = np.concatenate(capacities).clip(0, _MOST).astype(np.int32)
    graph = coo_array((capacity, (np.concatenate(tails), np.concatenate(heads))), shape=(rows + 2, rows + 2)).tocsr()
    flow = maximum_flow(graph, source, sink).flow
    residual = graph - flow
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    kept = np.zeros(rows + 2, bool)
    kept[reached] = True
    result = labels.copy()
    result[free & ~kept[:rows]] = alpha
    return result
