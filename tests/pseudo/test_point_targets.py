"""From clicks to pseudo-masks: targets, and distances to them by rule and learnt."""

import heapq

import numpy as np
import pytest
import torch

from pcseg import losses
from pcseg.batch import IGNORE, PointBatch, cat, offsets_of
from pcseg.ops import GridEdges
from pcseg.pseudo.alike import neighbor_lists
from pcseg.pseudo.learnable_distance import LearnableDistance
from pcseg.pseudo.rule_distance import path_cost, path_distance, straight_distance
from pcseg.pseudo.targets import Targets, dilated, targets_of


def cloud(count: int, seed: int = 0, *, labels=None, instances=None, channels: int = 5) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    return PointBatch(
        coords=torch.rand(count, 3, generator=generator),
        feats=torch.randn(count, channels, generator=generator),
        offsets=offsets_of([count]),
        labels=None if labels is None else torch.tensor(labels),
        instances=None if instances is None else torch.tensor(instances),
    )


def targets(of_row, classes, is_thing) -> Targets:
    return Targets(classes=torch.tensor(classes), is_thing=torch.tensor(is_thing), of_row=torch.tensor(of_row))


# Targets


def test_targets_are_the_things_and_the_stuff_classes_of_each_cloud():
    first = cloud(7, labels=[1, 1, 0, IGNORE, 2, 1, 0], instances=[8, 3, 5, 4, 3, IGNORE, IGNORE])
    second = cloud(2, labels=[IGNORE, IGNORE], instances=[IGNORE, IGNORE])
    found = targets_of(cat([first, second]), (False, True, True))
    assert found[0].classes.tolist() == [0, 1, 1, 2] and found[0].is_thing.tolist() == [False, True, True, True]
    # A stuff class is one target, whatever its instances; the thing without an instance (row 5) is a crowd.
    assert found[0].of_row.tolist() == [2, 1, 0, IGNORE, 3, IGNORE, 0]
    assert found[0].masks[:, 0].tolist() == [0, 0, 1, 0, 0, 0, 1] and found[0].masks[3].sum() == 0
    assert len(found[1]) == 0 and found[1].of_row.tolist() == [IGNORE, IGNORE] and found[1].masks.shape == (2, 0)


def test_targets_need_labels_and_instances():
    with pytest.raises(ValueError, match="has no labels"):
        targets_of(cloud(3), (True,))
    with pytest.raises(ValueError, match="has no instances"):
        targets_of(cloud(1, labels=[0]), (True,))
    assert targets_of(cloud(1, labels=[0]), (False,))[0].of_row.tolist() == [0]


def test_dilation_is_the_nearest_label_within_a_radius():
    batch = cloud(300, 1)
    of_row = torch.full((300,), IGNORE)
    of_row[[5, 9, 200]] = torch.tensor([0, 1, 1])
    before = targets(of_row.tolist(), [0, 1], [True, True])
    found = dilated(batch.coords, before, 0.2).of_row
    apart = torch.cdist(batch.coords, batch.coords[[5, 9, 200]])
    expected = torch.where(apart.amin(1) <= 0.2, torch.tensor([0, 1, 1])[apart.argmin(1)], IGNORE)
    assert torch.equal(found, expected) and (found >= 0).sum() > 10
    assert dilated(batch.coords, before, 0.0) is before


def test_dilation_goes_over_tied_pairs_only():
    """A path of seven rows, one apart, labelled at 0 and at 6; nothing ties rows 1 and 2, and 4 is tied to 5 alone."""
    coords = torch.arange(7.0)[:, None] * torch.tensor([1.0, 0, 0])
    wanted = targets([0, *[IGNORE] * 5, 1], [0, 1], [True, True])
    lists = torch.tensor([[1, 7], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]])
    weight = torch.ones(7, 2)
    assert dilated(coords, wanted, 3.2).of_row.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dilated(coords, wanted, 2.2, GridEdges(lists, weight)).of_row.tolist() == [0, 0, 0, IGNORE, 1, 1, 1]
    weight[1, 1] = weight[2, 0] = 0
    found = dilated(coords, wanted, 3.2, GridEdges(lists, weight))
    assert found.of_row.tolist() == [0, 0, IGNORE, IGNORE, 1, 1, 1]
    nothing = dilated(coords, wanted, 3.2, GridEdges(lists, weight * 0))
    assert nothing.of_row.tolist() == wanted.of_row.tolist()


