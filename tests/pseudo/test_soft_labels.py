"""Soft labels on graphs whose answer is known, and the promise that no step raises the joint loss."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from pcseg import ops
from pcseg.batch import IGNORE, offsets_of
from pcseg.images import image_batch
from pcseg.losses.dense_potts import dense_potts
from pcseg.losses.potts import coupling, pairwise
from pcseg.ops import GridEdges
from pcseg.ops.potts_energy import RELAXATIONS
from pcseg.pseudo.neighborhoods import Contrast, nearest_edges
from pcseg.pseudo.soft_labels import potts_on_edges, potts_on_lattice, solve_soft_labels


def chain(count: int) -> GridEdges:
    """Each pair of neighbours, from both ends with half the weight."""
    index = torch.arange(count)
    neighbors = torch.stack([index - 1, index + 1], 1)
    neighbors[0, 0] = neighbors[-1, 1] = count
    return GridEdges(neighbors, torch.full((count, 2), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("relaxation", "expected", "lr"),
    [
        ("bl", (1, 0.5, 0), 100.0),
        ("q", (0.75, 0.5, 0.25), 0.5),
        ("nq", (0.707107, 0.5, 0.292893), 0.5),
        ("cce", (1, 0.5, 0), 100.0),
        ("cd", (0.707107, 0.5, 0.292893), 0.5),
        ("lq", (0.75, 0.5, 0.25), 0.5),
    ],
)
def test_a_chain_between_two_seeds(relaxation, expected, lr):
    """Quadratic forms walk at random, normalised ones turn by equal angles, bilinear ones leave the middle open."""
    logits = torch.zeros(5, 2, dtype=torch.float64).log_softmax(1)
    labels = torch.tensor([0, IGNORE, IGNORE, IGNORE, 1])
    solved = solve_soft_labels(
        logits,
        labels,
        potts_on_edges(chain(5), relaxation),
        unary_weight=0.0,
        pairwise_weight=1.0,
        steps=4000,
        lr=lr,
    )
    torch.testing.assert_close(
        solved.log_targets.exp()[1:4, 0], torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert float(solved.log_targets[0, 0]) == 0 and float(solved.log_targets[4, 1]) == 0


@pytest.mark.parametrize("kind", ["ce", "rce", "cce"])
@pytest.mark.parametrize("relaxation", ["bl", "q", "nq", "cce", "cd", "lq"])
def test_the_descent_follows_the_gradient(kind, relaxation):
    """One short step is minus the gradient that automatic differentiation finds in plain PyTorch."""
    torch.manual_seed(0)
    log_probs = torch.randn(6, 3, dtype=torch.float64).log_softmax(1)
    labels = torch.tensor([0, IGNORE, 2, IGNORE, IGNORE, IGNORE])
    edges = chain(6)
    edges = edges._replace(edge_weight=torch.rand(6, 2, dtype=torch.float64))
    values = log_probs.clone().requires_grad_()
    log_y = torch.log_softmax(values, 1)
    hard = torch.full_like(log_y, -30.0).scatter(1, labels.clamp(min=0).unsqueeze(1), 0.0)
    log_y = torch.where((labels != IGNORE).unsqueeze(1), hard, log_y)
    energy = 0.3 * coupling(log_y, log_probs, kind)[labels == IGNORE].sum()
    for row in range(6):
        for slot in range(2):
            other = int(edges.neighbors[row, slot])
            if other < 6:
                energy = energy + 6.0 * edges.edge_weight[row, slot] * pairwise(log_y[row], log_y[other], relaxation)
    (gradient,) = torch.autograd.grad(energy, values)
    step = 1e-4
    solved = solve_soft_labels(log_probs, labels, potts_on_edges(edges, relaxation), kind=kind, steps=1, lr=step)
    assert float(solved.first_energy) == pytest.approx(float(energy), rel=1e-9)
    expected = torch.log_softmax(log_probs - step * gradient, 1)
    free = labels == IGNORE
    torch.testing.assert_close(solved.log_targets[free], expected[free], atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["ce", "rce", "cce"])
def test_many_steps_equal_a_plain_loop(kind):
    """Forty steps, against automatic differentiation and one fresh softmax each."""
    torch.manual_seed(1)
    log_probs = torch.randn(50, 5, dtype=torch.float64).log_softmax(1)
    labels = torch.where(torch.arange(50) % 7 == 0, torch.arange(50) % 5, IGNORE)
    edges = chain(50)
    hard = torch.full_like(log_probs, -30.0).scatter(1, labels.clamp(min=0).unsqueeze(1), 0.0)
    seeds = (labels != IGNORE).unsqueeze(1)

    def soft(values: torch.Tensor) -> torch.Tensor:
        return torch.where(seeds, hard, torch.log_softmax(values, 1))

    values = log_probs.clone()
    for _ in range(40):
        leaf = values.requires_grad_()
        log_y = soft(leaf)
        energy = 0.3 * coupling(log_y, log_probs, kind)[labels == IGNORE].sum()
        energy = energy + 6.0 * ops.potts_energy(log_y, *edges, "cd").sum()
        (gradient,) = torch.autograd.grad(energy, leaf)
        values = (values - 0.075 * gradient).detach()
    solved = solve_soft_labels(log_probs, labels, potts_on_edges(edges, "cd"), kind=kind, steps=40)
    torch.testing.assert_close(solved.log_targets, soft(values), atol=1e-9, rtol=1e-9)


def test_an_early_end():
    """It ends at a multiple of 20 steps, where 20 more steps would change little; 0 goes through all of them."""
    truth, colors, logits, labels = noisy_picture()
    pairwise = potts_on_edges(ops.image_grid_edges(colors.view(32, 32, 3), 8, 9.0), "cd")

    def solved(**settings):
        return solve_soft_labels(logits.log_softmax(1), labels, pairwise, **settings)

    whole, early = solved(steps=400), solved(steps=400, tolerance=0.01)
    assert any(torch.equal(early.log_targets, solved(steps=count).log_targets) for count in range(20, 200, 20))
    fall = float(whole.first_energy - whole.last_energy)
    assert 0 <= float(early.last_energy - whole.last_energy) < 0.1 * fall
    assert (early.log_targets.argmax(1) == truth).float().mean() > 0.97
    assert torch.equal(solved(steps=10, tolerance=0.5).log_targets, solved(steps=10).log_targets)


@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_one_kernel_and_step_after_step_agree(tolerance):
    """What a CPU and what a GPU goes through."""
    _, colors, logits, labels = noisy_picture()
    fused = potts_on_edges(ops.image_grid_edges(colors.view(32, 32, 3), 8, 9.0), "cd")
    stepwise = replace(fused, graph=None)
    solved, again = (
        solve_soft_labels(logits.log_softmax(1), labels, pairwise, steps=100, tolerance=tolerance)
        for pairwise in (fused, stepwise)
    )
    torch.testing.assert_close(solved.log_targets.exp(), again.log_targets.exp(), atol=1e-4, rtol=0)
    assert float(solved.last_energy) == pytest.approx(float(again.last_energy), rel=1e-4)


def noisy_picture():
    """A disc in front of a ground, as a network sees it that is right in three pixels of five."""
    torch.manual_seed(3)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    truth = ((y - 15) ** 2 + (x - 15) ** 2 < 81).long() + (x > 25).long() * 2
    truth = truth.clamp(max=2).flatten()
    colors = torch.tensor([[200.0, 40, 40], [40, 200, 40], [40, 40, 200]])[truth] + 4 * torch.randn(1024, 3)
    logits = torch.randn(1024, 3) + torch.nn.functional.one_hot(truth, 3)
    labels = torch.full((1024,), IGNORE)
    seeds = torch.randperm(1024)[:30]
    labels[seeds] = truth[seeds]
    return truth, colors, logits, labels


@pytest.mark.parametrize("relaxation", ["q", "nq", "cce", "cd", "lq", "bl"])
def test_soft_labels_clean_a_noisy_picture(relaxation):
    truth, colors, logits, labels = noisy_picture()
    edges = ops.image_grid_edges(colors.view(32, 32, 3), 8, 9.0)
    log_probs = logits.log_softmax(1)
    solved = solve_soft_labels(log_probs, labels, potts_on_edges(edges, relaxation))
    before = (logits.argmax(1) == truth).float().mean()
    after = (solved.log_targets.argmax(1) == truth).float().mean()
    assert before < 0.75 and after > 0.97, (before, after)
    assert float(solved.last_energy) < 0.5 * float(solved.first_energy)


def toy_picture():
    """A disc and a stripe on a ground, drawn by NumPy: the toy with which the y-step was first tried on its own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    truth = np.where(x >= 26, 2, ((y - 16) ** 2 + (x - 16) ** 2 < 81).astype(int))
    colors = np.stack([truth * 40 + rng.normal(0, 4, (32, 32)) for _ in range(3)], -1)
    logits = rng.normal(0, 1, (32, 32, 3))
    logits[y, x, truth] += 1
    seeds = np.zeros((32, 32), bool)
    seeds[16, 12:20] = seeds[3, 3:20] = seeds[10:20, 29] = True
    labels = torch.from_numpy(np.where(seeds, truth, IGNORE).ravel())
    edges = ops.image_grid_edges(torch.from_numpy(colors).float(), 8, 9.0)
    log_probs = torch.from_numpy(logits.reshape(-1, 3)).float().log_softmax(1)
    return torch.from_numpy(truth.ravel()), edges, log_probs, labels


