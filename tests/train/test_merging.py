"""Proposed masks become one segment a row, by hand."""

import numpy as np
import torch

from pcseg.batch import IGNORE
from pcseg.models.heads import Proposals
from pcseg.panoptic_inference import merge_proposals, proposed_things


def proposals(classes: list[list[float]], masks: list[list[float]]) -> Proposals:
    return Proposals(torch.tensor([classes]).log(), torch.logit(torch.tensor(masks).T, eps=1e-6))


def test_merging_by_hand():
    found = merge_proposals(
        proposals(
            # class 0 is stuff, class 1 things; the last is "nothing"
            [
                [0.9, 0.05, 0.05],
                [0.05, 0.9, 0.05],
                [0.02, 0.95, 0.03],
                [0.6, 0.1, 0.3],
                [0.1, 0.1, 0.8],
                [0.4, 0.3, 0.3],
            ],
            [
                [0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1],  # stuff; row 1 goes to a thing, which comes first
                [0.1, 0.6, 0.9, 0.9, 0.1, 0.1, 0.1],  # a thing, the surest: 0.9 * 0.8
                [0.1, 0.1, 0.1, 0.6, 0.9, 0.1, 0.1],  # another, 0.95 * 0.75; row 3 is taken
                [0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1],  # the same stuff once more
                [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9],  # nothing
                [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9],  # not sure enough
            ],
        ),
        (False, True),
        min_score=0.5,
        min_overlap=0.4,
    )
    assert found.ids.tolist() == [2, 0, 0, 0, 1, 2, IGNORE]
    assert found.classes.tolist() == [1, 1, 0] and not found.crowd.any()
    np.testing.assert_allclose(found.scores, [0.9, 0.95, 0.9], atol=1e-6)


def test_what_little_is_left_of_is_dropped():
    both = proposals([[0.1, 0.8, 0.1], [0.1, 0.7, 0.2]], [[0.9, 0.9, 0.9, 0.1], [0.8, 0.8, 0.8, 0.8]])
    kept = merge_proposals(both, (False, True), min_score=0.5, min_overlap=0.5)
    assert kept.ids.tolist() == [0, 0, 0, IGNORE] and len(kept) == 1
    every = merge_proposals(both, (False, True), min_score=0.5, min_overlap=0.2)
    assert every.ids.tolist() == [0, 0, 0, 1]
    none = merge_proposals(both, (False, True), min_score=0.95, min_overlap=0.5)
    assert len(none) == 0 and none.ids.tolist() == [IGNORE] * 4
    nowhere = proposals([[0.1, 0.8, 0.1]], [[0.1, 0.2]])
    assert len(merge_proposals(nowhere, (False, True), min_score=0.5, min_overlap=0.0)) == 0


def test_proposed_things_may_overlap_and_are_scored():
    found = proposed_things(
        proposals(
            [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]],
            [[0.9, 0.7, 0.1], [0.9] * 3, [0.1, 0.8, 0.1], [0.1] * 3],
        ),
        (False, True),
    )
    # The second is stuff, the last has no row; "nothing" being likelier leaves a low score, not none.
    assert found.classes.tolist() == [1, 1] and found.masks.tolist() == [[True, True, False], [False, True, False]]
    np.testing.assert_allclose(found.scores, [0.5 * 0.8, 0.2 * 0.8], rtol=1e-5)


def test_copies_of_a_surer_thing_are_left_out():
    three = proposals(
        [[0.1, 0.6, 0.3], [0.1, 0.9, 0.0], [0.1, 0.7, 0.2]], [[0.9, 0.9, 0.1], [0.9, 0.9, 0.9], [0.1, 0.1, 0.9]]
    )
    assert proposed_things(three, (False, True), max_copy=0.5).masks.tolist() == [[True] * 3, [False, False, True]]
    assert len(proposed_things(three, (False, True), max_copy=0.3).masks) == 1
