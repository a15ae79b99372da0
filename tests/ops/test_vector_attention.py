"""Vector attention against plain PyTorch in float64, Open3D-ML's layer, a brute-force loop, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcseg import ops
from pcseg.ops import reference, vector_attention

Inputs = dict[str, Any]
OPS = ("attention_relation", "attention_statistics", "attention_aggregate")
NAMES = {
    "attention_relation": ("query", "key", "neighbors", "position", "position_weight", "position_bias", "scale",
                           "shift", "weight", "bias"),
    "attention_statistics": ("query", "key", "neighbors", "position", "position_weight", "position_bias"),
    "attention_aggregate": ("logits", "value", "neighbors", "position", "position_weight", "position_bias"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN, so that a result that is not written shows."""
    torch.use_deterministic_algorithms(True)  # whose fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(False)


def make(
    op: str, m: int = 40, n: int = 50, k: int = 9, c: int = 24, g: int = 3, p: int = 3,
    dtype: torch.dtype = torch.float32, seed: int = 0,
) -> Inputs:  # fmt: skip
    """Random rows; about a quarter of the neighbours are missing, and one query has none."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    neighbors = torch.randint(0, n + 1, (m, k), generator=generator)
    neighbors[torch.rand(m, k, generator=generator) < 0.2] = n
    neighbors[m // 2 : m // 2 + 1] = n
    inputs = {
        "query": normal(m, c),
        "key": normal(n, c),
        "value": normal(n, c),
        "neighbors": neighbors,
        "position": normal(m, k, p),
        "position_weight": normal(c, p) / p**0.5,
        "position_bias": normal(c),
        "scale": normal(c),
        "shift": normal(c),
        "weight": normal(g, c) / c**0.5,
        "bias": normal(g),
        "logits": 2 * normal(m, k, g),
    }
    return {name: inputs[name] for name in NAMES[op]}


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: v.to(dtype) if v.is_floating_point() else v for name, v in inputs.items()}


def with_gradients(op: Callable[..., Any], inputs: Inputs) -> list[Tensor]:
    inputs = {name: v.clone().requires_grad_(v.is_floating_point()) for name, v in inputs.items()}
    out = op(**inputs)
    outs = out if isinstance(out, tuple) else (out,)
    loss = torch.stack([(o * torch.linspace(-1, 2, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in outs]).sum()
    wanted = [v for v in inputs.values() if v.requires_grad]
    return [*outs, *torch.autograd.grad(loss, wanted)]


def check_against_reference(op: str, inputs: Inputs) -> None:
    got = with_gradients(getattr(ops, op), inputs)
    expected = with_gradients(getattr(reference, op), cast(inputs, torch.float64))
    dtype = inputs["position"].dtype
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        scale = b.abs().max().item() if b.numel() else 0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * (1 + scale))


CASES = {
    "shared_by_8": {"c": 64, "g": 8},
    "shared_by_8_wide": {"c": 128, "g": 16, "m": 30},
    "not_shared": {"c": 32, "g": 32},
    "odd": {"c": 35, "g": 5},
    "one_channel": {"c": 1, "g": 1, "p": 1},
    "one_weight": {"c": 20, "g": 1},
    "more_weights_than_lanes": {"c": 144, "g": 72, "m": 20},
    "16_position_channels": {"p": 16},
    "7_position_channels": {"p": 7, "c": 40, "g": 10},
    "long_lists": {"m": 6, "n": 300, "k": 150},
    "hub": {"m": 300, "n": 2, "k": 3},
    "upsampling": {"m": 90, "n": 13, "k": 3},
    "several_chunks": {"m": 700, "n": 650, "k": 6, "c": 16, "g": 2},
    "one_point": {"m": 2, "n": 1, "k": 1},
    "no_query": {"m": 0},
    "no_key": {"n": 0},
    "no_neighbours": {"k": 0},
    "nothing": {"m": 0, "n": 0, "k": 0},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: str, op: str, dtype: torch.dtype) -> None:
    check_against_reference(op, make(op, **CASES[case], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", ["shared_by_8", "odd", "more_weights_than_lanes", "7_position_channels", "long_lists"])
def test_every_instruction_set(isa: str, case: str, op: str, dtype: torch.dtype) -> None:
    check_against_reference(op, make(op, **CASES[case], dtype=dtype))


def test_matches_brute_force() -> None:
    a = make("attention_relation", m=5, n=6, k=4, c=4, g=2, p=2, dtype=torch.float64)
    value = make("attention_aggregate", m=5, n=6, k=4, c=4, g=2, p=2, dtype=torch.float64)["value"]
    expected = torch.zeros(5, 4, dtype=torch.float64)
    for m in range(5):
        weights: list[list[float]] = []
        values: list[Tensor] = []
        for h, j in enumerate(a["neighbors"][m].tolist()):
            if j == 6:
                continue
            delta = a["position_weight"] @ a["position"][m, h] + a["position_bias"]
            z = (a["scale"] * (a["query"][m] - a["key"][j] + delta) + a["shift"]).clamp(min=0)
            weights.append([math.exp(math.tanh(x)) for x in (a["weight"] @ z + a["bias"]).tolist()])
            values.append(value[j] + delta)
        for c in range(4):
            total = sum(w[c % 2] for w in weights)
            expected[m, c] = sum((w[c % 2] / total * v[c] for w, v in zip(weights, values)), start=torch.tensor(0.0))
    torch.testing.assert_close(vector_attention(value=value, finish=torch.tanh, **a), expected)


class Open3DLayer(nn.Module):
    """Open3D-ML's TransformerLayer, its attention alone: (query, key, value, relative positions) in."""

    def __init__(self, channels: int, share: int) -> None:
        super().__init__()
        width = channels // share
        self.share = share
        self.linear_p = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, channels))
        self.linear_w = nn.Sequential(
            nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, width),
            nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width),
        )  # fmt: skip

    def position(self, relative: Tensor, last: int = 4) -> Tensor:
        for layer in list(self.linear_p)[:last]:
            is_norm = isinstance(layer, nn.BatchNorm1d)
            relative = layer(relative.mT).mT if is_norm else layer(relative)
        return relative

    def weights(self, w: Tensor, first: int = 0) -> Tensor:
        for layer in list(self.linear_w)[first:]:
            w = layer(w.mT).mT if isinstance(layer, nn.BatchNorm1d) else layer(w)
        return w

    def forward(self, query: Tensor, key: Tensor, value: Tensor, neighbors: Tensor, relative: Tensor) -> Tensor:
        delta = self.position(relative)
        w = self.weights(key[neighbors] - query.unsqueeze(1) + delta).softmax(1)
        rows, places, channels = delta.shape
        grouped = (value[neighbors] + delta).view(rows, places, self.share, channels // self.share)
        return (grouped * w.unsqueeze(2)).sum(1).view(rows, channels)


def fused(layer: Open3DLayer, query: Tensor, key: Tensor, value: Tensor, neighbors: Tensor, relative: Tensor) -> Tensor:
    norm: Any = layer.linear_w[0]
    first: Any = layer.linear_w[2]
    last: Any = layer.linear_p[3]
    # Their difference is key - query, the paper's query - key.
    pairs = (-query, -key, neighbors, layer.position(relative, 3), last.weight, last.bias)
    mean, var = ops.attention_statistics(*pairs) if layer.training else (norm.running_mean, norm.running_var)
    if layer.training:
        count = neighbors.numel()
        norm.running_mean.lerp_(mean.detach(), norm.momentum)
        norm.running_var.lerp_(var.detach() * count / (count - 1), norm.momentum)
    scale = norm.weight / (var + norm.eps).sqrt()
    pairs = (pairs[0], pairs[1], value, *pairs[2:])
    return vector_attention(
        *pairs, scale, norm.bias - mean * scale, first.weight, first.bias, lambda w: layer.weights(w, 3)
    )


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("share", [8, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_equals_open3d_layer(dtype: torch.dtype, share: int, training: bool) -> None:
    torch.manual_seed(0)
    m, n, k, channels = 90, 80, 8, 32
    layer = Open3DLayer(channels, share).to(dtype).train(training)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    for name, buffer in layer.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    other = Open3DLayer(channels, share).to(dtype).train(training)
    other.load_state_dict(layer.state_dict())
    neighbors = torch.randint(n, (m, k))
    inputs = [torch.randn(*s, dtype=dtype) for s in ((m, channels), (n, channels), (n, channels), (m, k, 3))]
    grad = torch.randn(m, channels, dtype=dtype)
    results = []
    for run, of in ((lambda *a: layer(*a), layer), (lambda *a: fused(other, *a), other)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = run(*leaves[:3], neighbors, leaves[3])
        grads = torch.autograd.grad(out, [*leaves, *of.parameters()], grad)
        results.append([out, *grads, *(b for name, b in of.named_buffers() if "running" in name)])
    for a, b in zip(*results, strict=True):
        tolerance = 2e-4 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(b, a, rtol=0, atol=tolerance * (1 + a.abs().max().item()))


@pytest.mark.parametrize("op", OPS)
def test_gradcheck(op: str) -> None:
    inputs = make(op, m=4, n=5, k=3, c=6, g=2, p=2, dtype=torch.float64)
    names = [name for name, v in inputs.items() if v.is_floating_point()]
    wanted = [inputs[name].requires_grad_() for name in names]
    call = getattr(ops, op)
    assert torch.autograd.gradcheck(lambda *values: call(**{**inputs, **dict(zip(names, values))}), wanted)


def test_statistics_far_from_zero() -> None:
    inputs = make("attention_statistics", m=3000, n=2000, c=8)
    inputs["query"] += 1000
    inputs["query"][0] = 0
    inputs["key"] -= 500
    mean, var = ops.attention_statistics(**inputs)
    expected = reference.attention_statistics(**cast(inputs, torch.float64))
    torch.testing.assert_close(mean.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), expected[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_softmax_of_extreme_logits(dtype: torch.dtype) -> None:
    inputs = make("attention_aggregate", m=8, k=6, n=20, dtype=dtype)
    inputs["neighbors"] = torch.randint(20, (8, 6))
    inputs["logits"][0] *= 1e4
    inputs["logits"][1] -= 1e30
    inputs["logits"][2, :3] = -torch.inf
    inputs["logits"][3] = torch.linspace(-120, 0, 6, dtype=dtype).unsqueeze(1)
    inputs["logits"][4, 2] = torch.nan
    inputs["logits"][5, 2, 1] = torch.inf
    got, expected = ops.attention_aggregate(**inputs), reference.attention_aggregate(**inputs)
    torch.testing.assert_close(got, expected, equal_nan=True)
    assert got[4].isnan().all() and got[:4].isfinite().all()


@pytest.mark.parametrize("op", OPS)
def test_all_neighbours_missing(op: str) -> None:
    inputs = make(op)
    inputs["neighbors"].fill_(50)
    for value in with_gradients(getattr(ops, op), inputs):
        assert (value == 0).all()


@pytest.mark.parametrize("op", OPS)
def test_what_is_missing_is_not_read(op: str) -> None:
    inputs = make(op, c=40, g=5)
    inputs["neighbors"][inputs["neighbors"] == 7] = 8
    missing = inputs["neighbors"] == 50
    expected = with_gradients(getattr(ops, op), inputs)
    for name in ("position", "logits"):
        if name in inputs:
            inputs[name][missing] = torch.nan
    for name in ("key", "value"):
        if name in inputs:
            inputs[name][7] = torch.nan
    for a, b in zip(with_gradients(getattr(ops, op), inputs), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", OPS)
def test_non_contiguous_inputs(op: str) -> None:
    inputs = make(op)
    expected = with_gradients(getattr(ops, op), inputs)
    strided = {name: torch.stack([v, v], -1)[..., 0] for name, v in inputs.items()}
    for a, b in zip(with_gradients(getattr(ops, op), strided), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", OPS)
def test_independent_of_threads(op: str) -> None:
    inputs = make(op, m=1500, n=1300, k=12, c=40, g=5)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients(getattr(ops, op), inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_batched_equals_looped() -> None:
    first, second = (make("attention_relation", seed=seed) for seed in (1, 2))
    shared = ("position_weight", "position_bias", "scale", "shift", "weight", "bias")
    second |= {name: first[name] for name in shared}
    moved = second["neighbors"] + 50
    joined = {name: torch.cat([first[name], second[name]]) for name in ("query", "key", "position")}
    joined["neighbors"] = torch.cat([first["neighbors"].where(first["neighbors"] < 50, 100), moved])
    got = ops.attention_relation(**{**first, **joined})
    assert torch.equal(got, torch.cat([ops.attention_relation(**first), ops.attention_relation(**second)]))


@pytest.mark.parametrize("op", OPS[::2])
def test_permutation(op: str) -> None:
    inputs = make(op)
    name = "key" if op == "attention_relation" else "value"
    order = torch.randperm(50)
    place = torch.cat([order.argsort(), torch.tensor([50])])
    moved = {**inputs, name: inputs[name][order], "neighbors": place[inputs["neighbors"]]}
    call = getattr(ops, op)
    assert torch.equal(call(**moved), call(**inputs))
    rows = torch.randperm(40)
    moved = {n: v[rows] if n in ("query", "neighbors", "position", "logits") else v for n, v in inputs.items()}
    assert torch.equal(call(**moved), call(**inputs)[rows])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", OPS)
def test_autocast(op: str, dtype: torch.dtype) -> None:
    inputs = make(op)
    halved = {n: v.to(dtype) if n in ("query", "key", "value", "logits") else v for n, v in inputs.items()}
    with torch.autocast("cpu", dtype):
        got = with_gradients(getattr(ops, op), halved)
    expected = with_gradients(getattr(ops, op), cast(halved, torch.float32))
    outs = 2 if op == "attention_statistics" else 1
    assert all(a.dtype == torch.float32 for a in got[:outs])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype))
    assert got[outs].dtype == dtype


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str) -> None:
    inputs = make(op, m=6, n=7, k=4, c=6, g=2)
    args = tuple(v.requires_grad_(v.is_floating_point()) for v in inputs.values())
    torch.library.opcheck(getattr(torch.ops.pcseg, op).default, args)
    detached = tuple(v.detach() for v in args)
    out = getattr(ops, op)(**inputs)
    saved = (torch.ones(6), torch.ones(6), out[0].detach()) if isinstance(out, tuple) else (torch.ones_like(out),)
    torch.library.opcheck(getattr(torch.ops.pcseg, f"{op}_backward").default, (*saved, *detached))


def test_compiles() -> None:
    a = make("attention_relation")
    value = make("attention_aggregate")["value"]

    def attend(key: Tensor) -> Tensor:
        mean, var = ops.attention_statistics(**{n: a[n] for n in NAMES["attention_statistics"] if n != "key"}, key=key)
        scale = a["scale"] / (var + 1e-5).sqrt()
        changed = {"key": key, "scale": scale, "shift": a["shift"] - mean * scale}
        return vector_attention(**{**a, **changed}, value=value, finish=torch.tanh)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=True)
    key = a["key"].clone().requires_grad_()
    out, expected = compiled(key), attend(key)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(o.sum(), key)[0] for o in (out, expected)))


ERRORS: dict[str, tuple[str, Inputs, type[Exception], str]] = {
    "key_dims": ("attention_relation", {"key": torch.rand(50)}, ValueError, r"key must be \(N, C >= 1\), got \(50,\)"),
    "value_dims": ("attention_aggregate", {"value": torch.rand(50, 0)}, ValueError, r"value must be \(N, C >= 1\)"),
    "query": ("attention_relation", {"query": torch.rand(39, 24)}, ValueError, r"query must be \(M = 40, C = 24\)"),
    "neighbors_dims": ("attention_statistics", {"neighbors": torch.zeros(40).long()}, ValueError, r"neighbors must be"),
    "neighbors_dtype": ("attention_relation", {"neighbors": torch.zeros(40, 9).int()}, TypeError, "must be int64"),
    "position": ("attention_aggregate", {"position": torch.rand(40, 8, 3)}, ValueError, r"position must be \(M = 40"),
    "position_weight": ("attention_aggregate", {"position_weight": torch.rand(24, 4)}, ValueError, r"P = 3\), got"),
    "position_bias": ("attention_statistics", {"position_bias": torch.rand(3)}, ValueError, r"position_bias must be"),
    "scale": ("attention_relation", {"scale": torch.rand(1)}, ValueError, r"scale must be \(C = 24,\), got \(1,\)"),
    "shift": ("attention_relation", {"shift": torch.rand(1)}, ValueError, r"shift must be \(C = 24,\), got \(1,\)"),
    "weight": ("attention_relation", {"weight": torch.rand(3, 23)}, ValueError, r"weight must be \(G >= 1, C = 24\)"),
    "bias": ("attention_relation", {"bias": torch.rand(4)}, ValueError, r"bias must be \(G = 3,\), got \(4,\)"),
    "logits": ("attention_aggregate", {"logits": torch.rand(40, 9, 5)}, ValueError, "G that divides C = 24"),
    "dtypes": ("attention_relation", {"scale": torch.rand(24).double()}, TypeError, "all of float32 or all of float64"),
    "half": ("attention_aggregate", {"value": torch.rand(50, 24).half()}, TypeError, "use autocast"),
    "integer": ("attention_statistics", {"key": torch.zeros(50, 24).long()}, TypeError, "float32 or all of float64"),
    "index_above": ("attention_relation", {"neighbors": torch.full((40, 9), 51)}, RuntimeError, r"lie in \[0, N\]"),
    "index_below": ("attention_aggregate", {"neighbors": torch.full((40, 9), -1)}, RuntimeError, r"lie in \[0, N\]"),
    "index_of_mean": ("attention_statistics", {"neighbors": torch.full((40, 9), 99)}, RuntimeError, r"lie in \[0, N\]"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_errors(error: str) -> None:
    op, changed, kind, message = ERRORS[error]
    with pytest.raises(kind, match=message):
        getattr(ops, op)(**{**make(op), **changed})
