"""gaussian_filter as a GPU runs it, against the CPU's bits, which its own tests hold against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from ops.test_gaussian_filter import CASES, make
from torch import Tensor

cpu = torch.ops.pcseg


def check(cuda_ops, values: Tensor, positions: Tensor, offsets: Tensor | None = None) -> None:
    offsets = torch.tensor([0, len(positions)]) if offsets is None else offsets
    lattice = cuda_ops.permutohedral_lattice(positions, offsets)
    expected = cpu.permutohedral_lattice(positions, offsets)
    assert all(torch.equal(a, b) for a, b in zip(lattice, expected, strict=True))
    for transpose in (False, True):
        found = cuda_ops.gaussian_filter(values, *lattice, transpose)
        assert torch.equal(found, cpu.gaussian_filter(values, *lattice, transpose))


@pytest.mark.parametrize("case", CASES)
def test_equals_cpu(cuda_ops, case: str) -> None:
    check(cuda_ops, *CASES[case])


def test_long_sums(cuda_ops) -> None:
    check(cuda_ops, make(n=20_000, c=2)[0], torch.full((20_000, 2), 0.7))


@pytest.mark.parametrize("d", [2, 8])
def test_wide_keys(cuda_ops, d: int) -> None:
    values, positions = make(d=d, dtype=torch.float64)
    positions[::50] += 1e6 * torch.arange(6, dtype=torch.float64).view(-1, 1) * torch.linspace(-1, 1, d).double()
    check(cuda_ops, values, positions)


def test_several_clouds(cuda_ops) -> None:
    values, positions = make(n=300)
    check(cuda_ops, values, positions, torch.tensor([0, 0, 120, 121, 121, 300]))


def test_order_of_threads(cuda_ops, thread_order: str) -> None:
    check(cuda_ops, *make(d=5))


def test_row_that_does_not_fit(cuda_ops) -> None:
    positions = torch.zeros(4, 2)
    positions[2, 1] = torch.nan
    with pytest.raises(RuntimeError, match="row 2 of positions is not finite"):
        cuda_ops.permutohedral_lattice(positions, torch.tensor([0, 4]))
