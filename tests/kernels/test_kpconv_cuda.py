"""kpconv and its gradients as a GPU runs them, against the CPU's, which its own tests hold against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from ops.test_kpconv import make

cpu = torch.ops.pcseg
NAMES = ("query", "support", "neighbors", "feats", "weights", "kernel_points", "sigma", "kernel_offsets", "modulations")
CASES = {
    "usual": {},
    "wide_in": {"c": 70, "o": 8, "m": 20},  # several blocks of channels, a ragged last one
    "wide_out": {"c": 8, "o": 70, "m": 20},
    "fours": {"c": 64, "o": 64, "m": 18},  # rows that are read in fours
    "one_channel": {"c": 1, "o": 1},
    "many_kernel_points": {"k": 33, "m": 10},
    "one_kernel_point": {"k": 1},
    "long_lists": {"m": 5, "n": 90, "h": 70},
    "odd_lists": {"h": 33, "m": 10},
    "2d": {"d": 2, "k": 9},
    "1d": {"d": 1, "k": 3},
    "upsampling": {"m": 70, "n": 5, "h": 3},
    "one_point": {"m": 1, "n": 1, "h": 1},
    "no_query": {"m": 0},
    "no_support": {"n": 0, "h": 4},
    "no_place": {"h": 0},
}


def check(cuda_ops, kind: str, dtype: torch.dtype, **sizes: int) -> None:
    inputs = make(kind, dtype=dtype, **sizes)
    arguments = [inputs.get(name) for name in NAMES]
    # Roundings differ by the order of sums; the scale is that of what is summed.
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    out, expected = cuda_ops.kpconv(*arguments), cpu.kpconv(*arguments)
    grad = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    found = cuda_ops.kpconv_backward(grad, *arguments, True, True, True, True)
    wanted = cpu.kpconv_backward(grad, *arguments, True, True, True, True)
    for a, b in zip((out, *found), (expected, *wanted), strict=True):
        scale = 1 + (b.abs().max().item() if b.numel() else 0)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", ["rigid", "deformable", "modulated"])
@pytest.mark.parametrize("case", CASES)
def test_equals_cpu(cuda_ops, case: str, kind: str) -> None:
    check(cuda_ops, kind, torch.float32, **CASES[case])


@pytest.mark.parametrize("case", ["usual", "wide_in", "fours", "many_kernel_points", "2d"])
def test_equals_cpu_in_double(cuda_ops, case: str) -> None:
    check(cuda_ops, "modulated", torch.float64, **CASES[case])


def test_several_parts_of_the_weights_gradient(cuda_ops) -> None:
    check(cuda_ops, "rigid", torch.float64, m=200, n=60, h=3, c=2, o=3, k=4)


def test_neighbours_at_kernel_points_have_no_slope(cuda_ops) -> None:
    inputs = make("deformable", dtype=torch.float64)
    inputs["query"] = inputs["query"][:1].expand(40, 3).contiguous()
    inputs["support"] = inputs["query"][:1].expand(50, 3) + inputs["kernel_points"][3]
    inputs["kernel_offsets"][:] = 0
    inputs["support"] = inputs["query"][:1] + inputs["kernel_points"][torch.arange(50) % 15]
    arguments = [inputs.get(name) for name in NAMES]
    grad = torch.ones(40, 6, dtype=torch.float64)
    found = cuda_ops.kpconv_backward(grad, *arguments, False, False, True, False)
    wanted = cpu.kpconv_backward(grad, *arguments, False, False, True, False)
    assert found[0].numel() == found[1].numel() == found[3].numel() == 0
    assert found[2].isfinite().all()
    torch.testing.assert_close(found[2], wanted[2], rtol=0, atol=1e-12)


def test_order_of_threads(cuda_ops, thread_order: str) -> None:
    check(cuda_ops, "modulated", torch.float32)
    check(cuda_ops, "rigid", torch.float32, m=70, n=30, h=5, c=4, o=4, k=2)
