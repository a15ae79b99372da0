"""norm_linear against plain PyTorch in float64, torch's layers, and finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcseg.ops import norm_linear, reference

NAMES = ("rows", "norm_weight", "norm_bias", "weight", "bias")


def make(r=300, c=8, o=8, dtype=torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = ((r, c), (c,), (c,), (o, c), (o,))
    return [torch.randn(*s, generator=g, dtype=torch.float64).to(dtype) for s in shapes]


def given(c: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"mean": torch.linspace(-1, 1, c, dtype=dtype), "var": torch.linspace(0.5, 2, c, dtype=dtype)}


def with_gradients(op, inputs: list[Tensor], **statistics: Tensor) -> list[Tensor]:
    leaves = [v.clone().requires_grad_() for v in inputs]
    out, mean, var = op(*leaves, **statistics)
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out, mean, var, *torch.autograd.grad((out * weight).sum(), leaves)]


def check(inputs: list[Tensor], statistics: dict[str, Tensor]) -> None:
    got = with_gradients(norm_linear, inputs, **statistics)
    doubled = {name: v.double() for name, v in statistics.items()}
    expected = with_gradients(reference.norm_linear, [v.double() for v in inputs], **doubled)
    tolerance = 5e-5 if inputs[0].dtype == torch.float32 else 1e-11
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == inputs[0].dtype
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * (1 + b.abs().max().item()))


CASES = {
    "8_to_8": {},
    "16_to_16": {"c": 16, "o": 16},
    "64_to_64": {"c": 64, "o": 64},
    "odd": {"c": 5, "o": 7},
    "wide": {"c": 70, "o": 130},
    "one": {"c": 1, "o": 1},
    "several_chunks": {"r": 2000, "c": 4, "o": 3},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("case", CASES)
def test_equals_layers(isa: str, case: str, training: bool, dtype: torch.dtype) -> None:
    inputs = make(**CASES[case], dtype=dtype)
    check(inputs, {} if training else given(inputs[0].shape[1], dtype))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_equals_torchs_layers(training: bool) -> None:
    rows, norm_weight, norm_bias, weight, bias = make(dtype=torch.float64)
    norm, linear = nn.BatchNorm1d(8).double().train(training), nn.Linear(8, 8).double()
    state = {"0.weight": norm_weight, "0.bias": norm_bias, "2.weight": weight, "2.bias": bias}
    layers = nn.Sequential(norm, nn.ReLU(), linear)
    layers.load_state_dict(state, strict=False)
    statistics: dict[str, Any] = {} if training else {"mean": norm.running_mean, "var": norm.running_var}
    out, mean, var = norm_linear(rows, norm_weight, norm_bias, weight, bias, **statistics)
    torch.testing.assert_close(out, layers(rows))
    if training:
        assert norm.running_mean is not None and norm.running_var is not None
        torch.testing.assert_close(0.1 * mean, norm.running_mean)
        torch.testing.assert_close(0.9 + 0.1 * var * 300 / 299, norm.running_var)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_gradcheck(training: bool) -> None:
    inputs = [v.requires_grad_() for v in make(6, 3, 2, torch.float64)]
    statistics = {} if training else given(3, torch.float64)
    assert torch.autograd.gradcheck(lambda *values: norm_linear(*values, **statistics)[0], inputs)


def test_independent_of_threads() -> None:
    inputs, before, results = make(5000, 8, 8), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients(norm_linear, inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_rows_and_non_contiguous_rows() -> None:
    out, _, _, *grads = with_gradients(norm_linear, make(0))
    assert out.shape == (0, 8) and all((grad == 0).all() for grad in grads[1:])
    inputs = make()
    strided = [torch.stack([v, v], -1)[..., 0] for v in inputs]
    for a, b in zip(with_gradients(norm_linear, strided), with_gradients(norm_linear, inputs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_autocast_is_torchs(training: bool) -> None:
    inputs = make(dtype=torch.float32)
    inputs[0] = inputs[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out, mean, _ = norm_linear(*inputs, **({} if training else given(8, torch.float32)))
    assert out.dtype == torch.bfloat16 and mean.dtype == torch.float32


@pytest.mark.parametrize("of_batch", [True, False])
def test_opcheck(of_batch: bool) -> None:
    rows, *rest = (v.requires_grad_() for v in make(6, 3, 2))
    norm = (rows, *rest[:2], *given(3, torch.float32).values(), *rest[2:], 1e-5, of_batch)
    torch.library.opcheck(torch.ops.pcseg.norm_linear.default, norm)
    detached = tuple(v.detach() if isinstance(v, Tensor) else v for v in norm)
    torch.library.opcheck(torch.ops.pcseg.norm_linear_backward.default, (torch.randn(6, 2), *detached))


def test_compiles() -> None:
    inputs = make()

    def run(rows: Tensor) -> Tensor:
        return norm_linear(rows, *inputs[1:])[0]

    rows = inputs[0].clone().requires_grad_()
    out, expected = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)(rows), run(rows)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(o.square().sum(), rows)[0] for o in (out, expected)))


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rows": ({"rows": torch.rand(8)}, ValueError, r"rows must be \(R, C\), got \(8,\)"),
    "weight": ({"weight": torch.rand(8, 7)}, ValueError, r"weight must be \(O >= 1, C = 8 >= 1\), got \(8, 7\)"),
    "bias": ({"bias": torch.rand(7)}, ValueError, r"bias must be \(8,\), got \(7,\)"),
    "norm_bias": ({"norm_bias": torch.rand(7)}, ValueError, r"norm_bias must be \(8,\), got \(7,\)"),
    "mean_alone": ({"mean": torch.rand(8)}, ValueError, "mean and var must be given together"),
    "dtypes": ({"bias": torch.rand(8).double()}, TypeError, "one dtype expected"),
    "integer": ({"rows": torch.zeros(3, 8).long()}, TypeError, "rows must be float32 or float64"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_errors(error: str) -> None:
    changed, kind, message = ERRORS[error]
    inputs: dict[str, Any] = {**dict(zip(NAMES, make())), **changed}
    with pytest.raises(kind, match=message):
        norm_linear(**inputs)
