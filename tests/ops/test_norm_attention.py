"""norm_attention against the two ops it joins, plain PyTorch in float64, and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pcseg import ops
from pcseg.ops import norm_attention, reference


def make(
    m: int = 40, n: int = 50, k: int = 9, c: int = 24, g: int = 3, h: int = 3, p: int = 3,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:  # fmt: skip
    """Random rows; about a fifth of the neighbours are missing, and one query has none."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    neighbors = torch.randint(0, n + 1, (m, k), generator=generator)
    neighbors[torch.rand(m, k, generator=generator) < 0.2] = n
    neighbors[m // 2 : m // 2 + 1] = n
    norm = [normal(m, k, g), normal(g), normal(g), normal(h, g), normal(h)]
    return [*norm, normal(n, c), neighbors, normal(m, k, p), normal(c, p) / p**0.5, normal(c)]


def given(g: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"mean": torch.linspace(-1, 1, g, dtype=dtype), "var": torch.linspace(0.5, 2, g, dtype=dtype)}


def with_gradients(op: Callable[..., Any], inputs: list[Tensor], **statistics: Tensor) -> list[Tensor]:
    leaves = [v.clone().requires_grad_(v.is_floating_point()) for v in inputs]
    out, mean, var = op(*leaves, **statistics)
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out, mean, var, *torch.autograd.grad((out * weight).sum(), [v for v in leaves if v.requires_grad])]


def two_ops(relation: Tensor, *rest: Tensor, **statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, mean, var = ops.norm_linear(relation.flatten(0, 1), *rest[:4], **statistics)
    return ops.attention_aggregate(rows.unflatten(0, relation.shape[:2]), *rest[4:]), mean, var


CASES = {
    "shared_by_8": {},
    "own_weights": {"g": 32, "h": 32, "c": 32},
    "fewer_relations": {"g": 5, "h": 8},
    "more_relations": {"g": 19, "h": 4},
    "odd": {"c": 35, "g": 5, "h": 5},
    "long_lists": {"m": 12, "k": 100},
    "one": {"c": 1, "g": 1, "h": 1, "k": 1},
    "several_chunks": {"m": 700},
    "no_queries": {"m": 0},
    "no_places": {"k": 0},
    "no_values": {"n": 0},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_two_ops(isa: str, case: str, training: bool, dtype: torch.dtype) -> None:
    inputs = make(**CASES[case], dtype=dtype)
    statistics = {} if training else given(inputs[1].shape[0], dtype)
    got = with_gradients(norm_attention, inputs, **statistics)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for a, b in zip(got, with_gradients(two_ops, inputs, **statistics), strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * (1 + b.abs().amax().item() if b.numel() else 1))


@pytest.mark.parametrize("case", ["shared_by_8", "own_weights", "odd"])
def test_matches_reference(case: str) -> None:
    inputs = make(**CASES[case], dtype=torch.float64)
    expected = with_gradients(reference.norm_attention, inputs)
    for a, b in zip(with_gradients(norm_attention, inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * (1 + b.abs().max().item()))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_gradcheck(training: bool) -> None:
    inputs = [v.requires_grad_() if v.is_floating_point() else v for v in make(4, 5, 3, 4, 3, 2, 2, torch.float64)]
    statistics = {} if training else given(3, torch.float64)
    assert torch.autograd.gradcheck(lambda *values: norm_attention(*values, **statistics)[0], inputs)


def test_independent_of_threads() -> None:
    inputs, before, results = make(3000, 400, 8, 64, 8, 8), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients(norm_attention, inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_non_contiguous_inputs() -> None:
    inputs = make()
    strided = [torch.stack([v, v], -1)[..., 0] for v in inputs]
    for a, b in zip(with_gradients(norm_attention, strided), with_gradients(norm_attention, inputs), strict=True):
        assert torch.equal(a, b)


def test_autocast_runs_the_two_ops() -> None:
    inputs = [v.bfloat16() if v.ndim == 3 and v.is_floating_point() else v for v in make()]
    with torch.autocast("cpu", torch.bfloat16):
        out, mean, _ = norm_attention(*inputs)
    assert out.dtype == mean.dtype == torch.float32


@pytest.mark.parametrize("of_batch", [True, False])
def test_opcheck(of_batch: bool) -> None:
    inputs = [v.requires_grad_() if v.is_floating_point() else v for v in make(6, 5, 3, 4, 3, 2)]
    norm = (*inputs[:3], *given(3, torch.float32).values(), *inputs[3:], 1e-5, of_batch)
    torch.library.opcheck(torch.ops.pcseg.norm_attention.default, norm)
    detached = tuple(v.detach() if isinstance(v, Tensor) else v for v in norm)
    torch.library.opcheck(torch.ops.pcseg.norm_attention_backward.default, (torch.randn(6, 4), *detached))


def test_compiles() -> None:
    inputs = make()

    def run(relation: Tensor) -> Tensor:
        return norm_attention(relation, *inputs[1:])[0]

    relation = inputs[0].clone().requires_grad_()
    out, expected = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)(relation), run(relation)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(o.square().sum(), relation)[0] for o in (out, expected)))


def test_index_out_of_range() -> None:
    inputs = make()
    inputs[6][3, 2] = 51
    with pytest.raises(RuntimeError, match=r"neighbors must lie in \[0, N\]"):
        norm_attention(*inputs)


ERRORS: dict[str, tuple[int, Tensor, type[Exception], str]] = {
    "relation": (0, torch.rand(40, 8, 3), ValueError, r"relation must be \(M = 40, k = 9, G\), got \(40, 8, 3\)"),
    "norm_bias": (2, torch.rand(2), ValueError, r"norm_bias must be \(3,\), got \(2,\)"),
    "weight": (3, torch.rand(5, 3), ValueError, r"weight must have a number of rows that divides C = 24, got \(5, 3\)"),
    "bias": (4, torch.rand(2), ValueError, r"bias must be \(3,\), got \(2,\)"),
    "dtype": (5, torch.rand(50, 24).double(), TypeError, r"all of float32 or all of float64 expected"),
    "neighbors": (6, torch.zeros(40, 9, dtype=torch.int32), TypeError, r"neighbors must be int64"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_errors(error: str) -> None:
    at, value, kind, message = ERRORS[error]
    inputs = make()
    inputs[at] = value
    with pytest.raises(kind, match=message):
        norm_attention(*inputs)
