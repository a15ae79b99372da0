"""Potts relaxations and couplings against hand-computed values, identities and finite differences."""

import math

import pytest
import torch
from torch import Tensor

from pcseg.losses.potts import coupling, pairwise
from pcseg.ops.potts_energy import RELAXATIONS, Relaxation

KINDS = ("ce", "rce", "cce")
ALONG = (0.1, 0.25, 0.5)


def logs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def close(found: Tensor, expected, atol: float = 6e-7) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=atol)


# p = (.7, .2, .1), q = (.2, .5, .3): value, gradient to p, gradient to the logits of p
POINT: dict[Relaxation, tuple] = {
    "bl": (0.73, (-0.2, -0.5, -0.3), (0.049, -0.046, -0.003)),
    "q": (0.19, (0.5, -0.3, -0.2), (0.161, -0.114, -0.047)),
    "nq": (0.403960, (0.331133, -0.883022, -0.551888), (0.231793, -0.176604, -0.055189)),
    "cce": (1.309333, (-0.740741, -1.851852, -1.111111), (0.181481, -0.170370, -0.011111)),
    "cd": (0.517448, (0.555556, -1.481481, -0.925926), (0.388889, -0.296296, -0.092593)),
    "lq": (0.210721, (0.617284, -0.370370, -0.246914), (0.198765, -0.140741, -0.058025)),
}


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_value_and_gradients_at_a_point(relaxation):
    value, to_probs, to_logits = POINT[relaxation]
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64, requires_grad=True), logs(0.2, 0.5, 0.3)
    out = pairwise(p.log(), q, relaxation)
    close(out, value)
    (grad,) = torch.autograd.grad(out, p)
    # lq takes 1 - p_k as the sum of the others, so that the part of its gradient off the simplex is another
    along = torch.ones(3, dtype=torch.float64) if relaxation == "lq" else torch.zeros(3, dtype=torch.float64)
    shift = ((grad - torch.tensor(to_probs, dtype=torch.float64)) * along).mean()
    close(grad - shift, to_probs)
    logits = logs(0.7, 0.2, 0.1).requires_grad_()
    pairwise(torch.log_softmax(logits, 0), q, relaxation).backward()
    close(logits.grad, to_logits)


def test_half_and_one_hot():
    values = {"bl": 0.5, "q": 0.25, "nq": 0.292893, "cce": 0.693147, "cd": 0.346574, "lq": 0.287682}
    slopes = {"bl": 0.25, "q": 0.25, "nq": 0.353553, "cce": 0.5, "cd": 0.5, "lq": 1 / 3}
    for relaxation in RELAXATIONS:
        logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        out = pairwise(torch.log_softmax(logits, 0), logs(1, 0), relaxation)
        out.backward()
        close(out, values[relaxation])
        close(logits.grad, [-slopes[relaxation], slopes[relaxation]])


def test_both_ends_move_together():
    """Inside a region: only the bilinear forms have a barrier."""
    expected = {"bl": (0.18, 0.375, 0.5), "cce": (0.198451, 0.470004, 0.693147)}
    for relaxation in RELAXATIONS:
        for t, value in zip(ALONG, expected.get(relaxation, (0, 0, 0))):
            close(pairwise(logs(1 - t, t), logs(1 - t, t), relaxation), value)


def test_one_end_moves_between_other_classes():
    """At a boundary: only the quadratic forms have a soft minimum; one-hot ends cost a large finite energy."""
    expected = {"bl": (1, 1, 1), "q": (1, 0.8125, 0.75), "nq": (1, 1, 1), "lq": (None, 1.673976, 1.386294)}
    for relaxation, values in expected.items():
        for t, value in zip((0, 0.25, 0.5), values):
            if value is not None:
                close(pairwise(logs(1, 0, 0), logs(0, 1 - t, t), relaxation), value)
    floor = math.exp(-30)
    for t in (0, 0.25, 0.5):
        close(pairwise(logs(1, 0, 0), logs(0, 1 - t, t), "cce"), -math.log((2 - t if t == 0 else 2) * floor), 1)
        # Without the floor infinite at every t: p.q is 2 floors, the norm of p is 1
        norm = math.hypot(1 - t, t)
        close(pairwise(logs(1, 0, 0), logs(0, 1 - t, t), "cd"), 30 - math.log(2) + math.log(norm))
    assert 28 < pairwise(logs(1, 0, 0), logs(0, 1, 0), "lq") < 30