@pytest.mark.parametrize(
    ("relaxation", "first", "lr", "last"),
    [
        ("cd", 4027, 0.075, 248.2), ("q", 1795, 0.075, 252.4), ("bl", 7107, 0.075, 297.0),
        ("cd", 4027, 0.3, 241.0), ("q", 1795, 0.3, 242.1), ("bl", 7107, 0.3, 262.1),
    ],
)  # fmt: skip
def test_no_step_raises_the_energy_of_a_toy(relaxation, first, lr, last):
    """Two hundred steps of the size in use, and of four times that; energies as a program of its own found them."""
    truth, edges, log_probs, labels = toy_picture()
    assert float((log_probs.argmax(1) == truth).float().mean()) == pytest.approx(0.614, abs=1e-3)
    graph, seeds = ops.potts_graph(*edges, labels), labels != IGNORE
    hard = torch.full_like(log_probs, -30.0).scatter(1, labels.clamp(min=0).unsqueeze(1), 0.0)
    values, energies = log_probs, []
    for _ in range(200):
        log_y = torch.where(seeds.unsqueeze(1), hard, values.log_softmax(1))
        unary = coupling(log_y, log_probs, "cce")[~seeds].double().sum()
        pairs = ops.potts_energy(log_y, *edges, relaxation).double().sum()
        energies.append(float(0.3 * unary + 6.0 * pairs))
        values = ops.potts_descent(
            *(values, log_probs, labels, graph, relaxation, "cce"),
            unary_weight=0.3,
            pairwise_weight=6.0,
            lr=lr,
            steps=1,
        )
    assert all(after <= before for before, after in itertools.pairwise(energies))
    assert energies[0] == pytest.approx(first, rel=0.01)
    assert energies[-1] == pytest.approx(last, abs=0.5)
    solved = solve_soft_labels(log_probs, labels, potts_on_edges(edges, relaxation), steps=199, lr=lr)
    assert float(solved.first_energy) == pytest.approx(energies[0], rel=1e-5)
    assert float(solved.last_energy) == pytest.approx(energies[-1], rel=1e-4)
    assert float((values.argmax(1) == truth)[~seeds].float().mean()) > 0.997


