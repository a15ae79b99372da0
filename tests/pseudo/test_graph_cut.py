"""Graph cuts against all labellings of small graphs."""

import itertools

import pytest
import torch

from pcseg import ops
from pcseg.batch import IGNORE
from pcseg.methods.soft_self_label import robust_cross_entropy
from pcseg.ops import GridEdges
from pcseg.pseudo.graph_cut import expand, potts_cost


def random_problem(seed: int, rows: int, classes: int):
    generator = torch.Generator().manual_seed(seed)
    unary = torch.rand(rows, classes, generator=generator) * 2
    neighbors = torch.randint(0, rows + 1, (rows, 3), generator=generator)
    weight = torch.rand(rows, 3, generator=generator)
    labels = torch.full((rows,), IGNORE)
    labels[0] = classes - 1
    return unary, GridEdges(neighbors, weight), labels


def cheapest(unary, edges, labels) -> float:
    rows, classes = unary.shape
    best = float("inf")
    for choice in itertools.product(range(classes), repeat=rows - 1):
        chosen = torch.tensor([classes - 1, *choice])
        best = min(best, potts_cost(unary, edges, chosen))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_two_classes_are_solved_exactly(seed):
    unary, edges, labels = random_problem(seed, 9, 2)
    found = expand(unary, edges, labels)
    assert int(found[0]) == 1, "seeds keep their label"
    assert potts_cost(unary, edges, found) == pytest.approx(cheapest(unary, edges, labels), abs=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_three_classes_come_near_the_least(seed):
    """Expansion moves are within twice the optimum; on graphs so small they are all but there."""
    unary, edges, labels = random_problem(100 + seed, 7, 3)
    found = expand(unary, edges, labels)
    least = cheapest(unary, edges, labels)
    assert least - 0.02 <= potts_cost(unary, edges, found) <= 1.1 * least + 0.02


def test_a_picture_is_cleaned_and_the_energy_falls():
    torch.manual_seed(0)
    truth = (torch.arange(40) >= 20).long().repeat(30)
    logits = torch.randn(1200, 3) + torch.nn.functional.one_hot(truth, 3)
    labels = torch.full((1200,), IGNORE)
    labels[5], labels[30] = 0, 1
    edges = ops.image_grid_edges(100.0 * truth.view(30, 40, 1).float(), 8, 9.0)
    unary = -logits.log_softmax(1)
    found = expand(unary, edges, labels)
    assert (found == truth).float().mean() > 0.99
    assert potts_cost(unary, edges, found) < potts_cost(unary, edges, logits.argmax(1))


def changed(values: torch.Tensor, place, value) -> torch.Tensor:
    values = values.clone()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, n, w, y: (u[0], n, w, y), r"unary must be \(N, K\) with K >= 1, got \(2,\)"),
        (lambda u, n, w, y: (u, n[:4], w[:4], y), r"neighbors must be \(N = 9, k\), got \(4, 3\)"),
        (lambda u, n, w, y: (u, n, w[:, :2], y), r"edge_weight must have the shape of .*\(9, 3\), got \(9, 2\)"),
        (lambda u, n, w, y: (u, n, w, y[:4]), r"labels must be \(N = 9,\), got \(4,\)"),
        (lambda u, n, w, y: (u, changed(n, (2, 1), 10), w, y), r"\[0, N = 9\], where N .* got 10 at \[2, 1\]"),
        (lambda u, n, w, y: (u, changed(n, (0, 0), -1), w, y), r"\[0, N = 9\], where N .* got -1 at \[0, 0\]"),
        (lambda u, n, w, y: (u, n, w, changed(y, 3, 2)), r"\[0, K = 2\) or be IGNORE \(-1\), got 2 at \[3\]"),
        (lambda u, n, w, y: (u, n, w, changed(y, 3, -2)), r"or be IGNORE \(-1\), got -2 at \[3\]"),
        (
            lambda u, n, w, y: (changed(u, 5, torch.nan), n, w, y),
            r"unary must be numbers .*, got nan at \[5, 0\]; look",
        ),
        (lambda u, n, w, y: (u, n * 0, changed(w, (4, 2), torch.nan), y), r"must be finite .*, got nan at \[4, 2\]"),
        (lambda u, n, w, y: (u, n * 0, changed(w, (4, 2), torch.inf), y), r"must be finite .*, got inf at \[4, 2\]; a"),
    ],
)
def test_bad_input_is_refused(change, message):
    """Before it can be dropped, or turned into class 0."""
    unary, edges, labels = random_problem(0, 9, 2)
    unary, neighbors, weight, labels = change(unary, *edges, labels)
    for op in (expand, potts_cost):
        with pytest.raises(ValueError, match=f"^{op.__name__}: .*{message}"):
            op(unary, GridEdges(neighbors, weight), labels)


def test_what_costs_nothing_may_be_anything():
    """The weight of an empty slot; a class that is ruled out costs infinitely much."""
    unary, (neighbors, weight), labels = random_problem(0, 9, 2)
    expected = expand(unary, GridEdges(neighbors, weight), labels)
    noisy = torch.where(neighbors == 9, torch.nan, weight)
    assert (neighbors == 9).any() and torch.equal(expand(unary, GridEdges(neighbors, noisy), labels), expected)
    unary[1:, 0] = torch.inf
    assert expand(unary, GridEdges(neighbors, weight), labels).tolist() == [1] * 9


def test_robust_cross_entropy():
    """By hand for two classes and a tenth of wrong labels; for 21 classes and the source's share of wrong labels."""
    log_probs = torch.tensor([[0.8, 0.2], [0.0, 1.0]]).log()
    found = robust_cross_entropy(log_probs, torch.tensor([0, 0]), 0.1)
    torch.testing.assert_close(found, -torch.tensor([0.8 * 0.8 + 0.1, 0.1]).log())
    many = torch.full((1, 21), 0.01).index_fill_(1, torch.tensor([3]), 0.8).log()
    assert float(robust_cross_entropy(many, torch.tensor([3]), 0.944)) == pytest.approx(2.9143, abs=1e-4)
    torch.testing.assert_close(robust_cross_entropy(log_probs, torch.tensor([0, 1]), 0.0), -log_probs.diagonal())
    with pytest.raises(ValueError, match=r"below \(K - 1\) / K = 0.5, got 0.6"):
        robust_cross_entropy(log_probs, torch.tensor([0, 0]), 0.6)
