"""segment_reduce against numpy's reductions, the plain PyTorch twin and finite differences."""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from ops.grid_cases import SEGMENT_CASES
from torch import Tensor

from pcseg.ops import reference, segment_reduce

Reduce = Literal["sum", "mean", "max"]
REDUCTIONS: tuple[Reduce, ...] = get_args(Reduce)


def oracle(values: Tensor, offsets: Tensor, reduce: Reduce) -> np.ndarray:
    v = values.double().numpy()
    out = np.zeros((len(offsets) - 1, v.shape[1]))
    for s, (first, last) in enumerate(itertools.pairwise(offsets.tolist())):
        if first < last:
            out[s] = getattr(v[first:last], reduce)(0)
    return out


def with_gradient(op, values: Tensor, offsets: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor]:
    values = values.detach().requires_grad_()
    out = op(values, offsets, reduce)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    return out, torch.autograd.grad((out * weight).sum() + 0 * values.sum(), values)[0]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("case", SEGMENT_CASES)
def test_matches_numpy_and_reference(case: str, reduce: Reduce, device: torch.device) -> None:
    values, offsets = SEGMENT_CASES[case]()
    got, grad = with_gradient(segment_reduce, values.to(device), offsets.to(device), reduce)
    tolerance = 1e-12 if values.dtype == torch.float64 else 1e-6
    longest = max(1, int(offsets.diff().max())) if len(offsets) > 1 else 1
    atol = tolerance * (longest if reduce == "sum" else 1)
    np.testing.assert_allclose(got.detach().cpu(), oracle(values, offsets, reduce), rtol=tolerance, atol=atol)
    plain, plain_grad = with_gradient(reference.segment_reduce, values, offsets, reduce)
    torch.testing.assert_close(got.cpu(), plain, rtol=tolerance * 10, atol=atol)
    torch.testing.assert_close(grad.cpu(), plain_grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("case", ["many", "long", "wide"])
def test_same_bits_for_every_thread_count(case: str, reduce: Reduce, threads: int) -> None:
    values, offsets = SEGMENT_CASES[case]()
    got = with_gradient(segment_reduce, values, offsets, reduce)
    torch.set_num_threads(1)
    for a, b in zip(got, with_gradient(segment_reduce, values, offsets, reduce)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("case", ["many", "long", "wide", "f64", "one_channel", "rows_outside"])
def test_every_instruction_set(case: str, reduce: Reduce, isa: str) -> None:
    values, offsets = SEGMENT_CASES[case]()
    got, grad = with_gradient(segment_reduce, values, offsets, reduce)
    plain, plain_grad = with_gradient(reference.segment_reduce, values, offsets, reduce)
    torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-3 if case == "long" else 1e-5)
    torch.testing.assert_close(grad, plain_grad)


def test_max_takes_the_first_of_equals_and_a_nan() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, torch.nan], [3.0, 7.0], [2.0, torch.nan]])
    got, grad = with_gradient(segment_reduce, values, torch.tensor([0, 4]), "max")
    assert got[0, 0] == 3 and got[0, 1].isnan()
    assert grad.tolist() == [[0, 0], [-1, 1], [0, 0], [0, 0]]


def test_max_of_a_long_segment_takes_the_first_of_equals() -> None:
    values = torch.zeros(20000, 1)
    values[[4095, 4096, 15000]] = 1.0
    values.requires_grad_()
    (grad,) = torch.autograd.grad(segment_reduce(values, torch.tensor([0, 20000]), "max").sum(), values)
    assert grad.nonzero().tolist() == [[4095, 0]]


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradcheck(reduce: Reduce, device: torch.device) -> None:
    values, offsets = SEGMENT_CASES["f64"]()
    offsets = torch.tensor([1, 4, 4, 12], device=device)
    leaf = values.to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: segment_reduce(v, offsets, reduce), leaf)


@pytest.mark.parametrize("reduce", [0, 1, 2])
@pytest.mark.parametrize("case", ["small", "f64", "no_row", "no_segment", "rows_outside", "non_contiguous"])
def test_opcheck(case: str, reduce: int, device: torch.device) -> None:
    values, offsets = (t.to(device) for t in SEGMENT_CASES[case]())
    torch.library.opcheck(torch.ops.pcseg.segment_reduce, (values.requires_grad_(), offsets, reduce))
    out, arg = torch.ops.pcseg.segment_reduce(values, offsets, reduce)
    torch.library.opcheck(
        torch.ops.pcseg.segment_reduce_backward, (out.detach(), offsets, arg, values.shape[0], reduce)
    )


def test_compiles_once_for_all_sizes() -> None:
    seen: list[int] = []

    def backend(graph, inputs):
        seen.append(len(inputs))
        return graph.forward

    compiled = torch.compile(lambda v, o: segment_reduce(v, o, "mean"), fullgraph=True, dynamic=True, backend=backend)
    for rows in (6, 9, 30):
        values, offsets = torch.randn(rows, 3), torch.tensor([0, 2, rows])
        assert torch.equal(compiled(values, offsets), segment_reduce(values, offsets, "mean"))
    assert len(seen) == 1


def test_autocast() -> None:
    values, offsets = SEGMENT_CASES["small"]()
    with torch.autocast("cpu", torch.bfloat16):
        got = segment_reduce(values.bfloat16(), offsets, "sum")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, segment_reduce(values.bfloat16().float(), offsets, "sum"))


def test_errors() -> None:
    values, offsets = SEGMENT_CASES["small"]()
    with pytest.raises(ValueError, match="reduce must be one of sum, mean, max, got 'min'"):
        segment_reduce(values, offsets, "min")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="backend must be pcseg or torch_scatter, got 'numpy'"):
        segment_reduce(values, offsets, "sum", backend="numpy")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"values must be \(N, C\), got \(14,\)"):
        segment_reduce(values[:, 0], offsets, "sum")
    with pytest.raises(TypeError, match=r"values must be float32 or float64, got torch\.float16"):
        segment_reduce(values.half(), offsets, "sum")
    with pytest.raises(TypeError, match=r"offsets must be int64, got torch\.int32"):
        segment_reduce(values, offsets.int(), "sum")
    with pytest.raises(ValueError, match=r"offsets must be \(B \+ 1,\), got \(0,\)"):
        segment_reduce(values, offsets[:0], "sum")
    with pytest.raises(ValueError, match="segment_reduce: offsets must ascend"):
        segment_reduce(values, torch.tensor([0, 5, 4]), "sum")
    for bad in ([0, 15], [-1, 3]):
        with pytest.raises(ValueError, match="segment_reduce: offsets must lie within the rows of values"):
            segment_reduce(values, torch.tensor(bad), "sum")
