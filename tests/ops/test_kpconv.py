"""kpconv against plain PyTorch in float64, a brute-force loop, and finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pcseg.ops import kpconv, kpconv_fitting_distance, reference

Inputs = dict[str, Any]
KINDS = ("rigid", "deformable", "modulated")
DIFFERENTIABLE = ("feats", "weights", "kernel_offsets", "modulations")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN, so that a result that is not written shows."""
    torch.use_deterministic_algorithms(True)  # whose fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(False)


def make(
    kind: str = "rigid", m: int = 40, n: int = 50, h: int = 9, c: int = 5, o: int = 6, k: int = 15, d: int = 3,
    dtype: torch.dtype = torch.float32, seed: int = 0,
) -> Inputs:  # fmt: skip
    """Random points in the unit cube; about a quarter of the neighbours are missing."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    neighbors = torch.randint(0, n + 1, (m, h), generator=g)
    neighbors[torch.rand(m, h, generator=g) < 0.2] = n
    inputs: Inputs = {
        "query": torch.rand(m, d, generator=g, dtype=torch.float64),
        "support": torch.rand(n, d, generator=g, dtype=torch.float64),
        "neighbors": neighbors,
        "feats": normal(n, c),
        "weights": normal(k, c, o) / (c * k) ** 0.5,
        "kernel_points": 0.4 * normal(k, d),
        "sigma": 0.6,
    }
    if kind in ("deformable", "modulated"):
        inputs["kernel_offsets"] = 0.1 * normal(m, k, d)
    if kind == "modulated":
        inputs["modulations"] = torch.rand(m, k, generator=g, dtype=torch.float64) * 2
    return cast(inputs, dtype)


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def leaves(inputs: Inputs) -> tuple[Inputs, list[Tensor]]:
    inputs = {name: v.clone().requires_grad_() if name in DIFFERENTIABLE else v for name, v in inputs.items()}
    return inputs, [inputs[name] for name in DIFFERENTIABLE if name in inputs]


def with_gradients(op, inputs: Inputs) -> list[Tensor]:
    inputs, wanted = leaves(inputs)
    out = op(**inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weight).sum(), wanted)]


def check_against_reference(inputs: Inputs) -> None:
    got = with_gradients(kpconv, inputs)
    expected = with_gradients(reference.kpconv, cast(inputs, torch.float64))
    tolerance = 2e-5 if got[0].dtype == torch.float32 else 1e-12
    for a, b in zip(got, expected):
        assert a.shape == b.shape and a.dtype == inputs["feats"].dtype
        scale = b.abs().max().item() if b.numel() else 0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * (1 + scale))


CASES = {
    "in1": {"c": 1, "o": 8},
    "in3_out1": {"c": 3, "o": 1},
    "in17_out100": {"c": 17, "o": 100},
    "in64_out64": {"c": 64, "o": 64},
    "in100_out17": {"c": 100, "o": 17},
    "in160_out130": {"c": 160, "o": 130, "m": 30},
    "strided": {"m": 13, "n": 90, "h": 20},
    "upsampling": {"m": 90, "n": 13, "h": 5},
    "long_lists": {"m": 5, "n": 300, "h": 150},
    "several_tiles": {"m": 700, "n": 650, "h": 6, "c": 16, "o": 16},
    "2d": {"d": 2, "k": 9},
    "1d": {"d": 1, "k": 3},
    "one_kernel_point": {"k": 1},
    "64_kernel_points": {"k": 64, "c": 20},
    "one_point": {"m": 1, "n": 1, "h": 1},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: str, kind: str, dtype: torch.dtype) -> None:
    check_against_reference(make(kind, **CASES[case], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("case", ["in17_out100", "in100_out17", "in64_out64", "2d", "strided"])
def test_every_instruction_set(isa: str, case: str, dtype: torch.dtype) -> None:
    check_against_reference(make("modulated", **CASES[case], dtype=dtype))
    check_against_reference(make("rigid", **CASES[case], dtype=dtype))


def brute_force(
    query, support, neighbors, feats, weights, kernel_points, sigma, kernel_offsets=None, modulations=None
) -> np.ndarray:
    out = np.zeros((len(query), weights.shape[2]))
    for m, k in np.ndindex(len(query), len(kernel_points)):
        point = kernel_points[k] + (0 if kernel_offsets is None else kernel_offsets[m, k])
        for j in neighbors[m]:
            if j < len(support):
                influence = max(0.0, 1 - np.linalg.norm(support[j] - query[m] - point) / sigma)
                influence *= 1 if modulations is None else modulations[m, k]
                out[m] += influence * (feats[j] @ weights[k])
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_matches_brute_force(kind: str) -> None:
    inputs = make(kind, m=6, n=8, h=4, c=3, o=2, k=4, dtype=torch.float64)
    expected = brute_force(**{name: v.numpy() if isinstance(v, Tensor) else v for name, v in inputs.items()})
    np.testing.assert_allclose(kpconv(**inputs).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(reference.kpconv(**inputs).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str, d: int) -> None:
    inputs, wanted = leaves(make(kind, m=4, n=5, h=3, c=3, o=2, k=4, d=d, dtype=torch.float64))
    names = [name for name in DIFFERENTIABLE if name in inputs]
    assert torch.autograd.gradcheck(lambda *values: kpconv(**{**inputs, **dict(zip(names, values))}), wanted)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_each_gradient_alone(name: str) -> None:
    inputs = make("modulated", dtype=torch.float64)
    index = DIFFERENTIABLE.index(name)
    expected = with_gradients(kpconv, inputs)[1 + index]
    inputs[name] = inputs[name].requires_grad_()
    out = kpconv(**inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    torch.testing.assert_close(torch.autograd.grad((out * weight).sum(), inputs[name])[0], expected)


def test_modulations_without_offsets() -> None:
    inputs = make("modulated")
    del inputs["kernel_offsets"]
    check_against_reference(inputs)


def test_gradient_at_distance_zero_is_zero() -> None:
    inputs = make("deformable", m=1, n=1, h=1, k=1, dtype=torch.float64)
    inputs |= {"neighbors": torch.zeros(1, 1, dtype=torch.int64), "kernel_points": torch.zeros(1, 3).double()}
    inputs["kernel_offsets"] = (inputs["support"] - inputs["query"]).view(1, 1, 3)
    check_against_reference(inputs)
    out, _, _, grad_offsets = with_gradients(kpconv, inputs)
    torch.testing.assert_close(out, inputs["feats"] @ inputs["weights"][0])
    assert (grad_offsets == 0).all()


EDGES = {
    "no_query": {"m": 0},
    "no_support": {"n": 0},
    "no_neighbours": {"h": 0},
    "nothing": {"m": 0, "n": 0, "h": 0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge: str, kind: str) -> None:
    check_against_reference(make(kind, **EDGES[edge]))


@pytest.mark.parametrize("kind", KINDS)
def test_all_neighbours_missing(kind: str) -> None:
    inputs = make(kind)
    inputs["neighbors"].fill_(50)
    for value in with_gradients(kpconv, inputs):
        assert (value == 0).all()


def test_rows_that_are_nobodys_neighbour_are_not_read() -> None:
    inputs = make(c=17)
    inputs["neighbors"][inputs["neighbors"] == 7] = 8
    expected = kpconv(**inputs)
    inputs["feats"][7] = torch.nan
    assert torch.equal(kpconv(**inputs), expected)


def test_repeated_neighbours_count_each_time() -> None:
    inputs = make()
    inputs["neighbors"][:, 1:4] = inputs["neighbors"][:, :1]
    check_against_reference(inputs)


def test_non_contiguous_inputs() -> None:
    inputs = make("modulated")
    expected = with_gradients(kpconv, inputs)
    strided = {
        name: torch.stack([value, value], -1)[..., 0] if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    assert not strided["feats"].is_contiguous()
    for a, b in zip(with_gradients(kpconv, strided), expected):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_independent_of_threads(kind: str) -> None:
    inputs = make(kind, m=900, n=800, h=12, c=20, o=24)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients(kpconv, inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    inputs = make("modulated", c=16)
    inputs["feats"], inputs["modulations"] = inputs["feats"].to(dtype), inputs["modulations"].to(dtype)
    with torch.autocast("cpu", dtype):
        out, grad_feats, *_ = with_gradients(kpconv, inputs)
    assert out.dtype == torch.float32 and grad_feats.dtype == dtype
    torch.testing.assert_close(out, kpconv(**cast(inputs, torch.float32)))


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind: str) -> None:
    inputs, _ = leaves(make(kind, m=6, n=7, c=3))
    inputs = {"kernel_offsets": None, "modulations": None} | inputs
    names = ("query", "support", "neighbors", "feats", "weights", "kernel_points", "sigma", "kernel_offsets",
             "modulations")  # fmt: skip
    args = tuple(inputs[name] for name in names)
    torch.library.opcheck(torch.ops.pcseg.kpconv.default, args)
    detached = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
    for needs in ((True,) * 4, (False, True, False, True)):
        torch.library.opcheck(torch.ops.pcseg.kpconv_backward.default, (torch.randn(6, 6), *detached, *needs))


def test_compiles() -> None:
    inputs = make("modulated")

    def twice(feats: Tensor) -> Tensor:
        return 2 * kpconv(**{**inputs, "feats": feats})

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager", dynamic=True)
    feats = inputs["feats"].clone().requires_grad_()
    out = compiled(feats)
    torch.testing.assert_close(out, 2 * kpconv(**inputs))
    (grad,) = torch.autograd.grad(out.sum(), feats)
    (expected,) = torch.autograd.grad(twice(feats).sum(), feats)
    torch.testing.assert_close(grad, expected)


ERRORS = {
    "coords_4d": ({"query": torch.rand(40, 4)}, ValueError, r"query \(M, D\) needs one D in 1..3"),
    "coords_mixed": ({"support": torch.rand(50, 2)}, ValueError, r"support \(N, D\) needs one D"),
    "neighbors_rows": ({"neighbors": torch.zeros(3, 2).long()}, ValueError, r"neighbors must be \(M = 40, H\)"),
    "neighbors_dtype": ({"neighbors": torch.zeros(40, 2).int()}, TypeError, "neighbors must be int64, got torch.int32"),
    "feats_rows": ({"feats": torch.rand(49, 5)}, ValueError, r"feats must be \(N = 50, C\), got \(49, 5\)"),
    "no_channels": ({"feats": torch.rand(50, 0), "weights": torch.rand(15, 0, 6)}, ValueError, "at least one channel"),
    "weights_shape": ({"weights": torch.rand(15, 4, 6)}, ValueError, r"weights must be \(K = 15, C = 5, O\)"),
    "offsets_shape": ({"kernel_offsets": torch.rand(40, 15, 2)}, ValueError, r"kernel_offsets must be \(M, K, D\)"),
    "modulations_shape": ({"modulations": torch.rand(40, 14)}, ValueError, r"modulations must be \(M, K\)"),
    "sigma": ({"sigma": 0.0}, ValueError, "sigma must be positive, got 0.0"),
    "dtypes": ({"feats": torch.rand(50, 5).double()}, TypeError, "all of float32 or all of float64 expected"),
    "half": ({"feats": torch.rand(50, 5).half()}, TypeError, "use autocast"),
    "index_above": ({"neighbors": torch.full((40, 2), 51)}, RuntimeError, r"neighbors must lie in \[0, N\]"),
    "index_below": ({"neighbors": torch.full((40, 2), -1)}, RuntimeError, r"neighbors must lie in \[0, N\]"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_errors(error: str) -> None:
    changed, kind, message = ERRORS[error]
    with pytest.raises(kind, match=message):
        kpconv(**{**make(), **changed})


@pytest.mark.parametrize("d", [2, 3])
def test_fitting_distance(d: int) -> None:
    inputs = make("deformable", d=d, dtype=torch.float64)
    inputs["neighbors"][3] = 50
    del inputs["feats"], inputs["weights"]
    results = []
    for op in (kpconv_fitting_distance, reference.kpconv_fitting_distance):
        offsets = inputs["kernel_offsets"].clone().requires_grad_()
        out = op(**{**inputs, "kernel_offsets": offsets})
        results.append((out, *torch.autograd.grad((out * out).sum(), offsets)))
    assert (results[0][0][3] == 0).all()
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_fitting_distance_without_neighbours() -> None:
    inputs = make("deformable", h=0)
    del inputs["feats"], inputs["weights"]
    assert torch.equal(kpconv_fitting_distance(**inputs), torch.zeros(40, 15))
    with pytest.raises(ValueError, match="kernel_offsets must be"):
        kpconv_fitting_distance(**{**inputs, "kernel_offsets": torch.zeros(40, 14, 3)})
