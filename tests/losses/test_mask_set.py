"""The set loss of masks: matching against all permutations, values written out, nothing to match."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from pcseg.batch import IGNORE
from pcseg.losses import mask_set_loss, seeded_mask_loss
from pcseg.losses.mask_set import match_masks

WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 3.0}


def proposals(queries: int, targets: int, rows: int = 30, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(queries, classes + 1, generator=generator),
        3 * torch.randn(rows, queries, generator=generator),
        torch.randint(0, classes, (targets,), generator=generator),
        (torch.rand(rows, targets, generator=generator) < 0.3).float(),
    )


def pair_cost(class_logits, mask_logits, classes, masks, q, g) -> float:
    cross = F.binary_cross_entropy_with_logits(mask_logits[:, q], masks[:, g])
    inside = mask_logits[:, q].sigmoid()
    dice = 1 - (2 * (inside * masks[:, g]).sum() + 1) / (inside.sum() + masks[:, g].sum() + 1)
    prob = class_logits[q].softmax(0)[classes[g]]
    return float(WEIGHTS["class_weight"] * -prob + WEIGHTS["mask_weight"] * cross + WEIGHTS["dice_weight"] * dice)


@pytest.mark.parametrize(("queries", "targets"), [(5, 3), (4, 4), (2, 4)])
def test_the_matching_is_the_cheapest(queries, targets):
    given = proposals(queries, targets, seed=queries)
    chosen, wanted = match_masks(*given, **WEIGHTS)
    found = sum(pair_cost(*given, q, g) for q, g in zip(chosen.tolist(), wanted.tolist(), strict=True))
    few, many = sorted((queries, targets))
    best = min(
        sum(pair_cost(*given, *((q, g) if queries <= targets else (g, q))) for q, g in enumerate(order))
        for order in itertools.permutations(range(many), few)
    )
    assert len(chosen) == few and found == pytest.approx(best, rel=1e-5)


def test_the_loss_is_that_of_the_matched_pairs():
    class_logits, mask_logits, classes, masks = proposals(4, 2)
    chosen, wanted = match_masks(class_logits, mask_logits, classes, masks, **WEIGHTS)
    target = torch.full((4,), 3)
    target[chosen] = classes[wanted]
    weights = torch.where(target == 3, 0.1, 1.0)
    log_probs = class_logits.log_softmax(1)[torch.arange(4), target]
    expected = 2.0 * float(-(weights * log_probs).sum() / weights.sum())
    pairs = list(zip(chosen.tolist(), wanted.tolist(), strict=True))
    for q, g in pairs:
        with_class = pair_cost(class_logits, mask_logits, classes, masks, q, g)
        expected += (with_class + 2.0 * float(class_logits[q].softmax(0)[classes[g]])) / len(pairs)
    found = mask_set_loss(class_logits, mask_logits, classes, masks, nothing_weight=0.1, **WEIGHTS)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_right_proposals_cost_little_and_learn():
    masks = F.one_hot(torch.arange(30) // 10, 3).float()
    classes = torch.tensor([0, 2, 2])
    sure = torch.full((5, 4), -12.0)
    sure[[0, 1, 2, 3, 4], [2, 3, 0, 3, 2]] = 12.0
    order = [1, None, 0, None, 2]
    logits = torch.stack([torch.full((30,), -12.0) if g is None else 24 * masks[:, g] - 12 for g in order], 1)
    assert float(mask_set_loss(sure, logits, classes, masks)) < 1e-3
    worse = mask_set_loss(sure, -logits, classes, masks)
    assert float(worse) > 5
    leaf = logits.clone().requires_grad_()
    mask_set_loss(sure, leaf * 0.1, classes, masks).backward()
    assert leaf.grad is not None and leaf.grad[:, 0].abs().sum() > 0 and leaf.grad[:, 1].abs().sum() == 0


def test_nothing_to_find():
    class_logits, mask_logits, _, _ = proposals(4, 1)
    class_logits.requires_grad_()
    none = mask_set_loss(class_logits, mask_logits, torch.zeros(0, dtype=torch.long), torch.zeros(30, 0))
    expected = 2.0 * F.cross_entropy(class_logits, torch.full((4,), 3))
    torch.testing.assert_close(none, expected)
    none.backward()
    assert torch.isfinite(mask_set_loss(class_logits, mask_logits[:0], torch.tensor([1]), torch.zeros(0, 1)))
    broken = mask_logits.clone()
    broken[0, 0] = float("nan")
    assert len(match_masks(class_logits, broken, torch.tensor([1]), torch.ones(30, 1), **WEIGHTS)[0]) == 1


def test_seeded_proposals_learn_the_target_that_they_began_in():
    class_logits, mask_logits, classes, masks = proposals(5, 2)
    seeds = torch.tensor([1, IGNORE, 0, 1, IGNORE])
    pairs = [(0, 1), (2, 0), (3, 1)]
    expected = 0.0
    for q, g in pairs:
        named = float(F.cross_entropy(class_logits[q : q + 1], classes[g : g + 1]))
        with_class = pair_cost(class_logits, mask_logits, classes, masks, q, g)
        expected += (with_class + 2.0 * float(class_logits[q].softmax(0)[classes[g]]) + 2.0 * named) / len(pairs)
    found = seeded_mask_loss(class_logits, mask_logits, classes, masks, seeds, **WEIGHTS)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    leaf = mask_logits.clone().requires_grad_()
    seeded_mask_loss(class_logits, leaf, classes, masks, seeds, **WEIGHTS).backward()
    assert (leaf.grad.abs().sum(0) > 0).tolist() == [True, False, True, True, False]
    nothing = seeded_mask_loss(class_logits, leaf, classes, masks, torch.full((5,), IGNORE), **WEIGHTS)
    assert float(nothing.detach()) == 0 and nothing.requires_grad