@pytest.mark.parametrize("classes", [2, 3, 5, 21])
def test_both_ends_undecided(classes):
    """Only the bilinear forms charge for it: 1 - 1 / K and ln K."""
    uniform = torch.full((classes,), -math.log(classes), dtype=torch.float64)
    expected = {"bl": 1 - 1 / classes, "cce": math.log(classes)}
    for relaxation in RELAXATIONS:
        close(pairwise(uniform, uniform, relaxation), expected.get(relaxation, 0.0), atol=1e-12)


def test_one_element_between_two():
    expected = {
        "bl": (1, 1, 1), "q": (1, 0.625, 0.5), "nq": (1, 0.735089, 0.585786), "cd": (None, 1.203973, 0.693147),
        "lq": (None, 0.891217, 0.575364),
    }  # fmt: skip
    for relaxation, values in expected.items():
        for t, value in zip((0, 0.25, 0.5), values):
            found = pairwise(logs(1 - t, t), logs(1, 0), relaxation) + pairwise(logs(1 - t, t), logs(0, 1), relaxation)
            assert value is None or found.item() == pytest.approx(value, abs=6e-7)


def test_only_logarithms_pull_confident_ends_together():
    expected = {"bl": 0.009702, "q": 0.019404, "nq": 0.010098, "cce": 0.49, "cd": 0.499898, "lq": 0.49}
    for relaxation in RELAXATIONS:
        logits = logs(0.99, 0.01).requires_grad_()
        pairwise(torch.log_softmax(logits, 0), logs(0.01, 0.99), relaxation).backward()
        assert logits.grad[0].item() == pytest.approx(expected[relaxation], abs=6e-7)


def chain_energy(labels: Tensor, relaxation: Relaxation) -> Tensor:
    return pairwise(labels[:-1], labels[1:], relaxation).sum()


def test_energies_of_a_chain():
    ramp = torch.stack([logs(1, 0), logs(0.75, 0.25), logs(0.5, 0.5), logs(0.25, 0.75), logs(0, 1)])
    step = torch.stack([logs(1, 0), logs(1, 0), logs(1, 0), logs(0, 1), logs(0, 1)])
    soft = torch.stack([logs(1, 0), logs(1, 0), logs(0.5, 0.5), logs(0, 1), logs(0, 1)])
    ramps = {"bl": 1.5, "q": 0.25, "nq": 0.313779, "cce": 1.961659, "cd": 0.328504, "lq": 0.258154}
    softs = {"bl": 1, "q": 0.5, "nq": 0.585786, "cce": 1.386294, "cd": 0.693147, "lq": 0.575364}
    for relaxation in RELAXATIONS:
        close(chain_energy(ramp, relaxation), ramps[relaxation])
        close(chain_energy(soft, relaxation), softs[relaxation])
        if relaxation in ("bl", "q", "nq"):
            close(chain_energy(step, relaxation), 1)


@pytest.mark.parametrize(
    ("relaxation", "inner", "lr"),
    [
        ("bl", (1, 0.5, 0), 1e5),
        ("q", (0.75, 0.5, 0.25), 1.0),
        ("nq", (0.707107, 0.5, 0.292893), 1.0),
        ("cce", (1, 0.5, 0), 1e5),
        ("cd", (0.707107, 0.5, 0.292893), 1.0),
        ("lq", (0.75, 0.5, 0.25), 1.0),
    ],
)
def test_where_descent_on_a_chain_ends(relaxation, inner, lr):
    """Seeds at both ends, uniform between them: the random walker's ramp, equal angles, or one undecided middle."""
    logits = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=lr)
    for _ in range(600):
        optimizer.zero_grad()
        inside = torch.log_softmax(logits, 1)
        chain_energy(torch.cat([logs(1, 0)[None], inside, logs(0, 1)[None]]), relaxation).backward()
        optimizer.step()
    close(logits.detach().softmax(1)[:, 0], inner, atol=1e-5)


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.log_softmax(2 * torch.randn(200, 6, generator=g, dtype=torch.float64), 1) for _ in range(2))


