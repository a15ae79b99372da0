"""The ERDA term against values worked out by hand, its gradients, and its limits."""

import math

import pytest
import torch

from pcseg.losses import erda

S, Z = (2.0, 0.0, -1.0), (1.0, 1.0, 0.0)
P, Q = (0.843795, 0.114195, 0.042010), (0.422319, 0.422319, 0.155362)


def tensors(s=S, z=Z):
    return tuple(torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (s, z))


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(
        actual.detach(), torch.tensor(expected, dtype=torch.float64), atol=tolerance, rtol=0, check_dtype=False
    )


@pytest.mark.parametrize(
    ("weight", "value", "by_s"),
    [
        (0.0, 0.379738, (0.263610, -0.192715, -0.070896)),
        (0.5, 0.641872, (0.114081, -0.098756, -0.015325)),
        (1.0, 0.904005, (-0.035448, -0.004797, 0.040245)),
        (2.0, 1.428271, (-0.334506, 0.183120, 0.151386)),
    ],
)
def test_values_and_gradients(weight, value, by_s):
    s, z = tensors()
    loss = erda(s, z, entropy_weight=weight)
    close(loss, [value])
    loss.sum().backward()
    close(s.grad, [by_s])
    close(z.grad, [(-0.421476, 0.308124, 0.113352)])


@pytest.mark.parametrize(
    ("alignment", "value"), [("kl_pq", 0.379738), ("kl_qp", 0.463214), ("js", 0.100132), ("mse", 0.142715)]
)
def test_alignments(alignment, value):
    s, z = tensors()
    close(erda(s, z, entropy_weight=0.0, alignment=alignment), [value])
    close(erda(s, z, alignment=alignment), [value + 0.524267])
    assert torch.autograd.gradcheck(lambda a, b: erda(a, b, entropy_weight=0.7, alignment=alignment), (s, z))


def test_the_original_js_is_twice_ours():
    """The released code leaves the half of the Jensen-Shannon divergence out: .200265 for these rows."""
    (ours,) = erda(*tensors(), entropy_weight=0.0, alignment="js").tolist()
    middle = [(a + b) / 2 for a, b in zip(P, Q)]
    theirs = sum(a * math.log(a / m) + b * math.log(b / m) for a, b, m in zip(P, Q, middle))
    assert theirs == pytest.approx(0.200265, abs=2e-6) and 2 * ours == pytest.approx(0.200265, abs=1e-6)


def limit_update(alignment: str, s: torch.Tensor, z: torch.Tensor, weight: float) -> torch.Tensor:
    s = s.clone().requires_grad_()
    erda(s, z, entropy_weight=weight, alignment=alignment).sum().backward()
    return -s.grad[0]


def test_limits():
    """What a decided pseudo-label does, and what an undecided network does to it."""
    weight, z = 0.3, torch.tensor([Z], dtype=torch.float64)
    decided = torch.tensor([(25.0, 0.0, 0.0)], dtype=torch.float64)
    q = z.softmax(1)[0]
    for alignment, expected in (("kl_pq", 0 * q), ("js", 0 * q), ("mse", 0 * q)):
        close(limit_update(alignment, decided, z, weight), expected.tolist())
    close(limit_update("kl_qp", decided, z, weight), (q - torch.tensor([1.0, 0, 0])).tolist())
    s, uniform = torch.tensor([S], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    p = s.softmax(1)[0]
    pulls = torch.stack([p[i] * (p * (p[i] / p).log()).sum() for i in range(3)])
    close(limit_update("kl_pq", s, uniform, weight), ((weight - 1) * pulls).tolist())
    close(limit_update("kl_pq", s, uniform, 1.0), (0 * p).tolist())
    close(limit_update("kl_qp", s, uniform, weight), (1 / 3 - p + weight * pulls).tolist())
    close(limit_update("mse", s, uniform, weight), (-p * p + p * (p * p).sum() + weight * pulls).tolist())
    js = [
        p[i] * (p * (0.5 * ((3 * p[i] + 1) / (3 * p + 1)).log() + (weight - 0.5) * (p[i] / p).log())).sum()
        for i in range(3)
    ]
    close(limit_update("js", s, uniform, weight), [float(v) for v in js])


def test_a_detached_pseudo_label_changes_nothing_for_the_prediction():
    s, z = tensors()
    erda(s.detach(), z).sum().backward()
    assert s.grad is None
    close(z.grad, [(-0.421476, 0.308124, 0.113352)])


@pytest.mark.parametrize("alignment", ["kl_pq", "kl_qp", "js", "mse"])
def test_a_class_that_is_ruled_out(alignment):
    s, z = tensors(s=(2.0, 0.0, -1e9))
    loss = erda(s, z, alignment=alignment)
    assert bool(torch.isfinite(loss).all())
    loss.sum().backward()
    assert bool(torch.isfinite(s.grad).all()) and float(s.grad[0, 2]) == pytest.approx(0.0, abs=1e-6)
    if alignment == "kl_pq":
        expected = -(s.softmax(1) * z.log_softmax(1)).sum(1)
        torch.testing.assert_close(loss, expected)


def test_rows_are_independent_and_errors_say_what_is_wrong():
    s, z = torch.randn(7, 4), torch.randn(7, 4)
    order = torch.randperm(7)
    torch.testing.assert_close(erda(s[order], z[order]), erda(s, z)[order])
    assert erda(s[:0], z[:0]).shape == (0,)
    assert math.isclose(float(erda(torch.zeros(1, 4), torch.zeros(1, 4))), math.log(4), rel_tol=1e-6)
    with pytest.raises(ValueError, match=r"must both be \(N, K\)"):
        erda(s, z[:3])
    with pytest.raises(ValueError, match="alignment must be one of"):
        erda(s, z, alignment="kl")  # pyright: ignore[reportArgumentType]