# The distance loss, by the values of the reference design


def test_distance_loss_by_hand():
    scores = torch.tensor([[np.log(3.0), 0.0]], dtype=torch.float32, requires_grad=True)
    loss = losses.distance_loss(scores, torch.tensor([0]))
    loss.backward()
    torch.testing.assert_close(loss.item(), 0.287682, atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.grad, torch.tensor([[-0.25, 0.25]]))
    near = scores.detach().softmax(1)[0]
    torch.testing.assert_close(near, torch.tensor([0.75, 0.25]))
    # D_own + sum over the others of max(0, 1 - D) / (G - 1), written out
    wide = torch.tensor([[1.0, 0.0, -1.0], [0.2, 0.3, 0.4]])
    away = 1 - wide.softmax(1)
    expected = []
    for row, own in ((0, 2), (1, 1)):
        others = [max(0.0, 1 - float(away[row, h])) for h in range(3) if h != own]
        expected.append(float(away[row, own]) + sum(others) / 2)
    found = losses.distance_loss(wide, torch.tensor([2, 1]), "regression")
    torch.testing.assert_close(float(found), float(np.mean(expected)))


def test_distance_loss_of_nothing_and_of_one():
    scores = torch.randn(4, 3, requires_grad=True)
    nothing = losses.distance_loss(scores, torch.full((4,), IGNORE))
    assert float(nothing) == 0 and nothing.requires_grad
    assert float(losses.distance_loss(torch.randn(4, 1), torch.zeros(4, dtype=torch.long))) == 0
    with pytest.raises(ValueError, match="must be in"):
        losses.distance_loss(scores, torch.tensor([0, 3, 1, 1]))
    with pytest.raises(ValueError, match="kind must be"):
        losses.distance_loss(scores, torch.tensor([0, 0, 1, 1]), "l2")


# Rules


def test_straight_distance_is_to_the_nearest_click():
    batch = cloud(50, 2)
    wanted = targets([0, 0, 1] + [IGNORE] * 47, [0, 1], [True, True])
    found = straight_distance(batch.coords, wanted)
    apart = (batch.coords[:, None] - batch.coords[:3]).norm(dim=2)
    expected = torch.stack([apart[:, :2].amin(1), apart[:, 2]], 1)
    torch.testing.assert_close(found, expected / expected.max())


def test_paths_on_a_strip():
    """A semantic jump between the third and the fourth of five cells: distances 0, 0, 0, 2, 2."""
    probs = torch.tensor([[1.0, 0]] * 3 + [[0, 1.0]] * 2)
    lists = torch.tensor([[1, 5], [0, 2], [1, 3], [2, 4], [3, 5]])
    cost = path_cost(lists, probs, torch.zeros(5), torch.ones(5, 1))
    found = path_distance(lists, cost, targets([0] + [IGNORE] * 4, [0], [True]))
    torch.testing.assert_close((1 - found)[:, 0], torch.tensor([1.0, 1, 1, 0, 0]), atol=1e-6, rtol=0)


def test_path_cost_enters_the_edge_and_paths_are_the_cheapest():
    batch = cloud(120, 3)
    lists = neighbor_lists(batch, k=5, window=3, step=1)
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(120, 3, generator=generator).softmax(1)
    contrast, embedding = torch.rand(120, generator=generator), torch.randn(120, 4, generator=generator)
    cost = path_cost(lists, probs, contrast, embedding, edge_weight=0.3, embedding_weight=0.2)
    unit = embedding / embedding.norm(dim=1, keepdim=True)
    for row, place in ((0, 0), (7, 3), (55, 4)):
        other = int(lists[row, place])
        expected = float((probs[row] - probs[other]).abs().sum() + 0.3 * contrast[other])
        expected += 0.2 * max(0.0, float(1 - unit[row] @ unit[other]))
        assert float(cost[row, place]) == pytest.approx(expected, rel=1e-5)
    wanted = targets([0, 1, 1] + [IGNORE] * 117, [0, 1], [True, True])
    found = path_distance(lists, cost, wanted)
    reference = torch.tensor([shortest(lists, cost, starts) for starts in ([0], [1, 2])]).T
    reachable = torch.isfinite(reference)
    expected = torch.where(reachable, reference / reference[reachable].max(), 1.0)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=0)


