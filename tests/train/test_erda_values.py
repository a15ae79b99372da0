"""The terms of ERDA against its formulas, written out: prototypes, queries, alignments, and who gets a gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.config import ErdaConfig, LossConfig
from pcseg.methods.erda import Erda
from pcseg.methods.labelled_loss import LabelledLoss
from tests.train.fake_network import FakeNetwork, batch_of, cross_entropy, levels_of

LABELS = [0, 1, 2, IGNORE, IGNORE, 1, IGNORE, 0, IGNORE]
CHANNELS, CLASSES = 4, 3


def erda_of(config: ErdaConfig, *, labels=LABELS, class_weights=None, seed: int = 0) -> tuple[Erda, dict]:
    torch.manual_seed(seed)
    rows = len(labels)
    model = FakeNetwork({"labelled": torch.randn(rows, CLASSES)}, {"labelled": torch.randn(rows, CHANNELS)})
    labelled = LabelledLoss(LossConfig(), class_weights)
    method = Erda(model, labelled, config, num_classes=CLASSES, channels=CHANNELS, dim=3)
    for parameter in method.project.parameters():
        torch.nn.init.normal_(parameter)
    return method, {"labelled": batch_of(labels, coords=torch.rand(rows, 3) * 5)}


def run(method: Erda, streams: dict, progress: float = 1.0) -> dict[str, Tensor]:
    return method(streams, levels_of(streams), progress)


def projected(method: Erda) -> Tensor:  # (N, C), connected to the graph
    """Linear, batch norm, leaky ReLU, linear, written out."""
    first, norm, _, last = method.project
    x = method.model.seen["labelled"] @ first.weight.T
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    x = torch.where(x > 0, x, 0.1 * x)
    return x @ last.weight.T + last.bias


def prototype_logits(h: Tensor, labels: list[int], missing=()) -> Tensor:  # (N, K)
    """Cosines with the means of the labelled rows of each class: all that a first step can know."""
    columns = []
    for k in range(CLASSES):
        rows = [row for row, label in enumerate(labels) if label == k]
        if k in missing:
            columns.append(h.new_full((len(h),), -math.inf))
            continue
        mean = h[rows].detach().mean(0)
        columns.append((h @ mean) / (h.norm(dim=1) * mean.norm()))
    return torch.stack(columns, 1)


def values_of(s: Tensor, z: Tensor, alignment: str, entropy_weight: float) -> Tensor:  # (n,)
    """``lambda H(p) + D(p, q)``, class by class."""
    p, q = s.exp() / s.exp().sum(1, keepdim=True), z.exp() / z.exp().sum(1, keepdim=True)
    m = (p + q) / 2
    distance = {
        "kl_pq": torch.xlogy(p, p) - p * q.log(),
        "kl_qp": q * (q.log() - p.log()),
        "js": (p * (p / m).log() + q * (q / m).log()) / 2,
        "mse": (p - q) ** 2 / 2,
    }[alignment]
    return (distance - entropy_weight * torch.xlogy(p, p)).sum(1)


UNLABELLED = [row for row, label in enumerate(LABELS) if label == IGNORE]


@pytest.mark.parametrize("entropy_weight", [0.0, 0.4, 1.0, 2.0])
@pytest.mark.parametrize("alignment", ["kl_pq", "kl_qp", "js", "mse"])
def test_the_term_is_the_mean_over_unlabelled_rows(alignment, entropy_weight):
    method, streams = erda_of(ErdaConfig(weight=0.3, alignment=alignment, entropy_weight=entropy_weight))
    terms = run(method, streams)
    s, z = prototype_logits(projected(method), LABELS), method.model.logits["labelled"]
    wanted = 0.3 * values_of(s[UNLABELLED], z[UNLABELLED], alignment, entropy_weight).mean()
    assert set(terms) == {"cross_entropy", "erda"} and float(wanted) > 1e-3
    assert float(terms["erda"]) == pytest.approx(float(wanted), rel=1e-4)
    assert float(terms["cross_entropy"]) == pytest.approx(cross_entropy(z, torch.tensor(LABELS)), rel=1e-5)


def test_all_rows_where_asked():
    method, streams = erda_of(ErdaConfig(weight=0.3, rows="all"))
    term = float(run(method, streams)["erda"])
    every = values_of(prototype_logits(projected(method), LABELS), method.model.logits["labelled"], "kl_pq", 1.0)
    assert term == pytest.approx(0.3 * float(every.mean()), rel=1e-4)
    assert abs(float(every.mean()) / float(every[UNLABELLED].mean()) - 1) > 0.01, "both means differ here"


def test_evenly_spaced_rows_where_there_is_a_limit():
    method, streams = erda_of(ErdaConfig(weight=1.0, max_rows=2))
    term = float(run(method, streams)["erda"])
    every = values_of(prototype_logits(projected(method), LABELS), method.model.logits["labelled"], "kl_pq", 1.0)
    assert term == pytest.approx(float(every[[UNLABELLED[0], UNLABELLED[2]]].mean()), rel=1e-4)


def test_rows_weigh_as_the_class_of_their_pseudo_label():
    weights = torch.tensor([0.2, 1.0, 5.0])
    method, streams = erda_of(ErdaConfig(weight=1.0, class_weighted=True), class_weights=weights)
    term = float(run(method, streams)["erda"])
    s = prototype_logits(projected(method), LABELS)[UNLABELLED]
    each = values_of(s, method.model.logits["labelled"][UNLABELLED], "kl_pq", 1.0)
    shares = weights[s.argmax(1)]
    assert len(set(shares.tolist())) > 1, "pseudo-labels of several classes"
    assert term == pytest.approx(float((shares * each).sum() / shares.sum()), rel=1e-4)
    plain, streams = erda_of(ErdaConfig(weight=1.0), class_weights=weights)
    assert float(run(plain, streams)["erda"]) == pytest.approx(float(each.mean()), rel=1e-4)


def test_a_temperature_divides_the_cosines():
    method, streams = erda_of(ErdaConfig(weight=1.0, temperature=0.2))
    s = prototype_logits(projected(method), LABELS)[UNLABELLED] / 0.2
    wanted = values_of(s, method.model.logits["labelled"][UNLABELLED], "kl_pq", 1.0).mean()
    assert float(run(method, streams)["erda"]) == pytest.approx(float(wanted), rel=1e-4)


def test_a_class_that_was_never_seen_has_no_pseudo_label():
    labels = [1 if label == 2 else label for label in LABELS]
    method, streams = erda_of(ErdaConfig(weight=1.0), labels=labels)
    s = prototype_logits(projected(method), labels, missing=(2,))[UNLABELLED]
    wanted = values_of(s, method.model.logits["labelled"][UNLABELLED], "kl_pq", 1.0).mean()
    assert float(run(method, streams)["erda"]) == pytest.approx(float(wanted), rel=1e-4)


def test_one_class_and_no_unlabelled_row_give_0():
    for labels in ([0, IGNORE, 0, IGNORE], [0, 1, 2, 1]):
        method, streams = erda_of(ErdaConfig(weight=1.0), labels=labels)
        term = run(method, streams)["erda"]
        assert float(term) == 0 and term.requires_grad


@pytest.mark.parametrize("absent", ["keep", "reset"])
def test_prototypes_of_a_second_step(absent):
    """They move by 1 - momentum; one whose class the batch lacks stays, or is 0 and has a cosine of 0."""
    method, streams = erda_of(ErdaConfig(weight=1.0, momentum=0.7, absent=absent))
    h = projected(method).detach()
    means = [torch.stack([h[row] for row, y in enumerate(LABELS) if y == k]).mean(0) for k in range(CLASSES)]
    run(method, streams)
    labels = [0, 1, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, 1, IGNORE]
    term = float(run(method, {"labelled": batch_of(labels)})["erda"])
    again = [h[0], (h[1] + h[7]) / 2]
    prototypes = [0.7 * 0.3 * means[k] + 0.3 * again[k] for k in (0, 1)]
    prototypes.append(0.3 * means[2] if absent == "keep" else torch.zeros(CHANNELS))
    s = torch.stack([h @ c / (h.norm(dim=1) * c.norm().clamp(min=1e-12)) for c in prototypes], 1)
    chosen = [row for row, label in enumerate(labels) if label == IGNORE]
    wanted = values_of(s[chosen], method.model.logits["labelled"][chosen], "kl_pq", 1.0).mean()
    assert float(term) == pytest.approx(float(wanted), rel=1e-4)


def test_evaluation_moves_no_prototype():
    method, streams = erda_of(ErdaConfig(weight=1.0))
    method.eval()
    assert float(run(method, streams)["erda"]) == 0 and not method.prototypes.seen.any()


@pytest.mark.parametrize("coadapt", [True, False])
@pytest.mark.parametrize("pseudo", ["prototypes", "queries"])
def test_pseudo_labels_pass_gradients_on_unless_told_not_to(pseudo, coadapt):
    """To the classifier ``q - p``; to projection and features through p, as automatic differentiation finds them."""
    method, streams = erda_of(ErdaConfig(weight=0.3, pseudo=pseudo, coadapt=coadapt, query_heads=2))
    learnt = [*method.project.parameters(), method.model.seen["labelled"]]
    h, logits = projected(method), method.model.logits["labelled"]
    s = prototype_logits(h, LABELS) if pseudo == "prototypes" else query_logits(method, h, streams["labelled"].coords)
    s, z = s[UNLABELLED], logits[UNLABELLED]
    expected = torch.autograd.grad(0.3 * values_of(s, z, "kl_pq", 1.0).mean(), learnt, retain_graph=True)
    term = run(method, streams)["erda" if pseudo == "prototypes" else "erda_queries"]
    found = torch.autograd.grad(term, [*learnt, logits], allow_unused=True)
    for value, wanted in zip(found, expected):
        if coadapt:
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-6)
        else:
            assert value is None or not value.any()
    assert max(float(value.abs().max()) for value in expected) > 1e-3, "there is a gradient to stop"
    by_logits = torch.zeros_like(logits)
    by_logits[UNLABELLED] = 0.3 * (z.softmax(1) - s.softmax(1)) / len(UNLABELLED)
    torch.testing.assert_close(found[-1], by_logits, rtol=1e-4, atol=1e-6)


def query_logits(method: Erda, h: Tensor, coords: Tensor) -> Tensor:  # (N, K)
    """Cosines with class queries that have looked at the rows of one cloud, head by head."""
    net = method.queries
    place = (coords - coords.mean(0)) / coords.std(0, unbiased=False)
    keyed = h + place @ net.place.weight.T + net.place.bias
    asked = net.queries
    for layer, key_value in enumerate(net.key_value):
        both = keyed @ key_value.weight.T + key_value.bias
        keys, values = both[:, :CHANNELS], both[:, CHANNELS:]
        wanted = asked @ net.query[layer].weight.T + net.query[layer].bias
        heads, width = [], CHANNELS // net.heads
        for head in range(net.heads):
            part = slice(head * width, (head + 1) * width)
            attention = torch.softmax(wanted[:, part] @ keys[:, part].T / math.sqrt(width), 1)
            heads.append(attention @ values[:, part])
        seen = torch.cat(heads, 1) @ net.out[layer].weight.T + net.out[layer].bias
        asked = F.layer_norm(asked + seen, (CHANNELS,))
        asked = F.layer_norm(asked + net.hidden[layer](asked), (CHANNELS,))
    return (h @ asked.T) / (h.norm(dim=1)[:, None] * asked.norm(dim=1))


def test_queries_look_at_the_rows_of_their_own_cloud():
    """Both of their terms: entropy with alignment on unlabelled rows, cross entropy on the labelled ones."""
    method, _ = erda_of(ErdaConfig(weight=0.3, pseudo="both", query_heads=2, query_layers=2))
    torch.manual_seed(3)
    coords = torch.rand(9, 3) * 5
    terms = run(method, {"labelled": batch_of(LABELS, coords=coords, lengths=[5, 4])})
    h, z = projected(method), method.model.logits["labelled"]
    s = torch.cat([query_logits(method, h[:5], coords[:5]), query_logits(method, h[5:], coords[5:])])
    wanted = 0.3 * values_of(s[UNLABELLED], z[UNLABELLED], "kl_pq", 1.0).mean()
    assert float(terms["erda_queries"]) == pytest.approx(float(wanted), rel=1e-4)
    assert float(terms["query_cross_entropy"]) == pytest.approx(cross_entropy(s, torch.tensor(LABELS)), rel=1e-4)
    s = prototype_logits(h, LABELS)
    wanted = 0.3 * values_of(s[UNLABELLED], z[UNLABELLED], "kl_pq", 1.0).mean()
    assert float(terms["erda"]) == pytest.approx(float(wanted), rel=1e-4)
