"""potts_descent against a plain loop in float64, and the graph it walks through against a dense matrix."""

from __future__ import annotations

import pytest
import torch
from ops.potts_cases import make
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.ops import PottsGraph, potts_descent, potts_graph, reference
from pcseg.ops.potts_descent import COUPLINGS
from pcseg.ops.potts_energy import RELAXATIONS

SETTINGS = {"unary_weight": 0.3, "pairwise_weight": 1.5, "lr": 0.05, "steps": 8}


def problem(rows: int = 60, k: int = 10, classes: int = 13, scale: float = 3.0) -> tuple[Tensor, ...]:
    """Values, log-probabilities, labels at every ninth row, lists, weights of at least 0."""
    log_probs, neighbors, weight = make(rows, k, classes, scale=scale)
    values = make(rows, k, classes, scale=scale, seed=1)[0]
    labels = torch.where(torch.arange(rows) % 9 == 4, torch.arange(rows) % classes, IGNORE)
    return values, log_probs, labels, neighbors, weight.abs()


def check(inputs: tuple[Tensor, ...], relaxation, coupling, **changes) -> None:
    values, log_probs, labels, neighbors, weight = inputs
    settings = SETTINGS | changes
    graph = potts_graph(neighbors, weight, labels)
    found = potts_descent(values, log_probs, labels, graph, relaxation, coupling, **settings)
    exact = (values.double(), log_probs.double(), labels, neighbors, weight.double())
    expected = reference.potts_descent(*exact, relaxation, coupling, **settings)
    free = labels == IGNORE
    # Free values may differ by a constant a row: what counts are the labels.
    torch.testing.assert_close(found[free].softmax(1).double(), expected[free].softmax(1), atol=3e-6, rtol=1e-4)
    torch.testing.assert_close(found[~free], values[~free], rtol=0, atol=0)
    moved = (expected[free].softmax(1) - values[free].double().softmax(1)).abs().max() if free.any() else 1
    assert moved > 1e-3 or values.shape[1] == 1 or neighbors.shape[1] == 0


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 19, 20, 21, 40])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_equals_a_plain_loop(relaxation, classes):
    check(problem(classes=classes), relaxation, "cce")


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_every_instruction_set(isa, relaxation, coupling):
    for rows, k, classes in ((60, 10, 3), (33, 6, 6), (16, 5, 15), (50, 20, 30)):
        check(problem(rows, k, classes), relaxation, coupling)


@pytest.mark.parametrize(("rows", "k"), [(1, 3), (15, 1), (16, 4), (17, 37), (40, 0), (2500, 6)])
def test_sizes(rows, k):
    check(problem(rows, k, 3), "cd", "ce")


def test_no_row():
    values, log_probs, labels, neighbors, weight = problem(0)
    graph = potts_graph(neighbors, weight, labels)
    assert potts_descent(values, log_probs, labels, graph, "cd", "cce", **SETTINGS).shape == (0, 13)


def test_no_label_and_all_labels():
    values, log_probs, labels, neighbors, weight = problem()
    check((values, log_probs, torch.full_like(labels, IGNORE), neighbors, weight), "q", "rce")
    everywhere = torch.arange(60) % 13
    graph = potts_graph(neighbors, weight, everywhere)
    assert not len(graph.other)
    found = potts_descent(values, log_probs, everywhere, graph, "q", "rce", **SETTINGS)
    assert torch.equal(found, values)


def test_decided_rows():
    """Near one-hot rows: 1 - p has no digits left in float32, and opposite ends meet in the smallest probabilities."""
    for relaxation in RELAXATIONS:
        values, log_probs, labels, neighbors, weight = problem(scale=12)
        check((values, log_probs, labels, neighbors, weight), relaxation, "ce", lr=1e-3, steps=3)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_threads_change_no_bit(threads, relaxation):
    values, log_probs, labels, neighbors, weight = problem(9000, 5, 4)
    graph = potts_graph(neighbors, weight, labels)
    found = potts_descent(values, log_probs, labels, graph, relaxation, "cce", **SETTINGS)
    torch.set_num_threads(1)
    again = potts_graph(neighbors, weight, labels)
    assert all(torch.equal(a, b) for a, b in zip(graph, again, strict=True))
    assert torch.equal(found, potts_descent(values, log_probs, labels, again, relaxation, "cce", **SETTINGS))