def test_identities(pairs):
    p, q = pairs
    bl, quadratic, nq, cce, cd, lq = (pairwise(p, q, relaxation) for relaxation in RELAXATIONS)
    gini = 1 - p.exp().square().sum(1), 1 - q.exp().square().sum(1)
    renyi = -p.exp().square().sum(1).log(), -q.exp().square().sum(1).log()
    for found, expected in (
        (cce, -(1 - bl).log()), (cd, -(1 - nq).log()), (lq, -(1 - quadratic).log()),
        (bl, quadratic + (gini[0] + gini[1]) / 2), (cce, cd + (renyi[0] + renyi[1]) / 2),
    ):  # fmt: skip
        torch.testing.assert_close(found, expected)
    for relaxation in RELAXATIONS:
        assert torch.equal(pairwise(p, q, relaxation), pairwise(q, p, relaxation))
        assert (pairwise(p, q, relaxation) > 0).all()
        assert pairwise(p.unsqueeze(1), q[:7], relaxation).shape == (200, 7)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_one_hot_ends_are_finite_in_both_precisions(relaxation):
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[100.0, 0, 0], [0, 100, 0], [0, 50, 50]], dtype=dtype, requires_grad=True)
        log_probs = torch.log_softmax(logits, 1)
        energy = pairwise(log_probs[:, None], log_probs, relaxation)
        assert energy.isfinite().all() and (energy >= -1e-6).all() and (energy < 31).all()
        energy.sum().backward()
        assert logits.grad.isfinite().all() and logits.grad.abs().max() < 10
        hard = torch.tensor([[0, -torch.inf], [-torch.inf, 0]], dtype=dtype, requires_grad=True)
        pairwise(hard[0], hard[1], relaxation).backward()
        assert hard.grad.isfinite().all()


def test_lq_keeps_its_digits_near_one_hot():
    """In float32 1 - Q would be 0 here."""
    for logit in (5.0, 10.0, 14.0):
        p, q = (torch.log_softmax(torch.tensor([x, 0.0], dtype=torch.float64), 0) for x in (logit, -logit))
        exact = pairwise(p, q, "lq")
        assert exact.item() == pytest.approx(-math.log(4 / (1 + math.exp(-logit)) ** 2) + logit, rel=1e-5)
        torch.testing.assert_close(pairwise(p.float(), q.float(), "lq").double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_pairwise_gradcheck(pairs, relaxation):
    p, q = (x[:10].clone().requires_grad_() for x in pairs)
    assert torch.autograd.gradcheck(lambda a, b: pairwise(a, b, relaxation), (p, q))


# y = (.6, .3, .1), s = (.2, .5, .3): value, gradient to the logits of s, of y
COUPLINGS = {
    "ce": (1.294004, (-0.4, 0.2, 0.2), (0.18926, -0.180257, -0.009003)),
    "rce": (1.394927, (-0.17682, -0.095477, 0.272297), (0.4, -0.2, -0.2)),
    "cce": (1.203973, (-0.2, 0, 0.2), (0.2, -0.2, 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_coupling_values(kind):
    value, to_logits, to_target = COUPLINGS[kind]
    z, v = logs(0.2, 0.5, 0.3).requires_grad_(), logs(0.6, 0.3, 0.1).requires_grad_()
    out = coupling(torch.log_softmax(v, 0), torch.log_softmax(z, 0), kind)
    out.backward()
    close(out.detach(), value)
    close(z.grad, to_logits)
    close(v.grad, to_target)


def test_coupling_of_one_hot_and_of_uniform_targets(pairs):
    prediction = pairs[0]
    one_hot = torch.full((6,), -torch.inf, dtype=torch.float64)
    one_hot[2] = 0
    for kind in ("ce", "cce"):
        torch.testing.assert_close(coupling(one_hot, prediction, kind), -prediction[:, 2])
    for kind, still in (("ce", False), ("rce", True), ("cce", True)):
        z = prediction.clone().requires_grad_()
        coupling(torch.full((6,), -math.log(6), dtype=torch.float64), torch.log_softmax(z, 1), kind).sum().backward()
        assert (z.grad.abs().max() < 1e-12) == still
    torch.testing.assert_close(coupling(*pairs, "cce"), pairwise(*pairs, "cce"))
    torch.testing.assert_close(coupling(*pairs, "ce"), coupling(pairs[1], pairs[0], "rce"))


@pytest.mark.parametrize("kind", KINDS)
def test_coupling_gradcheck(pairs, kind):
    p, q = (x[:10].clone().requires_grad_() for x in pairs)
    assert torch.autograd.gradcheck(lambda a, b: coupling(a, b, kind), (p, q))


def test_unknown_names():
    with pytest.raises(ValueError, match="relaxation must be one of bl, q, nq, cce, cd, lq, got 'potts'"):
        pairwise(logs(1), logs(1), "potts")
    with pytest.raises(ValueError, match="kind must be one of ce, rce, cce, got 'kl'"):
        coupling(logs(1), logs(1), "kl")
