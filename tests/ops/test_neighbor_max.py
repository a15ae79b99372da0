"""neighbor_max against plain PyTorch, a brute-force loop, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pcseg.ops import neighbor_max, reference


def make(m=30, n=40, h=7, c=5, dtype=torch.float32, seed=0) -> tuple[Tensor, Tensor]:
    """Random lists, a third of the slots missing, some lists empty."""
    g = torch.Generator().manual_seed(seed)
    neighbors = torch.randint(0, n + 1, (m, h), generator=g)
    neighbors[torch.rand(m, h, generator=g) < 0.3] = n
    neighbors[::7] = n
    return torch.randn(n, c, generator=g, dtype=torch.float64).to(dtype), neighbors


CASES = {
    "plain": make(),
    "float64": make(dtype=torch.float64),
    "one channel": make(c=1),
    "wide": make(c=67),
    "no channel": make(c=0),
    "no list": make(m=0),
    "no slot": make(h=0),
    "no row": make(n=0),
    "nothing": make(m=0, n=0, h=0, c=0),
    "non-contiguous": (make(c=10)[0][:, ::2], make(h=14)[1][:, ::2]),
}


def check(values, neighbors):
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    out, expected = neighbor_max(ours, neighbors), reference.neighbor_max(theirs, neighbors)
    assert torch.equal(out, expected)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("case", CASES)
def test_equals_reference_with_gradient(case, device):
    check(*(tensor.to(device) for tensor in CASES[case]))


def test_every_instruction_set(isa):
    check(*CASES["wide"])
    check(*make(c=67, dtype=torch.float64))


def test_equals_loop():
    values, neighbors = CASES["plain"]
    for row, pooled in zip(neighbors.tolist(), neighbor_max(values, neighbors)):
        kept = [j for j in row if j < len(values)]
        expected = np.max(values.numpy()[kept], 0) if kept else np.zeros(values.shape[1])
        np.testing.assert_array_equal(pooled.numpy(), expected)


def test_gradient_goes_to_the_first_of_equals_and_nowhere_from_an_empty_list():
    values = torch.ones(3, 2, requires_grad=True)
    out = neighbor_max(values, torch.tensor([[3, 2, 0], [3, 3, 3]]))
    assert out.tolist() == [[1, 1], [0, 0]]
    out.sum().backward()
    assert values.grad.tolist() == [[0, 0], [0, 0], [1, 1]]


def test_negative_values_beat_the_missing_and_nan_wins():
    values = torch.tensor([[-2.0], [-1.0], [float("nan")]])
    out = neighbor_max(values, torch.tensor([[0, 1, 3], [0, 2, 1]]))
    assert out[0].item() == -1.0 and out[1].isnan().item()


def test_gradcheck():
    values, neighbors = make(m=8, n=6, h=3, c=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: neighbor_max(x, neighbors), values.requires_grad_())


def test_threads_do_not_change_bits():
    values, neighbors = make(m=4000, n=500, h=20, c=70)
    found, threads = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaf = values.clone().requires_grad_()
        out = neighbor_max(leaf, neighbors)
        out.square().sum().backward()
        found.append((out.detach(), leaf.grad))
    torch.set_num_threads(threads)
    for out, grad in found[1:]:
        assert torch.equal(out, found[0][0]) and torch.equal(grad, found[0][1])


@pytest.mark.parametrize("case", ["plain", "float64", "no row", "no slot"])
def test_opcheck(case):
    values, neighbors = CASES[case]
    torch.library.opcheck(torch.ops.pcseg.neighbor_max, (values.clone().requires_grad_(), neighbors))


def test_compiles_without_graph_break():
    values, neighbors = CASES["plain"]
    compiled = torch.compile(neighbor_max, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(values, neighbors), neighbor_max(values, neighbors))


def test_autocast_computes_in_float32():
    values, neighbors = CASES["plain"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert neighbor_max(values.bfloat16(), neighbors).dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "neighbors", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(1, 1, dtype=torch.int64), ValueError, r"values must be \(N, C\), got \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(1, dtype=torch.int64), ValueError, r"neighbors must be \(M, H\), got \(1,\)"),
        (torch.zeros(3, 2), torch.zeros(1, 1, dtype=torch.int32), TypeError, "neighbors must be int64"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64), TypeError, "float32 or float64"),
        (torch.zeros(3, 2), torch.tensor([[4]]), RuntimeError, r"neighbors must lie in \[0, N\]"),
        (torch.zeros(3, 2), torch.tensor([[-1]]), RuntimeError, r"neighbors must lie in \[0, N\]"),
    ],
)
def test_errors(values, neighbors, error, message):
    with pytest.raises(error, match=message):
        neighbor_max(values, neighbors)
