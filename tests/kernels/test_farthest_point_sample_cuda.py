"""farthest_point_sample as a GPU runs it, against the CPU's op: the same rows."""

from __future__ import annotations

import pytest
import torch
from ops.farthest_cases import FARTHEST_CASES, Sampling
from ops.search_cases import uniform
from torch import Tensor

from pcseg.batch import offsets_of

SLOW = {"large_clouds", "far_point", "far_origin", "uneven", "3d", "2d", "ties"}  # many steps: shortened


def arguments_of(case: Sampling) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    coords, counts, offsets, start = case
    offsets = offsets_of([len(coords)]) if offsets is None else offsets
    sample_offsets = torch.cat([torch.zeros(1, dtype=torch.int64), offsets.diff().clamp(max=counts).cumsum(0)])
    return (
        coords,
        offsets,
        sample_offsets,
        start if isinstance(start, Tensor) else torch.full((len(offsets) - 1,), start),
    )


def check(cuda_ops, case: Sampling) -> None:
    arguments = arguments_of(case)
    expected = torch.ops.pcseg.farthest_point_sample(*arguments, -1)
    for total in (-1, len(expected)):
        assert torch.equal(cuda_ops.farthest_point_sample(*arguments, total), expected)


@pytest.mark.parametrize("name", FARTHEST_CASES)
def test_equals_cpu(cuda_ops, name: str) -> None:
    case = FARTHEST_CASES[name]()
    check(cuda_ops, case._replace(num_samples=20) if name in SLOW else case)


def test_several_tiles(cuda_ops) -> None:
    check(cuda_ops, Sampling(uniform(2 * 2048 * 32 + 50, 3), 6))


def test_order_of_threads(cuda_ops, thread_order: str) -> None:
    check(cuda_ops, FARTHEST_CASES["pixels"]()._replace(num_samples=50))
    check(cuda_ops, FARTHEST_CASES["clouds_each"]())
