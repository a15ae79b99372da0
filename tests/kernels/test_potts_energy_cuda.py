"""potts_energy as a GPU runs it, against the CPU's op."""

from __future__ import annotations

import pytest
import torch
from ops.potts_cases import CASES, as_csr, make
from torch import Tensor

from pcseg.ops.potts_energy import RELAXATIONS

cpu = torch.ops.pcseg


def alike(found: Tensor, expected: Tensor, log_probs: Tensor) -> None:
    """Equal up to the order of sums and the library's exponential."""
    tolerance = 1e-5 if log_probs.dtype == torch.float32 else 1e-12
    scale = max(1.0, expected.abs().max().item() if expected.numel() else 0)
    torch.testing.assert_close(found, expected, rtol=10 * tolerance, atol=tolerance * scale)


def check(cuda_ops, log_probs: Tensor, index: Tensor, weight: Tensor, offsets: Tensor | None, code: int) -> None:
    arguments = log_probs, index, weight, offsets, code
    alike(cuda_ops.potts_energy(*arguments), cpu.potts_energy(*arguments), log_probs)
    grad = torch.linspace(-1, 2, len(log_probs), dtype=log_probs.dtype)
    for needs in ((True, True), (True, False), (False, True)):
        found = cuda_ops.potts_energy_backward(grad, *arguments, *needs)
        expected = cpu.potts_energy_backward(grad, *arguments, *needs)
        for a, b in zip(found, expected, strict=True):
            alike(a, b, log_probs)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("case", sorted(CASES))
def test_lists(cuda_ops, case: str, relaxation: str) -> None:
    check(cuda_ops, *CASES[case](), None, RELAXATIONS.index(relaxation))


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("case", ["usual", "float64", "many_slots", "no_slot", "no_row"])
def test_csr(cuda_ops, case: str, relaxation: str) -> None:
    log_probs, neighbors, weight = CASES[case]()
    offsets, index, packed = as_csr(neighbors, weight)
    check(cuda_ops, log_probs, index, packed, offsets, RELAXATIONS.index(relaxation))


def test_order_of_threads(cuda_ops, thread_order: str) -> None:
    """Several blocks, the same bits in every run."""
    log_probs, neighbors, weight = make(n=150, k=11)
    arguments = log_probs, neighbors, weight, None, RELAXATIONS.index("lq")
    grad = torch.linspace(-1, 2, 150)
    check(cuda_ops, *arguments)
    first, again = (cuda_ops.potts_energy_backward(grad, *arguments, True, True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
