"""The torch_scatter backend of segment_reduce: equal to our own where the package is, a clear line where it is not."""

from __future__ import annotations

import importlib.util
import sys
from typing import Literal

import pytest
import torch
from ops.grid_cases import SEGMENT_CASES
from torch import Tensor

from pcseg.ops import segment_reduce

needs_torch_scatter = pytest.mark.skipif(
    importlib.util.find_spec("torch_scatter") is None, reason="needs torch_scatter (pip install pcseg[scatter])"
)


def with_gradient(values: Tensor, offsets: Tensor, reduce, backend: Literal["pcseg", "torch_scatter"]) -> list[Tensor]:
    values = values.detach().requires_grad_()
    out = segment_reduce(values, offsets, reduce, backend=backend)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, torch.autograd.grad((out * weight).sum() + 0 * values.sum(), values)[0]]


@needs_torch_scatter
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("case", SEGMENT_CASES)
def test_equals_ours(case: str, reduce: str) -> None:
    values, offsets = SEGMENT_CASES[case]()
    ours, theirs = (with_gradient(values, offsets, reduce, backend) for backend in ("pcseg", "torch_scatter"))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-3 if case == "long" else 1e-5)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    values, offsets = SEGMENT_CASES["small"]()
    with pytest.raises(ImportError, match=r"pip install pcseg\[scatter\]"):
        segment_reduce(values, offsets, "sum", backend="torch_scatter")
