"""gather_neighbors against a loop in NumPy, the plain PyTorch twin and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pcseg.ops import gather_neighbors, reference

SHAPES = {  # N, M, k, C
    "usual": (50, 40, 9, 5),
    "one_channel": (30, 20, 4, 1),
    "two_channels": (30, 20, 4, 2),
    "three_channels": (30, 20, 4, 3),
    "four_channels": (30, 20, 4, 4),
    "wide": (30, 20, 7, 130),
    "no_row": (0, 6, 3, 2),
    "no_list": (6, 0, 3, 2),
    "no_neighbour": (6, 4, 0, 2),
    "no_channel": (6, 4, 3, 0),
    "few_rows": (3, 500, 16, 8),
    "many": (3000, 2000, 16, 6),
}


def make(shape: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    n, m, k, c = SHAPES[shape]
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, c, generator=g, dtype=dtype), torch.randint(0, n + 1, (m, k), generator=g)


def with_gradient(op, values: Tensor, neighbors: Tensor, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    values = values.detach().requires_grad_()
    out = op(values, neighbors, fill)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    return out, torch.autograd.grad((out * weight).sum() + 0 * values.sum(), values)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_loop_and_reference(shape: str, dtype: torch.dtype, device: torch.device) -> None:
    values, neighbors = make(shape, dtype)
    got, grad = with_gradient(gather_neighbors, values.to(device), neighbors.to(device), 2.5)
    expected = np.full((*neighbors.shape, values.shape[1]), 2.5)
    for at in np.ndindex(*neighbors.shape):
        if neighbors[at] < len(values):
            expected[at] = values[neighbors[at]]
    assert np.array_equal(got.detach().cpu().numpy(), expected)
    plain, plain_grad = with_gradient(reference.gather_neighbors, values, neighbors, 2.5)
    assert torch.equal(got.cpu(), plain)
    torch.testing.assert_close(grad.cpu(), plain_grad, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", ["many", "few_rows", "wide", "three_channels"])
def test_every_instruction_set_and_thread_count(shape: str, isa: str, threads: int) -> None:
    values, neighbors = make(shape)
    got = with_gradient(gather_neighbors, values, neighbors)
    torch.ops.pcseg.limit_isa(0)
    torch.set_num_threads(1)
    for a, b in zip(got, with_gradient(gather_neighbors, values, neighbors)):
        assert torch.equal(a, b)


def test_non_contiguous() -> None:
    values, neighbors = make("usual")
    got = gather_neighbors(values.t().contiguous().t(), neighbors.t().contiguous().t(), 1.0)
    assert torch.equal(got, reference.gather_neighbors(values, neighbors, 1.0))


def test_gradients(device: torch.device) -> None:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(5, 2, generator=g, dtype=torch.float64).to(device).requires_grad_()
    neighbors = torch.randint(0, 6, (4, 3), generator=g).to(device)
    assert torch.autograd.gradcheck(lambda v: gather_neighbors(v, neighbors, -1.0), values)
    assert torch.autograd.gradgradcheck(lambda v: gather_neighbors(v, neighbors).square(), values)


@pytest.mark.parametrize("shape", ["usual", "no_row", "no_list", "no_neighbour"])
def test_opcheck(shape: str, device: torch.device) -> None:
    values, neighbors = (t.to(device) for t in make(shape))
    torch.library.opcheck(torch.ops.pcseg.gather_neighbors, (values.requires_grad_(), neighbors, 0.5))
    grad = torch.randn(*neighbors.shape, values.shape[1], device=device, requires_grad=True)
    torch.library.opcheck(torch.ops.pcseg.gather_neighbors_backward, (grad, neighbors, values.shape[0]))


def test_autocast() -> None:
    values, neighbors = make("usual")
    with torch.autocast("cpu", torch.bfloat16):
        got = gather_neighbors(values.bfloat16(), neighbors)
    assert torch.equal(got, gather_neighbors(values.bfloat16().float(), neighbors))


def test_errors() -> None:
    values, neighbors = make("usual")
    with pytest.raises(ValueError, match=r"values must be \(N, C\), got \(50,\)"):
        gather_neighbors(values[:, 0], neighbors)
    with pytest.raises(TypeError, match=r"values must be float32 or float64, got torch\.int64"):
        gather_neighbors(values.long(), neighbors)
    with pytest.raises(ValueError, match=r"neighbors must be \(M, k\), got \(40,\)"):
        gather_neighbors(values, neighbors[:, 0])
    with pytest.raises(TypeError, match=r"neighbors must be int64, got torch\.int32"):
        gather_neighbors(values, neighbors.int())
    for bad in (-1, 51, 2**62):
        neighbors[3, 2] = bad
        with pytest.raises(ValueError, match=r"gather_neighbors: neighbors must lie within \[0, N\]"):
            gather_neighbors(values, neighbors)
