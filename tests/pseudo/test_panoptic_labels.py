"""Pseudo-labels: from distances and classes to a target a row; they agree with the clicks."""

import pytest
import torch

from pcseg.batch import IGNORE
from pcseg.ops import GridEdges
from pcseg.pseudo.graph_cut import expand
from pcseg.pseudo.panoptic_labels import panoptic_labels, target_probs
from pcseg.pseudo.targets import Targets
from tests.pseudo.test_point_targets import targets


def test_pseudo_labels_by_hand():
    wanted = targets([0, IGNORE, 1, IGNORE, IGNORE, 2, IGNORE], [0, 1, 1], [False, True, True])
    probs = torch.tensor(
        [[0.1, 0.9, 0], [0.9, 0.1, 0], [0.9, 0.1, 0], [0.2, 0.8, 0], [0.2, 0.8, 0], [0, 1, 0], [0.1, 0.2, 0.7]]
    )
    near = torch.tensor([[0, 1.0, 0]] * 4 + [[0, 0.3, 0.7]] * 3)
    # Clicks win over what the network says (rows 0 and 2); class 2 has no target (row 6).
    assert panoptic_labels(near, probs, wanted, presence=False).tolist() == [0, 0, 1, 1, 2, 2, IGNORE]
    # Where all classes are known to be here, row 6 is a thing after all: 0.2 / 0.3 of it.
    assert panoptic_labels(near, probs, wanted).tolist() == [0, 0, 1, 1, 2, 2, 2]
    sure = panoptic_labels(near, probs, wanted, min_confidence=0.85)
    assert sure.tolist() == [0, 0, 1, IGNORE, IGNORE, 2, IGNORE]
    assert panoptic_labels(near, probs, wanted, by="distance").tolist() == [0, 1, 1, 1, 2, 2, 2]
    nothing = targets([IGNORE] * 7, [], [])
    empty = Targets(
        classes=torch.zeros(0, dtype=torch.long), is_thing=torch.zeros(0, dtype=torch.bool), of_row=nothing.of_row
    )
    assert panoptic_labels(torch.zeros(7, 0), probs, empty).tolist() == [IGNORE] * 7


def test_pseudo_labels_agree_with_every_click():
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        of_row = torch.randint(-1, 6, (200,), generator=generator)
        of_row[:6] = torch.arange(6)
        classes = torch.tensor([0, 1, 2, 2, 2, 3])
        wanted = Targets(classes=classes, is_thing=classes >= 2, of_row=of_row)
        near = torch.rand(200, 6, generator=generator).softmax(1)
        probs = torch.rand(200, 5, generator=generator).softmax(1)
        found = panoptic_labels(near, probs, wanted, min_confidence=0.0)
        clicked = of_row >= 0
        assert torch.equal(found[clicked], of_row[clicked])
        free = ~clicked
        score = near * probs[:, classes]
        things = torch.tensor([2, 3, 4, 5])
        here = probs[:, :4].argmax(1)
        expected = torch.where(here >= 2, things[score[:, things].argmax(1)], here)
        assert torch.equal(found[free], expected[free])


def test_probabilities_of_targets():
    wanted = targets([IGNORE] * 2, [0, 1, 1, 2], [False, True, True, True])
    probs = torch.tensor([[0.4, 0.3, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0]])
    near = torch.tensor([[0.25, 0.5, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4]])
    # Things have 0.5 together, by 0.5 * 0.3, 0.25 * 0.3 and 0 * 0.2; class 3 has no target.
    torch.testing.assert_close(
        target_probs(near, probs, wanted), torch.tensor([[0.4, 1 / 3, 1 / 6, 0], [1.0, 0, 0, 0]])
    )


def a_border_too_far() -> tuple[torch.Tensor, torch.Tensor, Targets, GridEdges]:
    """Ten rows in a line, the table and a box; ties end between rows 5 and 6, the network puts the border at 4."""
    wanted = targets([0, *[IGNORE] * 8, 1], [0, 1], [False, True])
    box = torch.tensor([0.1, 0.1, 0.1, 0.2, 0.7, 0.7, 0.8, 0.9, 0.9, 0.9])
    probs = torch.stack([1 - box, box], 1)
    neighbors = torch.tensor([[i - 1 if i else 10, i + 1] for i in range(10)])
    weight = torch.ones(10, 2)
    weight[5, 1] = weight[6, 0] = 0.0
    return torch.ones(10, 2), probs, wanted, GridEdges(neighbors, weight)


@pytest.mark.parametrize("by", ["classes", "distance"])
def test_borders_move_to_where_ties_end(by):
    near, probs, wanted, ties = a_border_too_far()
    near = probs if by == "distance" else near
    plain = panoptic_labels(near, probs, wanted, by=by)
    assert plain.tolist() == [0] * 4 + [1] * 6
    assert torch.equal(panoptic_labels(near, probs, wanted, by=by, ties=ties), plain)
    smoothed = panoptic_labels(near, probs, wanted, by=by, ties=ties, smoothing=6.0)
    assert smoothed.tolist() == [0] * 6 + [1] * 4
    # So does the hard labelling of least cost, by graph cut.
    hard = expand(-probs.log(), ties, wanted.of_row)
    assert torch.equal(smoothed, hard)
    everywhere = GridEdges(ties.neighbors, torch.ones(10, 2))  # nothing says where: the border stays
    kept = panoptic_labels(near, probs, wanted, by=by, ties=everywhere, smoothing=1.0)
    assert kept.tolist() == plain.tolist()


def test_smoothed_labels_agree_with_clicks_and_may_be_none():
    near, probs, wanted, ties = a_border_too_far()
    against = Targets(
        classes=wanted.classes, is_thing=wanted.is_thing, of_row=torch.where(wanted.of_row == 1, 0, wanted.of_row)
    )
    against.of_row[3] = 1
    found = panoptic_labels(near, probs, against, ties=ties, smoothing=100.0)
    assert found[[0, 3, 9]].tolist() == [0, 1, 0]
    unsure = panoptic_labels(near, probs, wanted, ties=ties, smoothing=6.0, min_confidence=0.75)
    assert unsure.tolist() == [0, 0, 0, 0, IGNORE, IGNORE, 1, 1, 1, 1]  # the network is not sure of rows 4 and 5
    # Row 2 is of a class without a target: nothing's, however sure its neighbours are.
    other = torch.cat([probs, torch.zeros(10, 1)], 1)
    other[2] = torch.tensor([0.1, 0.1, 0.8])
    found = panoptic_labels(near, other, wanted, presence=False, ties=ties, smoothing=6.0)
    assert found.tolist() == [0, 0, IGNORE, 0, 0, 0, 1, 1, 1, 1]
    one = targets([0, *[IGNORE] * 9], [1], [True])
    assert panoptic_labels(near[:, :1], probs, one, ties=ties, smoothing=6.0).tolist() == [0] * 10
