"""The relation losses against values worked out by hand, their invariances, and their edges."""

import pytest
import torch

from pcseg.losses import entropy, masked_mean, relation

T, R = (2.0, 0.0, 0.0, -1.0), (1.0, 1.0, 0.0, 0.0)


def one_class(values) -> torch.Tensor:  # (4, 1)
    return torch.tensor(values).unsqueeze(1)


ALL = torch.ones(4, dtype=torch.bool)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 0.345548), (2.0, 0.396960), (4.0, 0.382425)])
def test_kl_of_a_class_map(temperature, value):
    student = one_class(R).requires_grad_()
    loss = relation(one_class(T), student, ALL, kind="kl", temperature=temperature)
    assert float(loss) == pytest.approx(value, abs=2e-6)
    if temperature == 1.0:
        loss.backward()
        expected = one_class((-0.391784, 0.263038, 0.031980, 0.096766))
        torch.testing.assert_close(student.grad, expected, atol=2e-6, rtol=0)
    masked = relation(one_class(T), one_class(R), torch.tensor([True, True, False, True]), kind="kl")
    assert float(masked) == pytest.approx(0.379738, abs=2e-6)


def test_correlation_is_one_minus_pearson():
    """Two classes whose probabilities are an affine function of each other: both maps have the same correlation."""
    torch.manual_seed(0)
    teacher, student = torch.randn(50, 3), torch.randn(50, 3)
    p, q = teacher.softmax(1), student.softmax(1)
    rho = [float(torch.corrcoef(torch.stack([p[:, k], q[:, k]]))[0, 1]) for k in range(3)]
    found = relation(teacher, student, torch.ones(50, dtype=torch.bool), kind="correlation")
    assert float(found) == pytest.approx(1 - sum(rho) / 3, abs=1e-5)


def through_sigmoid(values, scale: float = 0.1, shift: float = 0.5) -> torch.Tensor:  # (N, 2)
    """Logits of two classes whose probabilities are an affine function of the values, and its complement."""
    p = shift + scale * torch.tensor(values)
    return torch.stack([p.log(), (1 - p).log()], 1)


def test_correlation_by_hand():
    """rho = .688247 of the two maps. Two classes have one map, rising and falling: rho is the same in both."""
    teacher, student = through_sigmoid(T), through_sigmoid(R)
    assert float(relation(teacher, student, ALL, kind="correlation")) == pytest.approx(0.311753, abs=2e-6)
    masked = relation(teacher, student, torch.tensor([True, True, False, True]), kind="correlation")
    assert float(masked) == pytest.approx(0.244071, abs=2e-6)


