"""Vector attention as a GPU runs it, against the CPU's, which its own tests hold against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from ops.test_vector_attention import OPS, make

cpu = torch.ops.pcseg
CASES = {
    "shared_by_8": {"c": 64, "g": 8, "m": 25},
    "not_shared": {"c": 40, "g": 40, "m": 20},
    "many_weights": {"c": 144, "g": 72, "m": 12, "k": 4},  # several tiles of outputs and channels
    "odd": {"c": 35, "g": 5},
    "one_channel": {"c": 1, "g": 1, "p": 1},
    "7_position_channels": {"p": 7, "c": 20, "g": 10},
    "long_lists": {"m": 5, "n": 90, "k": 70},
    "hub": {"m": 100, "n": 2, "k": 3},
    "several_parts": {"m": 300, "n": 260, "k": 4, "c": 8, "g": 2},
    "one_point": {"m": 2, "n": 1, "k": 1},
    "no_query": {"m": 0},
    "no_key": {"n": 0},
    "no_neighbours": {"k": 0},
}


def check(cuda_ops, op: str, dtype: torch.dtype, **sizes: int) -> None:
    args = tuple(make(op, dtype=dtype, **sizes).values())
    out, expected = getattr(cuda_ops, op)(*args), getattr(cpu, op)(*args)
    outs, wanted = (value if isinstance(value, tuple) else (value,) for value in (out, expected))
    grads = [torch.linspace(-1, 1, value.numel(), dtype=dtype).view_as(value) for value in wanted]
    saved = (*grads, wanted[0]) if op == "attention_statistics" else grads
    found = (*outs, *getattr(cuda_ops, f"{op}_backward")(*saved, *args))
    wanted = (*wanted, *getattr(cpu, f"{op}_backward")(*saved, *args))
    # Roundings differ by the order of sums; the scale is that of what is summed.
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for a, b in zip(found, wanted, strict=True):
        scale = 1 + (b.abs().max().item() if b.numel() else 0)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES)
def test_equals_cpu(cuda_ops, case: str, op: str) -> None:
    check(cuda_ops, op, torch.float32, **CASES[case])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", ["odd", "not_shared", "7_position_channels"])
def test_equals_cpu_in_double(cuda_ops, case: str, op: str) -> None:
    check(cuda_ops, op, torch.float64, **CASES[case])


@pytest.mark.parametrize("op", OPS)
def test_what_is_missing_is_not_read(cuda_ops, op: str) -> None:
    inputs = make(op, m=20, n=9)
    missing = inputs["neighbors"] == 9
    for name in ("position", "logits"):
        if name in inputs:
            inputs[name][missing] = torch.nan
    args = tuple(inputs.values())
    out = getattr(cuda_ops, op)(*args)
    saved = (*out, out[0]) if isinstance(out, tuple) else (out,)
    for value in (*saved, *getattr(cuda_ops, f"{op}_backward")(*saved, *args)):
        assert value.isfinite().all()


@pytest.mark.parametrize("op", OPS)
def test_order_of_threads(cuda_ops, thread_order: str, op: str) -> None:
    check(cuda_ops, op, torch.float32, m=20)