def shortest(lists, cost, starts) -> list[float]:
    """Dijkstra with a heap, as a second opinion."""
    best = [float("inf")] * len(lists)
    heap = [(0.0, start) for start in starts]
    while heap:
        so_far, row = heapq.heappop(heap)
        if so_far >= best[row]:
            continue
        best[row] = so_far
        for other, step in zip(lists[row].tolist(), cost[row].tolist(), strict=True):
            if other < len(lists):
                heapq.heappush(heap, (so_far + step, other))
    return best


# The learnable distance


def branch(**settings) -> LearnableDistance:
    torch.manual_seed(0)
    return LearnableDistance(5, dim=3, width=16, heads=2, **settings)


def even(batch: PointBatch) -> torch.Tensor:
    """Class probabilities of a network that knows nothing."""
    return torch.full((batch.num_rows, 2), 0.5)


def two_clouds() -> tuple[PointBatch, list[Targets]]:
    labels = [1, 1, 0, 1] + [IGNORE] * 36
    batch = cat([cloud(40, 1, labels=labels, instances=[4, 2, -1, 9] + [IGNORE] * 36),
                 cloud(30, 2, labels=labels[:30], instances=[1, 2, -1, 2] + [IGNORE] * 26)])  # fmt: skip
    return batch, targets_of(batch, (False, True))


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_rounds_of_scores(rounds):
    batch, wanted = two_clouds()
    found = branch(rounds=rounds)(batch, batch.feats, even(batch), wanted)
    assert len(found) == rounds + 1
    assert [[tuple(s.shape) for s in scores] for scores in found] == [[(40, 4), (30, 3)]] * (rounds + 1)


def test_targets_in_another_order_are_columns_in_another_order():
    batch, wanted = two_clouds()
    order = torch.tensor([2, 0, 3, 1])
    first = wanted[0]
    place = torch.argsort(order)
    of_row = torch.where(first.of_row >= 0, place[first.of_row.clamp(min=0)], IGNORE)
    other = Targets(classes=first.classes[order], is_thing=first.is_thing[order], of_row=of_row)
    net = branch()
    before = net(batch, batch.feats, even(batch), wanted)[-1][0]
    after = net(batch, batch.feats, even(batch), [other, wanted[1]])[-1][0]
    torch.testing.assert_close(after, before[:, order])


def test_without_gradient_chunks_say_the_same(monkeypatch):
    batch, wanted = two_clouds()
    net = branch()
    expected = [scores.softmax(1) for scores in net(batch, batch.feats, even(batch), wanted)[-1]]
    monkeypatch.setattr("pcseg.pseudo.learnable_distance._CHUNK", 7)
    for found, there in zip(net.nearness(batch, batch.feats, even(batch), wanted), expected, strict=True):
        torch.testing.assert_close(found, there, atol=1e-5, rtol=1e-4)


def test_clouds_do_not_see_each_other():
    batch, wanted = two_clouds()
    net = branch()
    alone = PointBatch(coords=batch.coords[40:], feats=batch.feats[40:], offsets=offsets_of([30]))
    torch.testing.assert_close(
        net(alone, alone.feats, even(alone), wanted[1:])[-1][0],
        net(batch, batch.feats, even(batch), wanted)[-1][1],
        atol=1e-5,
        rtol=1e-4,
    )


