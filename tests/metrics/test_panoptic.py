"""Panoptic quality and average precision against counting by hand, an independent count, and torchmetrics."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from pcseg.batch import IGNORE
from pcseg.metrics.instances import average_precision, instance_matches, segment_matches
from pcseg.metrics.panoptic import PanopticCounts, panoptic_counts, panoptic_scores
from pcseg.segments import Segments

THINGS = (True, True, False)


def segments(ids, classes, crowd=(), scores=None) -> Segments:
    flags = np.zeros(len(classes), bool)
    flags[list(crowd)] = True
    given = None if scores is None else np.asarray(scores, float)
    return Segments(ids=np.asarray(ids), classes=np.asarray(classes, np.int64), crowd=flags, scores=given)


def by_dictionary(predicted: Segments, truth: Segments, num_classes: int):
    """The definition, row by row, in exact fractions."""
    pairs: dict[tuple[int, int], int] = {}
    size_p: dict[int, int] = {}
    size_t: dict[int, int] = {}
    for p, t in zip(predicted.ids.tolist(), truth.ids.tolist()):
        pairs[p, t] = pairs.get((p, t), 0) + 1
        size_p[p], size_t[t] = size_p.get(p, 0) + 1, size_t.get(t, 0) + 1
    iou = [Fraction(0)] * num_classes
    matched, unmatched, missed = ([0] * num_classes for _ in range(3))
    taken_p, taken_t = set(), set()
    for (p, t), common in pairs.items():
        if IGNORE in (p, t) or truth.crowd[t] or predicted.classes[p] != truth.classes[t]:
            continue
        value = Fraction(common, size_p[p] + size_t[t] - common - pairs.get((p, IGNORE), 0))
        if value > Fraction(1, 2):
            iou[truth.classes[t]] += value
            matched[truth.classes[t]] += 1
            taken_p.add(p)
            taken_t.add(t)
    for t in range(len(truth)):
        if t not in taken_t and not truth.crowd[t]:
            missed[truth.classes[t]] += 1
    for p in range(len(predicted)):
        if p in taken_p:
            continue
        excused = pairs.get((p, IGNORE), 0)
        for t in range(len(truth)):
            if truth.crowd[t] and truth.classes[t] == predicted.classes[p]:
                excused += pairs.get((p, t), 0)
        if size_p.get(p, 0) and Fraction(excused, size_p[p]) > Fraction(1, 2):
            continue
        unmatched[predicted.classes[p]] += 1
    return [float(v) for v in iou], matched, unmatched, missed


def random_pair(seed: int, crowds: bool):
    """A truth in runs, and a prediction that is it with borders moved, segments renamed and others made up."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 9))
    ids = np.sort(rng.integers(-1, count, 400))
    classes = rng.integers(0, 3, count)
    crowd = [k for k in range(count) if crowds and classes[k] < 2 and rng.random() < 0.4]
    truth = segments(ids, classes, crowd)
    shifted = np.roll(ids, int(rng.integers(-30, 30)))
    shifted[rng.random(400) < 0.1] = rng.integers(-1, count)
    guessed = np.where(rng.random(count) < 0.8, classes, rng.integers(0, 3, count))
    return segments(shifted, guessed), truth


@pytest.mark.parametrize("seed", range(40))
def test_counts_equal_an_independent_count(seed):
    predicted, truth = random_pair(seed, crowds=bool(seed % 2))
    found = panoptic_counts(predicted, truth, 3)
    iou, matched, unmatched, missed = by_dictionary(predicted, truth, 3)
    np.testing.assert_allclose(found.iou, iou, atol=1e-12)
    assert found.matched.tolist() == matched
    assert found.unmatched.tolist() == unmatched
    assert found.missed.tolist() == missed