def joint_loss(log_targets, log_probs, labels, edges, kind, relaxation) -> float:
    seeds = labels != IGNORE
    hard = -log_probs[seeds].gather(1, labels[seeds].unsqueeze(1)).sum()
    soft = 0.3 * coupling(log_targets, log_probs, kind)[~seeds].sum()
    return float(hard + soft + 6.0 * ops.potts_energy(log_targets, *edges, relaxation).sum())


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("kind", ["ce", "rce", "cce"])
def test_neither_step_raises_the_joint_loss(kind, relaxation):
    """Soft labels, then a small step of the network, over and over, on a fixed batch."""
    _, colors, logits, labels = noisy_picture()
    edges = ops.image_grid_edges(colors.view(32, 32, 3), 8, 9.0)
    network = logits.clone().requires_grad_()
    seeds = labels != IGNORE
    losses, log_targets = [], None
    for _ in range(6):
        log_probs = network.log_softmax(1)
        if log_targets is not None:
            losses.append(joint_loss(log_targets, log_probs.detach(), labels, edges, kind, relaxation))
        energy = potts_on_edges(edges, relaxation)
        log_targets = solve_soft_labels(log_probs, labels, energy, start=log_targets, kind=kind, steps=60).log_targets
        losses.append(joint_loss(log_targets, log_probs.detach(), labels, edges, kind, relaxation))
        total = -log_probs[seeds].gather(1, labels[seeds].unsqueeze(1)).sum()
        total = total + 0.3 * coupling(log_targets, log_probs, kind)[~seeds].sum()
        (gradient,) = torch.autograd.grad(total, network)
        with torch.no_grad():
            network -= 0.1 * gradient
    # After each step, the labels' and the network's in turn; both together get somewhere.
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(losses)), losses
    assert losses[-1] < 0.95 * losses[0]


