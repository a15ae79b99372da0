"""Entropy minimisation, pseudo-labels, consistency and IPixMatch against their formulas, written out."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.config import (
    ConsistencyConfig,
    EntropyMinimizationConfig,
    IPixMatchConfig,
    LossConfig,
    PseudoLabelConfig,
)
from pcseg.methods.consistency import Consistency
from pcseg.methods.entropy_minimization import EntropyMinimization
from pcseg.methods.ipixmatch import IPixMatch
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.pseudo_label import PseudoLabel
from tests.train.fake_network import FakeNetwork, batch_of, cross_entropy, levels_of

LABELS = [0, IGNORE, IGNORE, 2, IGNORE, IGNORE]
FREE = [1, 2, 4, 5]
CLASSES, CHANNELS = 3, 4
ROWS = {"strong_view": [3, 0, 0, 2, 5, 6, 7], "strong_view_2": [2, 6, 1]}
"""Rows of the weak view, which has two clouds of four, that the strong views show."""
LENGTHS = {"strong_view": [4, 3], "strong_view_2": [1, 2]}


def run(method, streams, progress: float = 1.0) -> dict[str, Tensor]:
    return method(streams, levels_of(streams), progress)


def softmax(z: Tensor) -> Tensor:
    return z.detach().double().exp() / z.detach().double().exp().sum(1, keepdim=True)


def one_stream(kind, config):
    torch.manual_seed(0)
    model = FakeNetwork({"labelled": 1.5 * torch.randn(6, CLASSES)})
    return kind(model, LabelledLoss(LossConfig()), config), {"labelled": batch_of(LABELS)}


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (1.0, 1.0)])
def test_entropy_of_unlabelled_rows(progress, factor):
    method, streams = one_stream(EntropyMinimization, EntropyMinimizationConfig(weight=0.3, warmup=0.2))
    terms = run(method, streams, progress)
    q = softmax(method.model.logits["labelled"])
    wanted = 0.3 * factor * float(-(q * q.log())[FREE].sum(1).mean())
    assert float(terms["entropy"]) == pytest.approx(wanted, rel=1e-5)
    labelled = cross_entropy(method.model.logits["labelled"], torch.tensor(LABELS))
    assert float(terms["cross_entropy"]) == pytest.approx(labelled, rel=1e-5)


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 0.0), (0.1, 0.5), (1.0, 1.0)])
def test_pseudo_labels_of_confident_rows(progress, factor):
    """The sum over them, over the number of all unlabelled rows."""
    method, streams = one_stream(PseudoLabel, PseudoLabelConfig(weight=0.3, threshold=0.7))
    best = softmax(method.model.logits["labelled"]).amax(1)
    sure = [row for row in FREE if best[row] >= 0.7]
    assert 0 < len(sure) < len(FREE) and best[0] > 0.7, "a labelled row is sure as well"
    wanted = -0.3 * factor * float(best[sure].log().sum()) / len(FREE)
    assert float(run(method, streams, progress)["pseudo_label"]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_pseudo_labels_of_all_rows_and_of_none(threshold):
    method, streams = one_stream(PseudoLabel, PseudoLabelConfig(weight=0.3, threshold=threshold))
    term = run(method, streams)["pseudo_label"]
    wanted = -0.3 * float(softmax(method.model.logits["labelled"]).amax(1)[FREE].log().mean())
    assert float(term) == pytest.approx(wanted if threshold == 0 else 0.0, rel=1e-5) and wanted > 0.01
    (gradient,) = torch.autograd.grad(term, method.model.logits["labelled"])
    assert bool(torch.isfinite(gradient).all()) and bool(gradient.any()) == (threshold == 0)


def views(config: ConsistencyConfig, *, second: bool | None = None):
    """A method with a weak view of eight rows in two clouds, and strong views of some of these rows."""
    torch.manual_seed(2)
    names = ["strong_view", "strong_view_2"][: 2 if (config.host == "unimatch" if second is None else second) else 1]
    logits = {"labelled": torch.randn(6, CLASSES), "weak_view": 2 * torch.randn(8, CLASSES)}
    logits |= {name: torch.randn(len(ROWS[name]), CLASSES) for name in names}
    model = FakeNetwork(logits, {name: torch.randn(len(value), CHANNELS) for name, value in logits.items()})
    streams = {"labelled": batch_of(LABELS), "weak_view": batch_of(None, lengths=[4, 4])}
    streams |= {name: batch_of(None, rows=ROWS[name], lengths=LENGTHS[name]) for name in names}
    average = {f"logits.{name}": 2 * torch.randn_like(value) for name, value in logits.items()}
    method = Consistency(model, LabelledLoss(LossConfig()), config, average=average)
    return (IPixMatch(method, config) if isinstance(config, IPixMatchConfig) else method), streams, average


def taught(t: Tensor, s: Tensor, threshold: float) -> float:
    """Cross entropy with the most likely class of the teacher where it is likely enough, over all rows."""
    p, q = softmax(t), softmax(s)
    best, named = p.max(1)
    cost = -q[torch.arange(len(q)), named].log()
    return float(torch.where(best >= threshold, cost, 0.0).sum()) / len(q)


@pytest.mark.parametrize("teacher", ["shared", "average"])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8, 1.0])
def test_fixmatch(threshold, teacher):
    config = ConsistencyConfig(host="fixmatch", threshold=threshold, weight=0.7, teacher=teacher)
    method, streams, average = views(config)
    terms, model = run(method, streams), method.model
    weak = model.logits["weak_view"] if teacher == "shared" else average["logits.weak_view"]
    t, s = weak[ROWS["strong_view"]], model.logits["strong_view"]
    best = softmax(t).amax(1)
    counts = {0.0: range(7, 8), 1.0: range(1)}.get(threshold, range(1, 7))
    assert int((best >= threshold).sum()) in counts
    wanted = 0.7 * taught(t, s, threshold)
    assert float(terms["consistency"]) == pytest.approx(wanted, rel=1e-5) and (wanted > 0) == (threshold < 1)
    labelled = cross_entropy(model.logits["labelled"], torch.tensor(LABELS))
    assert float(terms["cross_entropy"]) == pytest.approx(labelled, rel=1e-5)
    by = [model.logits["strong_view"], model.logits["weak_view"]]
    student, weak = torch.autograd.grad(terms["consistency"], by, allow_unused=True)
    assert bool(torch.isfinite(student).all()) and bool(student.any()) == (threshold < 1)
    assert weak is None or not weak.any(), "the teacher learns nothing"


def test_the_average_looks_on_in_evaluation_mode():
    for teacher, training in (("average", False), ("shared", True)):
        method, streams, _ = views(ConsistencyConfig(host="fixmatch", teacher=teacher))
        run(method, streams)
        assert dict(method.model.modes) == {"labelled": True, "weak_view": training, "strong_view": True}
        assert method.model.training


def test_consistency_rises_with_its_warm_up():
    method, streams, _ = views(ConsistencyConfig(threshold=0.5, warmup=0.4))
    whole, half, none = (float(run(method, streams, progress)["consistency"]) for progress in (0.4, 0.2, 0.0))
    assert half == pytest.approx(whole / 2, rel=1e-6) and none == 0 and whole > 0


def test_mean_teacher_is_the_squared_difference_of_probabilities():
    """The average teaches, and all rows count, however undecided it is."""
    method, streams, average = views(ConsistencyConfig(host="mean_teacher", threshold=1.0, weight=0.7))
    p = softmax(average["logits.weak_view"][ROWS["strong_view"]])
    q = softmax(method.model.logits["strong_view"])
    wanted = 0.7 * float(((p - q) ** 2).sum()) / 7
    assert float(run(method, streams)["consistency"]) == pytest.approx(wanted, rel=1e-5)


def perturbed(model: FakeNetwork, masks) -> Tensor:  # (8, K) logits of the weak view's features, by cloud
    feats = model.seen["weak_view"] * torch.tensor(masks).repeat_interleave(4, 0)
    return feats @ model.classifier.weight.T + model.classifier.bias


@pytest.mark.parametrize("threshold", [0.0, 0.8, 1.0])
def test_unimatch_is_a_quarter_of_each_strong_view_and_half_of_perturbed_features(threshold):
    config = ConsistencyConfig(host="unimatch", threshold=threshold, weight=0.7, feature_dropout=0.0)
    method, streams, _ = views(config)
    model, weak = method.model, method.model.logits["weak_view"]
    parts = [0.25 * taught(weak[ROWS[name]], model.logits[name], threshold) for name in ROWS]
    parts.append(0.5 * taught(weak, perturbed(model, [[1.0] * CHANNELS] * 2), threshold))
    term = run(method, streams)["consistency"]
    assert float(term) == pytest.approx(0.7 * sum(parts), rel=1e-5)
    assert all(part > 0.01 for part in parts) if threshold < 1 else float(term) == 0
    (gradient,) = torch.autograd.grad(term, model.seen["weak_view"])
    assert bool(torch.isfinite(gradient).all()) and bool(gradient.any()) == (threshold < 1)


def test_unimatch_drops_whole_channels_of_each_cloud():
    """Each channel of a cloud is 0 or twice as large; which ones is drawn anew at every step."""
    method, streams, _ = views(ConsistencyConfig(host="unimatch", threshold=0.0, feature_dropout=0.5))
    model, weak = method.model, method.model.logits["weak_view"]
    strong = sum(0.25 * taught(weak[ROWS[name]], model.logits[name], 0.0) for name in ROWS)
    of_cloud = list(itertools.product((0.0, 2.0), repeat=CHANNELS))
    possible = torch.tensor(
        [strong + 0.5 * taught(weak, perturbed(model, masks), 0.0) for masks in itertools.product(of_cloud, of_cloud)]
    )
    drawn = []
    for seed in range(12):
        torch.manual_seed(seed)
        away = (possible - float(run(method, streams)["consistency"])).abs()
        assert float(away.min()) < 1e-5
        drawn.append(int(away.argmin()))
    assert len(set(drawn)) > 6
    assert any(first != second for first, second in (divmod(mask, len(of_cloud)) for mask in drawn)), "by cloud"


def related(t: Tensor, s: Tensor, clouds: list[list[int]], config: IPixMatchConfig) -> float:
    """Relations between the confident rows of each cloud, mean over the clouds that have two of them."""
    best, tau, found = softmax(t).amax(1), config.temperature, []
    for cloud in clouds:
        rows = [row for row in cloud if best[row] >= config.threshold]
        if len(rows) < 2:
            continue
        a, b = t.detach().double()[rows], s.detach().double()[rows]
        if config.relation == "correlation":
            a, b = softmax(a) - softmax(a).mean(0), softmax(b) - softmax(b).mean(0)
            found.append(float((1 - (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).mean()))
            continue
        a, b = (softmax(a), softmax(b)) if config.relation_on == "probs" else (a, b)
        if config.relation == "kl":  # of each class over the rows
            p, q = softmax(a.T / tau), softmax(b.T / tau)
            found.append(tau**2 * float((p * (p / q).log()).sum(1).mean()))
            continue
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        total = 0.0
        for i in range(len(rows)):
            others = [j for j in range(len(rows)) if j != i]
            p, q = softmax((a[others] @ a[i] / tau)[None]), softmax((b[others] @ b[i] / tau)[None])
            total += float((p * (p / q).log()).sum())
        found.append(total / len(rows))
    return sum(found) / len(found) if found else 0.0


CLOUDS = {"strong_view": [[0, 1, 2, 3], [4, 5, 6]], "strong_view_2": [[0], [1, 2]]}


@pytest.mark.parametrize("threshold", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("scope", ["sample", "batch"])
@pytest.mark.parametrize(
    "form",
    [
        {"relation": "kl"},
        {"relation": "kl", "relation_on": "probs", "temperature": 2.0},
        {"relation": "correlation"},
        {"relation": "affinity", "temperature": 0.5},
    ],
    ids=lambda form: "_".join(map(str, form.values())),
)
def test_ipixmatch_relates_confident_rows(form, scope, threshold):
    config = IPixMatchConfig(threshold=threshold, scope=scope, relation_weight=0.6, **form)
    method, streams, _ = views(config)
    terms, model = run(method, streams), method.model
    t, s = model.logits["weak_view"][ROWS["strong_view"]], model.logits["strong_view"]
    clouds = CLOUDS["strong_view"] if scope == "sample" else [[0, 1, 2, 3, 4, 5, 6]]
    wanted = 0.6 * related(t, s, clouds, config)
    assert float(terms["relation"]) == pytest.approx(wanted, rel=1e-4, abs=1e-7) and (wanted > 0) == (threshold < 1)
    assert float(terms["consistency"]) == pytest.approx(taught(t, s, threshold), rel=1e-5)
    by = [model.logits["strong_view"], model.logits["weak_view"]]
    student, weak = torch.autograd.grad(terms["relation"], by, allow_unused=True)
    assert bool(torch.isfinite(student).all()) and bool(student.any()) == (threshold < 1)
    assert weak is None or not weak.any(), "the teacher learns nothing"


def test_ipixmatch_weighs_the_views_of_its_host_and_warms_up():
    config = IPixMatchConfig(host="unimatch", threshold=0.0, relation_weight=0.6, feature_dropout=0.0, warmup=0.4)
    method, streams, _ = views(config)
    model, weak = method.model, method.model.logits["weak_view"]
    parts = [0.25 * related(weak[ROWS[name]], model.logits[name], CLOUDS[name], config) for name in ROWS]
    fed = perturbed(model, [[1.0] * CHANNELS] * 2)
    parts.append(0.5 * related(weak, fed, [[0, 1, 2, 3], [4, 5, 6, 7]], config))
    assert all(part > 1e-3 for part in parts)
    assert float(run(method, streams, 0.4)["relation"]) == pytest.approx(0.6 * sum(parts), rel=1e-4)
    assert float(run(method, streams, 0.1)["relation"]) == pytest.approx(0.15 * sum(parts), rel=1e-4)


def test_ipixmatch_of_an_average_teacher():
    config = IPixMatchConfig(teacher="average", threshold=0.5, relation_weight=0.6)
    method, streams, average = views(config)
    t, s = average["logits.weak_view"][ROWS["strong_view"]], method.model.logits["strong_view"]
    wanted = 0.6 * related(t, s, CLOUDS["strong_view"], config)
    assert float(run(method, streams)["relation"]) == pytest.approx(wanted, rel=1e-4) and math.isfinite(wanted)
    assert wanted > 0