def dense(graph: PottsGraph, rows: int) -> Tensor:
    """(rows, rows): the weights a graph gives each row, added up."""
    block = torch.repeat_interleave(torch.arange(len(graph.first_slot) - 1), graph.first_slot.diff())
    row = (block.unsqueeze(1) * 16 + torch.arange(16)).flatten()
    there = graph.weight.flatten() != 0
    weights = torch.zeros(rows, rows, dtype=torch.float64)
    ends = row[there], graph.other.flatten()[there].long()
    return weights.index_put(ends, graph.weight.flatten()[there].double(), accumulate=True)


@pytest.mark.parametrize(("rows", "k"), [(1, 4), (20, 3), (60, 10), (7, 30)])
def test_the_graph_has_every_edge_at_both_ends(rows, k):
    """Lists that name rows twice, and themselves, too."""
    _, _, labels, neighbors, weight = problem(rows, k)
    wanted = torch.zeros(rows, rows + 1, dtype=torch.float64)
    wanted.index_put_((torch.arange(rows).repeat_interleave(k), neighbors.flatten()), weight.flatten().double(), True)
    wanted = wanted[:, :rows]
    wanted = (wanted + wanted.T) * (labels == IGNORE).unsqueeze(1)
    graph = potts_graph(neighbors, weight, labels)
    torch.testing.assert_close(dense(graph, rows), wanted, atol=1e-5, rtol=1e-5)


def test_an_edge_that_both_ends_list_is_one():
    neighbors = torch.tensor([[1, 2], [0, 3], [3, 3]])
    graph = potts_graph(neighbors, torch.tensor([[1.0, 2.0], [4.0, 9.0], [9.0, 9.0]]), torch.full((3,), IGNORE))
    assert graph.first_slot.tolist() == [0, 2]
    assert graph.other[:, :3].tolist() == [[1, 0, 0], [2, 1, 2]]
    assert graph.weight[:, :3].tolist() == [[5, 5, 2], [2, 0, 0]]
    assert graph.other[:, 3:].tolist() == [list(range(3, 16))] * 2


def test_nan_stays_visible():
    values, log_probs, labels, neighbors, weight = problem(40, 4, 3)
    values[labels.argmin()] = torch.nan
    graph = potts_graph(neighbors, weight, labels)
    found = potts_descent(values, log_probs, labels, graph, "cd", "cce", **SETTINGS)
    assert found[labels.argmin()].isnan().all()


def test_errors():
    values, log_probs, labels, neighbors, weight = problem(30, 4, 3)
    graph = potts_graph(neighbors, weight, labels)

    def descent(*changed, graph=graph, relaxation="cd", coupling="cce"):
        inputs = [*changed, *(values, log_probs, labels)[len(changed) :]]
        return potts_descent(*inputs, graph, relaxation, coupling, **SETTINGS)

    with pytest.raises(ValueError, match=r"must lie in \[0, N\]"):
        potts_graph(neighbors + 1, weight, labels)
    with pytest.raises(ValueError, match=r"must both be \(N, k\)"):
        potts_graph(neighbors, weight[:, 1:], labels)
    with pytest.raises(TypeError, match="edge_weight must be float32"):
        potts_graph(neighbors, weight.double(), labels)
    with pytest.raises(ValueError, match="labels must be"):
        potts_graph(neighbors, weight, labels[1:])
    with pytest.raises(TypeError, match="values must be float32"):
        descent(values.double())
    with pytest.raises(ValueError, match="values and log_probs must both be"):
        descent(values[:, 1:])
    with pytest.raises(ValueError, match="labels must be below K = 3, got 3"):
        descent(values, log_probs, torch.full_like(labels, 3))
    with pytest.raises(ValueError, match="relaxation must be one of"):
        descent(relaxation="potts")
    with pytest.raises(ValueError, match="coupling must be one of"):
        descent(coupling="kl")
    with pytest.raises(ValueError, match="first_slot must be"):
        descent(graph=potts_graph(*(torch.cat([x, x]) for x in (neighbors, weight, labels))))
    with pytest.raises(ValueError, match="out of range"):
        descent(graph=graph._replace(other=graph.other + 16))
    with pytest.raises(ValueError, match="first_slot must ascend"):
        descent(graph=graph._replace(first_slot=graph.first_slot + 1))