def test_the_energy_never_rises_even_where_steps_are_too_long():
    _, colors, logits, labels = noisy_picture()
    edges = ops.image_grid_edges(colors.view(32, 32, 3), 8, 9.0)
    solved = solve_soft_labels(logits.log_softmax(1), labels, potts_on_edges(edges, "bl"), steps=3, lr=500.0)
    assert float(solved.last_energy) <= float(solved.first_energy)


@pytest.mark.parametrize("relaxation", ["bl", "q", "nq"])
def test_dense_energy_against_all_pairs(relaxation):
    torch.manual_seed(5)
    positions = torch.rand(300, 2, dtype=torch.float64) * 2
    log_probs = torch.randn(300, 3, dtype=torch.float64).log_softmax(1)
    lattice = ops.PermutohedralLattice(positions)
    weight = torch.exp(-torch.cdist(positions, positions).square() / 2)
    pairs = pairwise(log_probs.unsqueeze(1), log_probs.unsqueeze(0), relaxation)
    off = ~torch.eye(300, dtype=torch.bool)
    # Of P(p, p): 0 in q and nq; the row's own pair stays in bl, with the filter's own weight of it.
    exact = (weight * pairs * (off if relaxation != "bl" else 1.0)).sum() / 2
    found = dense_potts(log_probs, lattice, relaxation).sum()
    assert float(found) == pytest.approx(float(exact), rel=0.06)
    leaf = log_probs[:40].clone().requires_grad_()
    small = ops.PermutohedralLattice(positions[:40])
    assert torch.autograd.gradcheck(lambda v: dense_potts(v, small, relaxation), leaf)
    gradient = potts_on_lattice(small, relaxation).gradient(leaf)
    torch.testing.assert_close(gradient, torch.autograd.grad(dense_potts(leaf, small, relaxation).sum(), leaf)[0])
    with pytest.raises(ValueError, match="must be bl, q or nq"):
        dense_potts(log_probs, lattice, "cd")  # pyright: ignore[reportArgumentType]


def test_dense_energy_of_rows_apart_is_never_negative():
    torch.manual_seed(2)
    lattice = ops.PermutohedralLattice(torch.rand(300, 3) * 1000)
    log_probs = torch.randn(300, 3).log_softmax(1)
    alone = lattice.filter(torch.ones(300, 1))[:, 0]  # what a row weighs in its own sum: nobody else is near
    impurity = 1 - log_probs.exp().square().sum(1)
    torch.testing.assert_close(dense_potts(log_probs, lattice, "bl"), alone * impurity / 2)
    assert float(dense_potts(log_probs, lattice, "q").abs().max()) < 1e-6


