"""Confusion matrix and scores against scikit-learn and torchmetrics."""

import itertools

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as tm

from pcseg.batch import IGNORE
from pcseg.metrics import confusion_matrix, matched, scores


@pytest.fixture
def rows():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 5, (500,), generator=g), torch.randint(-1, 5, (500,), generator=g)


def test_matrix_equals_sklearn(rows):
    predicted, labels = rows
    kept = labels != IGNORE
    expected = sklearn.metrics.confusion_matrix(labels[kept], predicted[kept], labels=range(5))
    assert np.array_equal(confusion_matrix(predicted, labels, 5), expected)


def test_arrays_and_tensors_agree(rows):
    predicted, labels = rows[0].numpy().astype(np.uint8), rows[1].numpy().astype(np.int16)
    labels.flags.writeable = False
    found = confusion_matrix(predicted, labels, 5)
    assert found.dtype == np.int64
    assert np.array_equal(found, confusion_matrix(*rows, 5))


def test_scores_equal_sklearn_and_torchmetrics(rows):
    predicted, labels = rows
    kept = labels != IGNORE
    result = scores(confusion_matrix(predicted, labels, 5))
    truth, guess = labels[kept].numpy(), predicted[kept].numpy()
    np.testing.assert_allclose(result.iou, sklearn.metrics.jaccard_score(truth, guess, average=None))
    assert result.macc == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, guess))
    assert result.oa == pytest.approx(sklearn.metrics.accuracy_score(truth, guess))
    expected = tm.multiclass_jaccard_index(predicted, labels, num_classes=5, ignore_index=IGNORE)
    assert result.miou == pytest.approx(expected.item())


def test_by_hand():
    confusion = np.array([[3, 1, 0], [0, 4, 0], [2, 0, 0]])
    result = scores(confusion)
    np.testing.assert_allclose(result.iou, [3 / 6, 4 / 5, 0])
    np.testing.assert_allclose(result.acc, [3 / 4, 1, 0])
    assert result.oa == pytest.approx(0.7)


def test_parts_add_up_to_the_whole(rows):
    predicted, labels = rows
    total = np.zeros((5, 5), dtype=np.int64)
    for part in range(0, 500, 77):
        total += confusion_matrix(predicted[part : part + 77], labels[part : part + 77], 5)
    assert np.array_equal(total, confusion_matrix(predicted, labels, 5))


def test_absent_class_is_nan_and_left_out_but_a_false_alarm_counts():
    absent = scores(confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1]), 3))
    assert np.isnan(absent.iou[2]) and np.isnan(absent.acc[2])
    assert (absent.miou, absent.macc, absent.oa) == (1.0, 1.0, 1.0)
    alarm = scores(confusion_matrix(torch.tensor([0, 2]), torch.tensor([0, 0]), 3))
    assert alarm.iou[2] == 0.0 and np.isnan(alarm.acc[2])
    assert (alarm.miou, alarm.macc) == (0.25, 0.5)


def test_nothing_labelled_is_nan():
    result = scores(confusion_matrix(torch.tensor([0, 1]), torch.tensor([IGNORE, IGNORE]), 2))
    assert np.isnan([result.miou, result.macc, result.oa]).all()


def test_prediction_of_an_ignored_row_may_be_anything():
    assert confusion_matrix(torch.tensor([0, 99]), torch.tensor([0, IGNORE]), 2).sum() == 1


@pytest.mark.parametrize(
    ("predicted", "labels", "error", "message"),
    [
        ([0, 2], [0, 1], ValueError, r"predicted must be in \[0, 2\), got 2"),
        ([0, 1], [0, 5], ValueError, r"labels must be in \[0, 2\), got 5"),
        ([0, -1], [0, 1], ValueError, "predicted must be .* got -1"),
        ([0], [0, 1], ValueError, r"must be \(N,\)"),
        ([0.0, 1.0], [0, 1], TypeError, "predicted must be integers"),
    ],
)
def test_errors(predicted, labels, error, message):
    with pytest.raises(error, match=message):
        confusion_matrix(torch.tensor(predicted), torch.tensor(labels), 2)


def test_scores_need_a_square_matrix():
    with pytest.raises(ValueError, match=r"confusion must be \(K, K\)"):
        scores(np.zeros((2, 3)))


def test_matching_equals_trying_every_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        confusion = rng.integers(0, 50, (5, 5))
        best = max(np.trace(confusion[:, order]) for order in itertools.permutations(range(5)))
        found = matched(confusion)
        assert np.trace(found) == best
        assert sorted(map(tuple, found.T)) == sorted(map(tuple, confusion.T)), "clusters change places, nothing else"
    with pytest.raises(ValueError, match="must be"):
        matched(np.zeros((2, 3), int))


def test_one_matching_of_the_sum():
    """Parts matched by themselves would flatter: a cluster could be another class in each."""
    parts = [np.array([[9, 1], [2, 8]]), np.array([[1, 6], [7, 0]])]
    assert np.array_equal(matched(sum(parts)), sum(parts)) and scores(matched(sum(parts))).oa == 18 / 34
