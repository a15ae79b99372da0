"""Soft self-labelling against its formulas, written out: edges, descent on soft labels, direct and hard losses."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.config import LossConfig, SoftSelfLabelConfig
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.soft_self_label import SoftSelfLabel, robust_cross_entropy
from pcseg.pseudo.neighborhoods import Contrast
from tests.train.fake_network import FakeNetwork, batch_of, cross_entropy, levels_of

LABELS = [0, IGNORE, IGNORE, 2, IGNORE, IGNORE, 1, IGNORE, IGNORE]
FREE = [row for row, label in enumerate(LABELS) if label == IGNORE]
SEEDS = [row for row, label in enumerate(LABELS) if label != IGNORE]
CLASSES, BANDWIDTH = 3, 0.8
SOFT = {"k": 3, "warmup": 0.3, "solver_steps": 25}


def method_of(labels=LABELS, *, seed: int = 1, loss: LossConfig | None = None, penalties=None, **settings):
    """A method on nine rows at random places, and its streams; one feature weighs the edges."""
    torch.manual_seed(seed)
    count = len(labels)
    model = FakeNetwork({"labelled": 1.5 * torch.randn(count, CLASSES)}, penalties=penalties)
    batch = batch_of(labels, coords=torch.rand(count, 3), feats=torch.randn(count, 1))
    config = SoftSelfLabelConfig(**(SOFT | settings))
    contrasts = (Contrast(channels=slice(0, 1), scale=(1.0,), bandwidth=BANDWIDTH),)
    return SoftSelfLabel(model, LabelledLoss(loss or LossConfig()), config, contrasts=contrasts), {"labelled": batch}


def run(method, streams, progress: float = 1.0) -> dict[str, Tensor]:
    return method(streams, levels_of(streams), progress)


def log_probs_of(method) -> Tensor:
    z = method.model.logits["labelled"].double()
    return z - z.exp().sum(1, keepdim=True).log()


def edges_of(batch, k: int) -> list[tuple[int, int, float]]:
    """Each row with its k nearest ones, at half the weight: the contrast, over the distance in median distances."""
    x, f = batch.coords.double(), batch.feats.double()
    found = []
    for i in range(len(x)):
        others = sorted((float((x[i] - x[j]).norm()), j) for j in range(len(x)) if j != i)
        found += [(i, j, d) for d, j in others[:k]]
    typical = sorted(d for _, _, d in found)[(len(found) - 1) // 2]
    contrast = {(i, j): math.exp(-float((f[i] - f[j]).square()) / (2 * BANDWIDTH**2)) for i, j, _ in found}
    return [(i, j, 0.5 * contrast[i, j] / max(d / typical, 0.25)) for i, j, d in found]


def relaxed(p: Tensor, q: Tensor, name: str) -> Tensor:
    dot, cosine = p @ q, p @ q / (p.norm() * q.norm())
    return {
        "bl": 1 - dot,
        "q": (p - q).square().sum() / 2,
        "nq": 1 - cosine,
        "cce": -dot.log(),
        "cd": -cosine.log(),
        "lq": -(1 - (p - q).square().sum() / 2).log(),
    }[name]


def potts(p: Tensor, edges, name: str) -> Tensor:
    return torch.stack([w * relaxed(p[i], p[j], name) for i, j, w in edges]).sum()


def coupled(y: Tensor, q: Tensor, kind: str) -> Tensor:  # (n,)
    return {"ce": -(y * q.log()).sum(1), "rce": -(q * y.log()).sum(1), "cce": -(y * q).sum(1).log()}[kind]


def soft_labels(log_q: Tensor, edges, *, kind: str, relaxation: str, eta: float, weight: float, steps: int) -> Tensor:
    """Plain descent by automatic differentiation; labelled rows are one-hot but for a floor of exp(-30)."""
    hard = torch.full((len(SEEDS), CLASSES), math.exp(-30), dtype=log_q.dtype)
    hard[range(len(SEEDS)), [LABELS[row] for row in SEEDS]] = 1.0
    values = log_q.detach().clone()

    def labels(v: Tensor) -> Tensor:
        return torch.softmax(v, 1).index_copy(0, torch.tensor(SEEDS), hard)

    for _ in range(steps):
        leaf = values.requires_grad_()
        y = labels(leaf)
        energy = eta * coupled(y[FREE], log_q.detach()[FREE].exp(), kind).sum() + weight * potts(y, edges, relaxation)
        values = (values - 0.075 * torch.autograd.grad(energy, leaf)[0]).detach()
    return labels(values)


@pytest.mark.parametrize(("kind", "relaxation"), [("cce", "cd"), ("ce", "q"), ("rce", "nq"), ("cce", "bl")])
def test_split_learns_the_soft_labels_of_a_plain_descent(kind, relaxation):
    """Labelled rows hold their neighbours; the Potts term itself teaches the network nothing."""
    method, streams = method_of(coupling=kind, relaxation=relaxation, unary_weight=0.4, pairwise_weight=2.0)
    terms = run(method, streams)
    log_q, edges = log_probs_of(method), edges_of(streams["labelled"], 3)
    settings = {"kind": kind, "relaxation": relaxation, "eta": 0.4, "weight": 2.0, "steps": 25}
    y = soft_labels(log_q, edges, **settings)
    wanted = 0.4 * coupled(y[FREE], log_q[FREE].exp(), kind).mean()
    assert set(terms) == {"cross_entropy", "self_label"}
    assert float(terms["self_label"]) == pytest.approx(float(wanted), rel=1e-4) and float(wanted) > 0.01
    logits = method.model.logits["labelled"]
    (expected,) = torch.autograd.grad(wanted, logits)
    (found,) = torch.autograd.grad(terms["self_label"], logits)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    untouched = 0.4 * coupled(log_q.exp()[FREE], log_q[FREE].exp(), kind).mean()
    assert abs(float(untouched) / float(wanted) - 1) > 0.02, "the descent matters here"


def test_only_labelled_rows_count_before_the_warm_up_is_over():
    method, streams = method_of(warmup=0.3, penalties={"deform_fitting": 0.25})
    early, late = run(method, streams, 0.29), run(method, streams, 0.3)
    assert set(early) == {"cross_entropy", "deform_fitting"} and set(late) == {*early, "self_label"}
    wanted = cross_entropy(method.model.logits["labelled"], torch.tensor(LABELS))
    assert float(early["cross_entropy"]) == pytest.approx(wanted, rel=1e-5)
    assert float(late["cross_entropy"]) == float(early["cross_entropy"])
    assert float(early["deform_fitting"]) == 2.0 * 0.25


@pytest.mark.parametrize("relaxation", ["bl", "q", "nq", "cce", "cd", "lq"])
def test_direct_is_entropy_and_potts_of_the_predictions(relaxation):
    method, streams = method_of(optimization="direct", relaxation=relaxation, unary_weight=0.4, pairwise_weight=2.0)
    terms = run(method, streams)
    log_q = log_probs_of(method)
    entropy = -0.4 * (log_q.exp() * log_q)[FREE].sum(1).mean()
    pairs = 2.0 * potts(log_q.exp(), edges_of(streams["labelled"], 3), relaxation) / len(LABELS)
    assert set(terms) == {"cross_entropy", "entropy", "potts"} and float(pairs) > 0.01
    assert float(terms["entropy"]) == pytest.approx(float(entropy), rel=1e-5)
    assert float(terms["potts"]) == pytest.approx(float(pairs), rel=1e-4)
    logits = method.model.logits["labelled"]
    (expected,) = torch.autograd.grad(entropy + pairs, logits)
    (found,) = torch.autograd.grad(terms["entropy"] + terms["potts"], logits)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("relaxation", ["bl", "q", "nq"])
def test_direct_on_all_pairs(relaxation):
    """Pairs weigh by a Gaussian of place and feature, nearly: the filter comes within a tenth."""
    method, _ = method_of(
        labels=[IGNORE] * 500,
        optimization="direct",
        neighborhood="dense",
        relaxation=relaxation,
        pairwise_weight=2.0,
        position_bandwidth=3.0,
    )
    at, feats = torch.rand(500, 2) * 6, torch.rand(500, 1) * 2.5 * BANDWIDTH
    streams = {"labelled": batch_of([IGNORE] * 500, coords=at, feats=feats)}
    found = float(run(method, streams)["potts"])
    p = log_probs_of(method).detach().exp()
    weight = torch.exp(-(torch.cdist(at, at) ** 2) / 18 - torch.cdist(feats, feats) ** 2 / (2 * BANDWIDTH**2)).double()
    unit = p / p.norm(dim=1, keepdim=True) if relaxation == "nq" else p
    pair = 1 - unit @ unit.T if relaxation != "q" else torch.cdist(p, p) ** 2 / 2
    wanted = 2.0 * float((weight * pair).fill_diagonal_(0).sum()) / 2 / 500
    assert found == pytest.approx(wanted, rel=0.1) and wanted > 1


def test_hard_argmax_learns_the_most_likely_class():
    method, streams = method_of(optimization="hard_argmax", unary_weight=0.4)
    found = float(run(method, streams)["self_label"])
    assert found == pytest.approx(-0.4 * float(log_probs_of(method)[FREE].amax(1).mean()), rel=1e-5)


@pytest.mark.parametrize(("noise", "counts_as"), [(None, 0.99 * 2 / 3), (0.3, 0.3)])
def test_graph_cut_learns_the_labelling_of_least_energy(noise, counts_as):
    """Of all labellings that agree with the labelled rows; of it the robust loss, whose chance is 2 / 3."""
    settings = {"unary_weight": 0.5, "pairwise_weight": 0.4, "label_noise": noise}
    method, streams = method_of(seed=0, optimization="hard_graph_cut", **settings)
    found = float(run(method, streams)["self_label"])
    log_q, edges = log_probs_of(method).detach(), edges_of(streams["labelled"], 3)
    every = torch.tensor(list(itertools.product(range(CLASSES), repeat=len(LABELS))))  # (3^9, 9)
    unary = -0.5 * log_q.expand(len(every), -1, -1).gather(2, every[:, :, None])[:, :, 0]
    pairs = 0.4 * torch.stack([w * (every[:, i] != every[:, j]) for i, j, w in edges]).sum(0)
    agreeing = (every[:, SEEDS] == torch.tensor([LABELS[row] for row in SEEDS])).all(1)
    energies = torch.where(agreeing, unary[:, FREE].sum(1) + pairs, math.inf)
    (first, second), (best, _) = energies.topk(2, largest=False)
    assert float(second - first) > 0.01, "one of them is the best by far"
    hard = every[best, FREE]
    assert hard.tolist() != log_q[FREE].argmax(1).tolist(), "edges matter here"
    assert hard.tolist() != every[(unary.sum(1) + pairs).argmin(), FREE].tolist(), "and so do labelled rows"
    q = log_q[FREE, hard].exp()
    wanted = -0.5 * torch.log((1 - CLASSES * counts_as / 2) * q + counts_as / 2).mean()
    assert found == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5, 0.7])
def test_noise_counts_as_it_is(noise):
    """Of four classes, chance is 3 / 4."""
    q = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    found = robust_cross_entropy(q.log(), torch.tensor([2]), noise)
    wanted = -math.log((1 - 4 * noise / 3) * 0.3 + noise / 3)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("optimization", ["split", "direct", "hard_argmax"])
def test_sums_over_the_number_of_all_rows(optimization):
    """The means over labelled and over unlabelled rows, each times its share of the rows."""
    loss = LossConfig(cross_entropy=1.0, focal=0.5)
    each, streams = method_of(optimization=optimization, loss=loss)
    rows, _ = method_of(optimization=optimization, loss=loss, normalization="rows")
    one, other = run(each, streams), run(rows, streams)
    z = each.model.logits["labelled"]
    labelled, free = len(SEEDS) / len(LABELS), len(FREE) / len(LABELS)
    assert float(other["cross_entropy"]) == pytest.approx(labelled * cross_entropy(z, torch.tensor(LABELS)), rel=1e-5)
    assert float(other["focal"]) == pytest.approx(labelled * float(one["focal"]), rel=1e-5)
    name = "entropy" if optimization == "direct" else "self_label"
    assert float(other[name]) == pytest.approx(free * float(one[name]), rel=1e-5) and float(one[name]) > 0
    if optimization == "direct":
        assert float(other["potts"]) == float(one["potts"])


def test_penalties_of_the_network_count_the_same_in_both_normalizations():
    for normalization in ("each", "rows"):
        method, streams = method_of(
            normalization=normalization, penalties={"deform_fitting": 0.25, "deform_repulsion": 0.5}
        )
        terms = run(method, streams)
        assert float(terms["deform_fitting"]) == pytest.approx(2.0 * 0.25), normalization
        assert float(terms["deform_repulsion"]) == pytest.approx(1.0 * 0.5), normalization


@pytest.mark.parametrize("optimization", ["split", "direct", "hard_argmax", "hard_graph_cut"])
@pytest.mark.parametrize("normalization", ["each", "rows"])
def test_no_unlabelled_row_and_no_labelled_row(optimization, normalization):
    for labels, empty in (([0, 1, 2, 0], {"self_label", "entropy"}), ([IGNORE] * 4, {"cross_entropy"})):
        method, streams = method_of(labels, optimization=optimization, normalization=normalization, k=2)
        terms = run(method, streams)
        assert all(bool(torch.isfinite(value)) for value in terms.values()), terms
        assert all(float(terms[name]) == 0 for name in empty & set(terms))
        torch.stack(list(terms.values())).sum().backward()
        assert bool(torch.isfinite(method.model.logits["labelled"].grad).all())