def test_a_place_moves_to_the_middle_of_its_target_and_stuff_has_none():
    """Two groups of rows, each clicked at its rim: after a round the anchors lie in the groups."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.rand(40, 3, generator=generator) * 0.2 + torch.tensor([[0.0, 0, 0], [2.0, 0, 0]]).repeat_interleave(
        20, 0
    )
    batch = PointBatch(coords=groups, feats=torch.zeros(40, 5), offsets=offsets_of([40]))
    wanted = targets([0] + [IGNORE] * 19 + [1] + [IGNORE] * 19, [1, 1], [True, True])
    net = branch(rounds=1, enhance=False)
    (cloud,) = net._clouds(batch, batch.feats, even(batch), [wanted], None)
    first = net._first(cloud)
    moved = net._improved(first, *net._gathered(first, cloud))
    middles = torch.stack([cloud.places[:20].mean(0), cloud.places[20:].mean(0)])
    torch.testing.assert_close(moved.places, middles, atol=1e-3, rtol=1e-3)
    stuff = Targets(classes=wanted.classes, is_thing=torch.tensor([True, False]), of_row=wanted.of_row)
    scores = net._scores(first, net._rows(cloud)[1], cloud._replace(targets=stuff))
    same = net._scores(first, net._rows(cloud)[1], cloud)
    assert torch.equal(scores[:, 0], same[:, 0]) and (scores[:20, 1] > same[:20, 1]).all()


def test_costs_of_paths_stand_for_the_distance_from_the_middle():
    """Things are scored by exp(-10 cost) beside what the query sees; of stuff the cost says nothing."""
    batch, wanted = two_clouds()
    net = branch(rounds=2)
    generator = torch.Generator().manual_seed(3)
    costs = [torch.rand(n, len(t), generator=generator) for n, t in zip((40, 30), wanted, strict=True)]
    free = [0 * cost for cost in costs]
    given, none = (net(batch, batch.feats, even(batch), wanted, paths) for paths in (costs, free))
    for number, (cost, targets_) in enumerate(zip(costs, wanted, strict=True)):
        torch.testing.assert_close(none[0][number] - given[0][number], 10 * cost * targets_.is_thing, atol=1e-4, rtol=0)
    near = net.nearness(batch, batch.feats, even(batch), wanted, costs)
    for found, scores in zip(near, given[-1], strict=True):
        torch.testing.assert_close(found, scores.softmax(1), atol=1e-5, rtol=1e-4)


def test_switches_leave_their_part_out():
    batch, wanted = two_clouds()
    same = branch(aggregate=False, enhance=False, rounds=2)(batch, batch.feats, even(batch), wanted)
    torch.testing.assert_close(same[2][0], same[0][0])
    for settings in ({"aggregate": False}, {"enhance": False}):
        changed = branch(rounds=1, **settings)(batch, batch.feats, even(batch), wanted)
        assert not torch.allclose(changed[1][0], changed[0][0])
    learnt = branch(query_init="learned", rounds=0)
    scores = learnt(batch, batch.feats, even(batch), wanted)[0][0]
    hidden = [Targets(classes=t.classes, is_thing=t.is_thing, of_row=torch.full_like(t.of_row, IGNORE)) for t in wanted]
    torch.testing.assert_close(learnt(batch, batch.feats, even(batch), hidden)[0][0], scores)
    with pytest.raises(ValueError, match="heads must divide"):
        LearnableDistance(5, dim=3, width=10, heads=4)


def test_a_labelled_row_comes_nearer_to_its_own_target():
    batch, wanted = two_clouds()
    net = branch()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)

    def own() -> torch.Tensor:
        near = net.nearness(batch, batch.feats, even(batch), wanted)[0]
        return near[torch.arange(4), wanted[0].of_row[:4]]

    before = own()
    for _ in range(60):
        rounds = net(batch, batch.feats, even(batch), wanted)
        loss = torch.stack([losses.distance_loss(s[0], wanted[0].of_row) for s in rounds]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (own() > before).all() and (own() > 0.9).all()


def test_no_target_and_one():
    batch = cat([cloud(10, 0, labels=[0] + [IGNORE] * 9), cloud(4, 1, labels=[IGNORE] * 4)])
    wanted = targets_of(batch, (False, False))
    net = branch()
    scores = net(batch, batch.feats, even(batch), wanted)[-1]
    assert [tuple(s.shape) for s in scores] == [(10, 1), (4, 0)]
    near = net.nearness(batch, batch.feats, even(batch), wanted)
    torch.testing.assert_close(near[0], torch.ones(10, 1))