@pytest.mark.parametrize("relaxation", ["bl", "q"])
def test_dense_energy_is_its_filter_form(relaxation):
    """Exactly, of the weights that the filter has: half of the degrees times |p|^2 (BL: times 1) less p.Wp.

    A row's pair with itself costs nothing here: in Q never, in BL where the row is one-hot.
    """
    torch.manual_seed(6)
    lattice = ops.PermutohedralLattice(torch.rand(60, 3, dtype=torch.float64) * 2)
    weight = lattice.filter(torch.eye(60, dtype=torch.float64))
    degree = weight.sum(1)
    hard = torch.nn.functional.one_hot(torch.randint(0, 3, (60,)), 3).double()
    differ = (hard.argmax(1).unsqueeze(1) != hard.argmax(1)).double()
    torch.testing.assert_close(dense_potts(hard.log(), lattice, relaxation), (weight * differ).sum(1) / 2)
    if relaxation == "q":
        soft = torch.randn(60, 3, dtype=torch.float64).softmax(1)
        expected = (degree * soft.square().sum(1)).sum() / 2 - torch.einsum("ik,ij,jk->", soft, weight, soft) / 2
        torch.testing.assert_close(dense_potts(soft.log(), lattice, "q").sum(), expected)


def test_edges_of_images_are_those_of_the_grid_op():
    image = torch.rand(9, 12, 3) * 255
    batch = image_batch(image)
    group = Contrast(channels=slice(0, 3), scale=(1.0, 1.0, 1.0), bandwidth=9.0)
    found = nearest_edges(batch, [group], connectivity=8)
    expected = ops.image_grid_edges(image, 8, 9.0)
    assert torch.equal(found.neighbors, expected.neighbors)
    torch.testing.assert_close(found.edge_weight, expected.edge_weight, rtol=1e-4, atol=1e-7)
    adaptive = nearest_edges(batch, [Contrast(channels=slice(0, 3), scale=(1.0, 1.0, 1.0), bandwidth=0.0)])
    torch.testing.assert_close(
        adaptive.edge_weight, ops.image_grid_edges(image, 8, "adaptive").edge_weight, rtol=1e-4, atol=1e-7
    )


def test_edges_of_a_grid_as_a_cloud_are_those_of_the_grid():
    """The general lists give the interior pixels what the grid gives them, at 4 neighbours, all one pixel away."""
    image = torch.rand(8, 8, 1) * 50
    batch = image_batch(image)
    cloud = type(batch)(coords=batch.coords, feats=batch.feats, offsets=offsets_of([64]))
    group = [Contrast(channels=slice(0, 1), scale=(1.0,), bandwidth=9.0)]
    grid, general = nearest_edges(batch, group, connectivity=4), nearest_edges(cloud, group, k=4)
    inside = ((batch.coords > 0) & (batch.coords < 7)).all(1)
    assert torch.equal(grid.neighbors[inside].sort(1).values, general.neighbors[inside].sort(1).values)
    torch.testing.assert_close(
        grid.edge_weight[inside].sort(1).values, general.edge_weight[inside].sort(1).values, rtol=1e-4, atol=1e-7
    )


def test_nearest_others_leaves_out_the_row_itself():
    points = torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 0], [5, 0]])
    found, sq_dist = ops.nearest_others(points, 2, offsets=torch.tensor([0, 4, 5]))
    assert not (found == torch.arange(5).unsqueeze(1)).any()
    assert found[0].tolist() == [1, 2] and found[2].tolist() == [0, 1] and found[4].tolist() == [5, 5]
    assert sq_dist[3].tolist() == [1, 1]
    with pytest.raises(ValueError, match="k must be at least 1"):
        ops.nearest_others(points, 0)
