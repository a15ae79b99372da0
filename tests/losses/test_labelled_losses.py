"""Losses on labelled rows against hand-computed values, other implementations and finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pcseg.batch import IGNORE
from pcseg.losses import cross_entropy, dice, focal, lovasz_softmax

LOSSES = {"cross_entropy": cross_entropy, "focal": focal, "lovasz_softmax": lovasz_softmax, "dice": dice}


@pytest.fixture
def rows():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=g, dtype=torch.float64)
    labels = torch.randint(-1, 4, (40,), generator=g)  # class 4 is absent
    return logits, labels


def probabilities(*values):  # logits whose softmax is these
    return torch.tensor(values, dtype=torch.float64).log()


def test_values_by_hand():
    logits, labels = probabilities([0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]), torch.tensor([0, 1, IGNORE])
    assert cross_entropy(logits, labels).item() == pytest.approx((math.log(2) - math.log(0.8)) / 2)
    weights = torch.tensor([3.0, 1.0, 7.0])
    assert cross_entropy(logits, labels, class_weights=weights).item() == pytest.approx(
        (3 * math.log(2) - math.log(0.8)) / 4
    )
    assert focal(logits, labels).item() == pytest.approx((0.25 * math.log(2) - 0.04 * math.log(0.8)) / 2)
    # classes 0 and 1 are present: 2 * 0.5 + 1 over 0.6 + 1 + 1, and 2 * 0.8 + 1 over 1.05 + 1 + 1
    assert dice(logits, labels).item() == pytest.approx(1 - (2 / 2.6 + 2.6 / 3.05) / 2)
    # class 0: errors 0.5 (truth), 0.1: Jaccard loss 1 then 1; class 1: 0.25 (no truth), 0.2: Jaccard loss 0.5, then 1
    assert lovasz_softmax(logits, labels).item() == pytest.approx((0.5 * 1 + 0.25 * 0.5 + 0.2 * 0.5) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_equals_torch(rows, smoothing, weighted):
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64) if weighted else None
    expected = F.cross_entropy(*rows, weight=weights, label_smoothing=smoothing, ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(*rows, class_weights=weights, label_smoothing=smoothing), expected)


def test_focal_without_focus_is_cross_entropy(rows):
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    torch.testing.assert_close(focal(*rows, gamma=0.0), cross_entropy(*rows))
    torch.testing.assert_close(
        focal(*rows, gamma=0.0, class_weights=weights), cross_entropy(*rows, class_weights=weights)
    )


def lovasz_extension(errors, truth):
    """From the definition: the mean over levels t in [0, 1] of the set function on the rows with error >= t."""
    levels = np.unique(np.concatenate([[0.0], errors]))
    total = 0.0
    for low, high in itertools.pairwise(levels):
        wrong = errors >= high
        hit = (truth & ~wrong).sum()
        jaccard = hit / (truth | wrong).sum()
        total += (high - low) * (1 - jaccard)
    return total


def test_lovasz_is_the_lovasz_extension_of_the_jaccard_loss(rows):
    logits, labels = rows[0].numpy(), rows[1].numpy()
    kept = labels != IGNORE
    probs = np.exp(logits[kept]) / np.exp(logits[kept]).sum(1, keepdims=True)
    terms = []
    for c in np.unique(labels[kept]):
        truth = labels[kept] == c
        terms.append(lovasz_extension(np.where(truth, 1 - probs[:, c], probs[:, c]), truth))
    assert lovasz_softmax(*rows).item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_lovasz_and_dice_of_certain_predictions_are_one_minus_the_score():
    predicted, labels = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 1, 1, 1, 0, 0])
    logits = 200.0 * F.one_hot(predicted, 2).double()
    assert lovasz_softmax(logits, labels).item() == pytest.approx(1 - 0.5)  # both classes: 2 of 4
    assert dice(logits, labels, smooth=0.0).item() == pytest.approx(1 - 4 / 6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_match_finite_differences(rows, name):
    logits, labels = rows
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_only_labelled_rows_matter(rows, name):
    logits, labels = rows
    kept = labels != IGNORE
    torch.testing.assert_close(LOSSES[name](logits, labels), LOSSES[name](logits[kept], labels[kept]))
    logits.requires_grad_()
    LOSSES[name](logits, labels).backward()
    assert (logits.grad[~kept] == 0).all()


@pytest.mark.parametrize("num_rows", [0, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_labelled_is_a_connected_zero(name, num_rows):
    logits = torch.randn(num_rows, 4, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((num_rows,), IGNORE))
    loss.backward()
    assert loss.item() == 0.0
    assert (logits.grad == 0).all()


def test_classes_of_weight_zero_are_a_connected_zero():
    logits = torch.randn(3, 2, requires_grad=True)
    for loss in (cross_entropy, focal):
        value = loss(logits, torch.tensor([0, 0, IGNORE]), class_weights=torch.tensor([0.0, 1.0]))
        value.backward()
        assert value.item() == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_focal_gradient_is_finite_where_the_row_is_right(gamma):
    logits = torch.tensor([[50.0, -50.0]], requires_grad=True)
    focal(logits, torch.tensor([0]), gamma=gamma).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_falls_under_gradient_descent(rows, name):
    logits = rows[0].clone().requires_grad_()
    before = LOSSES[name](logits, rows[1])
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        LOSSES[name](logits, rows[1]).backward()
        optimizer.step()
    assert LOSSES[name](logits, rows[1]).item() < 0.2 * before.item()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, r"labels must be in \[0, 3\) or -1 \(IGNORE\), got 3"),
        (torch.zeros(2, 3), torch.tensor([0, -2]), ValueError, "got -2"),
        (torch.zeros(2, 3), torch.tensor([0, 255]), ValueError, "got 255"),
        (torch.zeros(2, 3), torch.tensor([0]), ValueError, r"logits \(N, K\) and labels \(N,\) expected"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32), TypeError, "int64, got torch.int32"),
    ],
)
def test_errors(name, logits, labels, error, message):
    with pytest.raises(error, match=message):
        LOSSES[name](logits, labels)


def test_errors_in_settings():
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"class_weights must be \(3,\)"):
        cross_entropy(logits, labels, class_weights=torch.ones(2))
    with pytest.raises(ValueError, match="gamma must be at least 0"):
        focal(logits, labels, gamma=-1.0)
    with pytest.raises(ValueError, match="smooth must be at least 0"):
        dice(logits, labels, smooth=-1.0)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_compiles_without_graph_break(rows, name):
    logits, labels = rows
    compiled = torch.compile(LOSSES[name], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), LOSSES[name](logits, labels))
