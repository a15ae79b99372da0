"""linear against torch in float64, by instruction set, by threads, and finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.ops import linear

SHAPES = [(1, 1, 1), (7, 3, 5), (100, 64, 64), (97, 17, 100), (65, 300, 130), (3000, 20, 24), (0, 4, 3), (5, 0, 2)]


def make(n: int, c: int, o: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(n, c, generator=g, dtype=torch.float64)
    weight = torch.randn(o, c, generator=g, dtype=torch.float64)
    return rows.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def with_gradients(op, rows: Tensor, weight: Tensor) -> list[Tensor]:
    out = op(rows, weight)
    weighting = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weighting).sum(), (rows, weight))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_torch(isa: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, weight = make(*shape, dtype)
    got = with_gradients(linear, rows, weight)
    expected = with_gradients(F.linear, *(t.detach().double().requires_grad_() for t in (rows, weight)))
    for a, b in zip(got, expected):
        scale = b.abs().max().item() if b.numel() else 0
        atol = (2e-5 if dtype == torch.float32 else 1e-12) * (1 + scale)
        torch.testing.assert_close(a.double(), b, rtol=0, atol=atol)


def test_independent_of_threads() -> None:
    rows, weight = make(3000, 40, 72)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients(linear, rows, weight))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_gradcheck_and_opcheck() -> None:
    assert torch.autograd.gradcheck(linear, make(4, 3, 2, torch.float64))
    rows, weight = make(4, 3, 2)
    torch.library.opcheck(torch.ops.pcseg.linear.default, (rows, weight))
    for needs in ((True, True), (False, True), (True, False)):
        args = (torch.randn(4, 2), rows.detach(), weight.detach(), *needs)
        torch.library.opcheck(torch.ops.pcseg.linear_backward.default, args)


def test_part_of_a_weight() -> None:
    rows, weight = make(30, 8, 5)
    part = weight[:, 2:6]
    torch.testing.assert_close(linear(rows[:, ::2], part), F.linear(rows[:, ::2], part))


def test_autocast_is_torchs() -> None:
    rows, weight = make(30, 8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(rows, weight).dtype == torch.bfloat16


def test_errors() -> None:
    rows, weight = make(4, 3, 2)
    with pytest.raises(ValueError, match=r"linear: weight must be \(O, C = 3\), got \(2, 2\)"):
        linear(rows, weight[:, :2])
    with pytest.raises(TypeError, match="one dtype"):
        linear(rows, weight.double())
    with pytest.raises(ValueError, match=r"rows must be \(N, C\)"):
        linear(rows[0], weight)