@pytest.mark.parametrize(("scale", "shift"), [(0.3, 0.35), (0.02, 0.9), (-0.1, 0.5)])
def test_correlation_sees_no_affine_change(scale, shift):
    """Of either map; a falling one of the teacher turns rho round. Of the map itself nothing is left to tell."""
    teacher, student = through_sigmoid(T), through_sigmoid(R)
    rho = 0.688247 if scale > 0 else -0.688247
    for pair in ((through_sigmoid(T, scale, shift), student), (teacher, through_sigmoid(R, scale, shift))):
        assert float(relation(*pair, ALL, kind="correlation")) == pytest.approx(1 - rho, abs=1e-5)
    itself = relation(teacher, through_sigmoid(T, scale, shift), ALL, kind="correlation")
    assert float(itself) == pytest.approx(0.0 if scale > 0 else 2.0, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_gradient_of_the_class_maps(temperature):
    """(tau / K) (student's share - teacher's share) of a row in a class map; 0 at rows that are not sure."""
    torch.manual_seed(3)
    teacher, student = torch.randn(12, 5), torch.randn(12, 5, requires_grad=True)
    sure = torch.arange(12) % 4 != 1
    relation(teacher, student, sure, kind="kl", temperature=temperature).backward()
    shares = [(x.detach()[sure] / temperature).exp() for x in (student, teacher)]
    student_share, teacher_share = (x / x.sum(0) for x in shares)
    expected = torch.zeros(12, 5)
    expected[sure] = temperature / 5 * (student_share - teacher_share)
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["kl", "correlation", "affinity"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_stays_nan(kind, value):
    """So that the trainer can say that the loss is not finite; a row that is not sure does not count."""
    torch.manual_seed(4)
    good, bad = torch.randn(6, 3), torch.randn(6, 3)
    bad[2, 1] = value
    rows = torch.ones(6, dtype=torch.bool)
    for teacher, student in ((bad, good), (good, bad)):
        assert bool(relation(teacher, student, rows, kind=kind).isnan())
        assert bool(relation(teacher, student, torch.arange(6) != 2, kind=kind).isfinite())


def test_a_constant_class_map_carries_no_relation():
    teacher = torch.tensor([[1.0, 0.0, -200.0], [0.0, 1.0, -200.0], [2.0, 0.0, -200.0]])
    student = teacher + torch.tensor([0.0, 0.0, 1.0])
    rows = torch.ones(3, dtype=torch.bool)
    value = relation(teacher, student.requires_grad_(), rows, kind="correlation")
    assert float(value) == pytest.approx(0.0, abs=1e-5)
    value.backward()
    assert bool(torch.isfinite(student.grad).all())


@pytest.mark.parametrize("kind", ["kl", "correlation", "affinity"])
@pytest.mark.parametrize("on", ["logits", "probs"])
def test_properties(kind, on):
    torch.manual_seed(1)
    teacher, student = torch.randn(40, 4), torch.randn(40, 4)
    confident = torch.rand(40) < 0.7
    offsets = torch.tensor([0, 15, 15, 40])

    def value(t=teacher, s=student, c=confident, o=offsets):
        return relation(t, s, c, offsets=o, kind=kind, on=on)

    assert float(value(s=teacher)) == pytest.approx(0.0, abs=1e-5)
    assert float(value()) > 1e-3
    order = torch.cat([torch.randperm(15), 15 + torch.randperm(25)])
    torch.testing.assert_close(value(teacher[order], student[order], confident[order]), value())
    apart = [relation(teacher[a:b], student[a:b], confident[a:b], kind=kind, on=on) for a, b in ((0, 15), (15, 40))]
    torch.testing.assert_close(value(), torch.stack(apart).mean())
    hidden = torch.where(confident.unsqueeze(1), student, 7.0)
    torch.testing.assert_close(value(s=hidden), value())
    leaf = student.clone().requires_grad_()
    value(s=leaf).backward()
    assert bool((leaf.grad[~confident] == 0).all()) and bool((leaf.grad[confident] != 0).any())
    taught = teacher.clone().requires_grad_()
    value(t=taught, s=leaf).backward()
    assert taught.grad is None
    double = student.double().requires_grad_()
    small = torch.tensor([0, 6, 12])
    assert torch.autograd.gradcheck(
        lambda s: relation(teacher[:12].double(), s, ALL.repeat(3), offsets=small, kind=kind, on=on).double(),
        double[:12].detach().requires_grad_(),
        eps=1e-3,
        atol=2e-2,
        rtol=2e-2,
    )


def test_invariances():
    torch.manual_seed(2)
    teacher = torch.randn(20, 3)
    rows = torch.ones(20, dtype=torch.bool)
    shifted = teacher + torch.tensor([1.0, -2.0, 3.0])
    assert float(relation(teacher, shifted, rows, kind="kl")) == pytest.approx(0.0, abs=1e-5)
    assert float(relation(teacher, teacher * 2, rows, kind="kl")) > 0.01


@pytest.mark.parametrize("kind", ["kl", "correlation", "affinity"])
def test_nothing_confident(kind):
    student = torch.randn(5, 3, requires_grad=True)
    for rows in (torch.zeros(5, dtype=torch.bool), torch.arange(5) == 2):
        loss = relation(torch.randn(5, 3), student, rows, kind=kind)
        assert float(loss) == 0
        loss.backward()
        assert bool((student.grad == 0).all())


def test_errors():
    with pytest.raises(ValueError, match=r"both logits must be \(N, K\)"):
        relation(torch.zeros(4, 2), torch.zeros(3, 2), ALL, kind="kl")
    with pytest.raises(ValueError, match="confident must be"):
        relation(torch.zeros(4, 2), torch.zeros(4, 2), ALL[:3], kind="kl")
    with pytest.raises(ValueError, match="kind must be one of"):
        relation(torch.zeros(4, 2), torch.zeros(4, 2), ALL, kind="mse")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="temperature must be positive"):
        relation(torch.zeros(4, 2), torch.zeros(4, 2), ALL, kind="kl", temperature=0.0)


def test_entropy_and_masked_mean():
    logits = torch.tensor([[0.0, 0.0], [50.0, 0.0]], requires_grad=True)
    values = entropy(logits)
    torch.testing.assert_close(values, torch.tensor([2.0, 1.0]).log())
    assert float(masked_mean(values, torch.tensor([True, False]))) == pytest.approx(0.693147, abs=1e-6)
    nothing = masked_mean(values, torch.zeros(2, dtype=torch.bool))
    assert float(nothing) == 0
    nothing.backward()
    with pytest.raises(ValueError, match=r"must be \(N, K\)"):
        entropy(torch.zeros(3))
