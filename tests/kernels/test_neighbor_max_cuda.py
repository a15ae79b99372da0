"""neighbor_max as a GPU runs it, against the CPU's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def make(m: int = 40, n: int = 60, h: int = 7, c: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    neighbors = torch.randint(0, n + 1, (m, h), generator=g)
    neighbors[::7] = n
    values = torch.randn(n, c, generator=g, dtype=torch.float64).to(dtype)
    if n:
        values[n // 2] = torch.nan
    return values, neighbors


CASES = {
    "plain": make(),
    "float64": make(dtype=torch.float64),
    "wide": make(c=300),
    "ties": (make()[0].round(), make()[1]),
    "no list": make(m=0),
    "no slot": make(h=0),
    "no row": make(n=0),
    "no channel": make(c=0),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_cpu(cuda_ops, case: str) -> None:
    values, neighbors = CASES[case]
    out, arg = cuda_ops.neighbor_max(values, neighbors)
    expected, expected_arg = torch.ops.pcseg.neighbor_max(values, neighbors)
    assert torch.equal(arg, expected_arg)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    found = cuda_ops.neighbor_max_backward(grad, arg, len(values))
    torch.testing.assert_close(found, torch.ops.pcseg.neighbor_max_backward(grad, arg, len(values)))


def test_an_index_out_of_range_is_no_neighbour(cuda_ops) -> None:
    out, arg = cuda_ops.neighbor_max(torch.ones(3, 1), torch.tensor([[-1, 7], [9, 1]]))
    assert out.tolist() == [[0], [1]] and arg.tolist() == [[3], [1]]