@pytest.mark.parametrize("seed", range(8))
def test_quality_equals_torchmetrics_where_there_is_no_crowd(seed):
    """Stuff is one segment a class there, so the classes of stuff segments are made to differ."""
    from torchmetrics.detection import PanopticQuality

    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 3, 40), 10)
    instances = np.where(labels < 2, np.repeat(np.arange(40), 10) // 3 * 3 + labels, IGNORE)
    noisy = np.where(rng.random(400) < 0.15, rng.integers(0, 3, 400), labels)
    guessed = np.where(noisy < 2, np.roll(np.repeat(np.arange(40), 10), 2) // 3 * 3 + noisy, IGNORE)
    truth, predicted = (Segments.from_rows(*pair, THINGS) for pair in ((labels, instances), (noisy, guessed)))
    theirs = PanopticQuality(things={0, 1}, stuffs={2}, return_sq_and_rq=True, return_per_class=True)
    stacked = [
        torch.from_numpy(np.stack([a, np.maximum(b, 0)], -1).reshape(1, 20, 20, 2))
        for a, b in ((noisy, guessed), (labels, instances))
    ]
    expected = theirs(*stacked).numpy()  # (3 classes, pq sq rq)
    scores = panoptic_scores(panoptic_counts(predicted, truth, 3), THINGS)
    np.testing.assert_allclose(np.stack([scores.pq, scores.sq, scores.rq], 1), expected, atol=1e-6)
    assert scores.things.pq == pytest.approx(expected[:2, 0].mean(), abs=1e-6)
    assert scores.overall.pq == pytest.approx(expected[:, 0].mean(), abs=1e-6)


def test_by_hand_with_void_and_crowd():
    #                    0  1  2  3  4  5  6  7  8  9 10 11
    truth = segments([0, 0, 0, 0, 1, 1, 1, 1, -1, -1, 2, 2], [0, 0, 2], crowd=[1])
    #   0 matches 0 with 3 of 4 rows and 8 void rows left out; 1 lies in the crowd; 2 in the void; 3 is wrong.
    predicted = segments([0, 0, 0, -1, 1, 1, 1, -1, 2, 2, 3, 3], [0, 0, 1, 1])
    found = panoptic_counts(predicted, truth, 3)
    assert found.iou.tolist() == [0.75, 0, 0]
    assert found.matched.tolist() == [1, 0, 0]
    assert found.unmatched.tolist() == [0, 1, 0], "what lies in the crowd or the void is excused"
    assert found.missed.tolist() == [0, 0, 1], "a crowd is never missed"
    scores = panoptic_scores(found, THINGS)
    assert scores.pq.tolist() == [0.75, 0, 0] and scores.overall.pq == pytest.approx(0.25)
    assert scores.things == pytest.approx((0.375, 0.375, 0.5, 2))
    assert scores.stuff == pytest.approx((0.0, 0.0, 0.0, 1))


def test_half_is_no_match_and_half_in_the_void_is_no_excuse():
    truth = segments([0, 0, -1, 1], [0, 1])
    predicted = segments([0, -1, 1, 1], [0, 0])
    found = panoptic_counts(predicted, truth, 2)
    assert found.matched.tolist() == [0, 0], "an IoU of 1 / 2"
    assert found.unmatched.tolist() == [2, 0] and found.missed.tolist() == [1, 1]


def test_counts_of_scenes_add_up_and_perfection_is_one():
    _, truth = random_pair(3, crowds=False)
    counts = PanopticCounts.none(3)
    for _ in range(3):
        counts += panoptic_counts(truth, truth, 3)
    scores = panoptic_scores(counts, THINGS)
    present = np.unique(truth.classes)
    assert scores.overall == pytest.approx((1.0, 1.0, 1.0, len(present)))
    nothing = panoptic_scores(PanopticCounts.none(3), THINGS)
    assert np.isnan(nothing.overall.pq) and nothing.overall.num_classes == 0


def test_segments_of_rows():
    labels = np.array([0, 0, 1, 2, 2, -1, 1])
    instances = np.array([4, 9, 2, 7, -1, 3, -1])
    found = Segments.from_rows(labels, instances, THINGS)
    assert found.labels.tolist() == labels.tolist()
    assert found.classes.tolist() == [0, 0, 1, 1, 2] and found.crowd.tolist() == [False, False, True, False, False]
    assert found.areas.tolist() == [1, 1, 1, 1, 2]
    assert (found.instances(THINGS) == IGNORE).tolist() == [False, False, False, True, True, True, True]
    with pytest.raises(ValueError, match=r"the instance 5 has rows of the classes \[0, 1\]"):
        Segments.from_rows(np.array([0, 1]), np.array([5, 5]), THINGS)
    with pytest.raises(ValueError, match=r"ids must be in \[0, 1\)"):
        segments([0, 1], [0])
    with pytest.raises(ValueError, match="2 rows are predicted, the truth has 3"):
        panoptic_counts(segments([0, 0], [0]), segments([0, 0, 0], [0]), 3)
    with pytest.raises(ValueError, match=r"classes must be in \[0, 1\)"):
        panoptic_counts(segments([0, 0], [0]), segments([0, 0], [1]), 1)


def test_average_precision_by_hand():
    """Two true things of ten rows: the best guess is right at every threshold, the next made up, the last at 0.6."""
    truth = segments([0] * 10 + [1] * 10 + [2] * 10, [0, 0, 2])
    rows = np.arange(30)
    masks = np.stack([rows < 10, rows >= 25, (rows >= 10) & (rows < 16)])
    found = instance_matches(masks, np.zeros(3, int), np.array([0.9, 0.8, 0.7]), truth, THINGS)
    assert found.true_counts.tolist() == [2, 0, 0]
    scores = average_precision(found)
    # Up to 0.6: precision 1 until recall 1/2, 2/3 until 1; above: 1 until 1/2 and nothing more.
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert scores.ap50 == pytest.approx(low) and scores.ap75 == pytest.approx(high)
    assert scores.ap == pytest.approx((3 * low + 7 * high) / 10)
    assert scores.of_class[0] == scores.ap and np.isnan(scores.of_class[1])


def test_a_crowd_counts_neither_way_and_a_thing_is_found_once():
    truth = segments([0] * 10 + [1] * 10, [0, 0], crowd=[1])
    rows = np.arange(20)
    masks = np.stack([rows < 10, rows < 10, rows >= 12, rows >= 15])
    scores = np.array([0.9, 0.5, 0.95, 0.94])
    found = instance_matches(masks, np.zeros(4, int), scores, truth, THINGS)
    assert found.ignored.sum() == 20 and found.hit.sum() == 10
    assert average_precision(found).ap == pytest.approx(1.0), "the second finder comes after full recall"
    as_segments = segment_matches(segments([0] * 10 + [1] * 10, [0, 0], scores=[0.9, 0.8]), truth, THINGS)
    assert average_precision(as_segments).ap == pytest.approx(1.0)
    with pytest.raises(ValueError, match="have no scores"):
        segment_matches(segments([0], [0]), segments([0], [0]), THINGS)
    with pytest.raises(ValueError, match="classes must be those of things"):
        instance_matches(masks, np.full(4, 2), scores, truth, THINGS)
