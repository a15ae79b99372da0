"""Prototypes and queries: values, gradient routes, classes that are not there."""

import math

import pytest
import torch

from pcseg.batch import IGNORE
from pcseg.losses import entropy, erda
from pcseg.pseudo.class_queries import ClassQueries
from pcseg.pseudo.prototypes import NEVER, Projection, Prototypes


def seen_prototypes(**settings) -> tuple[Prototypes, torch.Tensor, torch.Tensor]:
    prototypes = Prototypes(3, 2, **settings)
    feats = torch.tensor([[2.0, 0], [4, 0], [0, 1], [5, 5]])
    labels = torch.tensor([0, 0, 2, IGNORE])
    prototypes.update(feats, labels)
    return prototypes, feats, labels


def test_update_moves_the_mean_of_labelled_rows():
    prototypes, feats, labels = seen_prototypes(momentum=0.9)
    torch.testing.assert_close(prototypes.centroids, torch.tensor([[0.3, 0], [0, 0], [0, 0.1]]))
    assert prototypes.seen.tolist() == [True, False, True] and prototypes.ready
    prototypes.update(feats, labels)
    torch.testing.assert_close(prototypes.centroids[0], torch.tensor([0.57, 0]))


@pytest.mark.parametrize("absent", ["keep", "reset"])
def test_an_absent_class(absent):
    prototypes, feats, _ = seen_prototypes(momentum=0.5, absent=absent)
    before = prototypes.centroids.clone()
    prototypes.update(feats[2:3], torch.tensor([1]))
    torch.testing.assert_close(prototypes.centroids[1], torch.tensor([0.0, 0.5]))
    expected = before[0] if absent == "keep" else torch.zeros(2)
    torch.testing.assert_close(prototypes.centroids[0], expected)
    if absent == "reset":
        assert float(prototypes(feats)[0, 0]) == 0


def test_logits_are_cosines_and_an_unseen_class_has_none():
    prototypes, feats, _ = seen_prototypes()
    logits = prototypes(feats)
    half = 0.5**0.5
    torch.testing.assert_close(logits[:, [0, 2]], torch.tensor([[1.0, 0], [1, 0], [0, 1], [half, half]]))
    assert bool((logits[:, 1] == NEVER).all())
    torch.testing.assert_close(prototypes(feats * 7), logits)
    prototypes.centroids *= 3
    torch.testing.assert_close(prototypes(feats), logits)
    assert not Prototypes(3, 2).ready


@pytest.mark.parametrize(("classes", "peak"), [(13, 0.1847), (20, 0.1252), (2, 0.7311)])
def test_the_softest_labels_possible(classes, peak):
    """Cosines with temperature 1: a perfect match is no more likely than this."""
    prototypes = Prototypes(classes, classes)
    prototypes.update(torch.eye(classes), torch.arange(classes))
    probs = prototypes(torch.eye(classes)[:1]).softmax(1)
    assert float(probs.max()) == pytest.approx(peak, abs=1e-4)
    sharper = Prototypes(classes, classes, temperature=0.1)
    sharper.update(torch.eye(classes), torch.arange(classes))
    assert float(sharper(torch.eye(classes)[:1]).softmax(1).max()) > peak


def test_the_least_soft_labels_of_thirteen_classes():
    """All other prototypes opposite: .3811. All at right angles: an entropy of 2.504, of ln 13 = 2.565."""
    prototypes = Prototypes(13, 2)
    prototypes.update(torch.tensor([[1.0, 0], *[[-1.0, 0]] * 12]), torch.arange(13))
    logits = prototypes(torch.tensor([[3.0, 0]]))
    assert logits.tolist() == [[1.0] + [-1.0] * 12]
    assert float(logits.softmax(1).max()) == pytest.approx(0.3811, abs=5e-5)
    apart = Prototypes(13, 13)
    apart.update(torch.eye(13), torch.arange(13))
    assert float(entropy(apart(torch.eye(13)[:1]))[0]) == pytest.approx(2.504, abs=5e-4)


def test_gradients_reach_features_and_not_prototypes():
    prototypes, feats, _ = seen_prototypes()
    leaf = feats.clone().requires_grad_()
    prototypes(leaf).softmax(1).square().sum().backward()
    assert bool((leaf.grad != 0).any())
    assert not prototypes.centroids.requires_grad and not list(prototypes.parameters())
    assert set(prototypes.state_dict()) == {"centroids", "seen"}


def learn(queries, feats, coords, offsets, labels) -> None:
    optimizer = torch.optim.Adam(queries.parameters(), lr=0.02)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(queries(feats, coords, offsets), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_queries_learn_what_a_class_is():
    torch.manual_seed(0)
    feats = torch.cat([torch.randn(60, 8) + 2, torch.randn(60, 8) - 2])
    coords, offsets = torch.rand(120, 3), torch.tensor([0, 50, 50, 120])
    labels = (torch.arange(120) >= 60).long()
    queries = ClassQueries(2, 8, dim=3, heads=2, temperature=0.2)
    learn(queries, feats, coords, offsets, labels)
    logits = queries(feats, coords, offsets)
    assert (logits.argmax(1) == labels).float().mean() > 0.95
    one = queries(feats[50:], coords[50:], torch.tensor([0, 70]))
    torch.testing.assert_close(logits[50:], one, rtol=1e-4, atol=1e-5)
    order = torch.cat([torch.arange(50), 50 + torch.randperm(70)])
    torch.testing.assert_close(queries(feats[order], coords[order], offsets), logits[order], rtol=1e-3, atol=1e-4)
    assert queries(feats[:0], coords[:0], torch.tensor([0, 0])).shape == (0, 2)
    with pytest.raises(ValueError, match="cannot be shared"):
        ClassQueries(2, 9, dim=3, heads=2)


def test_queries_leave_some_probability_to_a_class_without_labels():
    """Where prototypes leave none: the network is drawn to a class that may not exist, though never the likeliest."""
    torch.manual_seed(0)
    feats = torch.cat([torch.randn(60, 8) + 2, torch.randn(60, 8) - 2])
    coords, offsets = torch.rand(120, 3), torch.tensor([0, 120])
    labels = (torch.arange(120) >= 60).long()
    prototypes = Prototypes(3, 8)
    prototypes.update(feats, labels)
    queries = ClassQueries(3, 8, dim=3, heads=2)
    assert float(queries(feats, coords, offsets).detach().softmax(1)[:, 2].mean()) == pytest.approx(1 / 3, abs=0.05)
    learn(queries, feats, coords, offsets, labels)
    pull = {}
    for name, pseudo in (("queries", queries(feats, coords, offsets)), ("prototypes", prototypes(feats))):
        share = pseudo.detach().softmax(1)[:, 2]
        # Cosines of -1 for it and of 1 for the other two are the least that it can have
        least = 1 / (1 + 2 * math.exp(2))
        assert bool((share >= least - 1e-6).all()) if name == "queries" else bool((share == 0).all())
        assert bool((pseudo.argmax(1) == labels).float().mean() > 0.95)
        logits = torch.tensor([[0.0, 0.0, -5.0]]).repeat(120, 1).requires_grad_()
        erda(pseudo.detach(), logits).sum().backward()
        pull[name] = -logits.grad[:, 2]
    assert bool((pull["queries"] > 0).all()) and bool((pull["prototypes"] <= 0).all())


def test_projection_keeps_the_width():
    assert Projection(6)(torch.randn(10, 6)).shape == (10, 6)
