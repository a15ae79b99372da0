"""gaussian_filter against plain PyTorch, the exact sum over all pairs, and its own transpose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcseg.ops import PermutohedralLattice, gaussian_filter, reference


def make(n=300, d=3, c=5, spread=1.0, dtype=torch.float32, seed=0) -> tuple[Tensor, Tensor]:
    """Random values, and normally distributed positions."""
    g = torch.Generator().manual_seed(seed)
    positions = spread * torch.randn(n, d, generator=g, dtype=torch.float64)
    return torch.randn(n, c, generator=g, dtype=torch.float64).to(dtype), positions.to(dtype)


def photograph(height=40, width=50, dtype=torch.float32) -> Tensor:
    """(x, y, r, g, b) of an image of flat regions and noise, by the bandwidths of the classic CRF."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    regions = 200 * torch.rand(height // 10, width // 10, 3, generator=g)
    color = regions[y // 10, x // 10] + 5 * torch.randn(height, width, 3, generator=g)
    plane = torch.stack([x, y], 2) / 80
    return torch.cat([plane, color / 13], 2).reshape(-1, 5).to(dtype)


def exact(values: Tensor, positions: Tensor) -> Tensor:
    """The sum over all pairs, in float64."""
    positions = positions.double()
    return torch.exp(-0.5 * torch.cdist(positions, positions).square()) @ values.double()


CASES = {
    **{f"{d} dimensions": make(d=d) for d in range(2, 9)},
    "float64": make(dtype=torch.float64),
    "one channel": make(c=1),
    "seven channels": make(c=7),
    "twenty-one channels": make(c=21, d=5),
    "many channels": make(c=150, d=2),
    "many channels, few rows": make(n=3, c=300),
    "no channel": make(c=0),
    "no row": make(n=0),
    "one row": make(n=1),
    "small bandwidth": make(spread=1e3),
    "large bandwidth": make(spread=1e-3),
    "all equal": (make()[0], torch.full((300, 3), 0.7)),
    "at the origin": (make(d=5)[0], torch.zeros(300, 5)),
    "on whole numbers": (make(d=4)[0], make(d=4, spread=2)[1].round()),
    "image": (make(n=2000)[0], photograph()),
    "non-contiguous": (make(c=10)[0][:, ::2], make(d=6)[1][:, ::2]),
}


def check(values: Tensor, positions: Tensor, offsets: Tensor | None = None) -> None:
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    out = gaussian_filter(ours, positions, offsets=offsets)
    expected = reference.gaussian_filter(theirs, positions, offsets=offsets)
    tolerance = {torch.float32: 3e-6, torch.float64: 1e-13}[values.dtype]
    largest = 1 + (expected.abs().max().item() if expected.numel() else 0)
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance * largest)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("case", CASES)
def test_equals_reference_with_gradient(case, device):
    check(*(tensor.to(device) for tensor in CASES[case]))


@pytest.mark.parametrize("c", [1, 3, 8, 17, 21, 33, 60, 90, 140])
def test_every_instruction_set(isa, c):
    check(*make(c=c, d=5))
    check(*make(c=c, d=2, n=40, dtype=torch.float64))


@pytest.mark.parametrize("d", [2, 5, 8])
def test_wide_keys(d, device):
    """Positions so far apart that a lattice point does not fit into 64 bits."""
    values, positions = make(d=d, dtype=torch.float64)
    positions[::50] += 1e6 * torch.arange(6, dtype=torch.float64).view(-1, 1) * torch.linspace(-1, 1, d).double()
    check(values.to(device), positions.to(device))


def uniform(d: int) -> Tensor:
    """4000 positions in a cube of edge 4."""
    return 4 * torch.rand(4000, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# Against the exact sum, measured on 2026-11-21 and rounded up: mean and worst relative error of the filter of ones, and
# the mean error of weighted means over the standard deviation of the values.
EXACT = {
    "2 dimensions": (uniform(2), 0.025, 0.12, 0.003),
    "3 dimensions": (uniform(3), 0.035, 0.19, 0.005),
    "4 dimensions": (uniform(4), 0.045, 0.23, 0.006),
    "5 dimensions": (uniform(5), 0.07, 0.38, 0.01),
    "6 dimensions": (uniform(6), 0.17, 0.75, 0.015),
    "image": (photograph(dtype=torch.float64), 0.29, 0.5, 0.01),
    "cloud": (make(n=3000, spread=2, dtype=torch.float64)[1], 0.03, 0.6, 0.012),
}


@pytest.mark.parametrize("case", EXACT)
def test_against_the_exact_sum(case):
    positions, mean, worst, of_means = EXACT[case]
    ones, values = torch.ones(len(positions), 1).double(), make(n=len(positions), dtype=torch.float64)[0]
    count, expected = gaussian_filter(ones, positions), exact(ones, positions)
    error = (count / expected - 1).abs()
    assert error.mean() < mean and error.max() < worst
    means = gaussian_filter(values, positions) / count - exact(values, positions) / expected
    assert means.abs().mean() < of_means * values.std()


# Mean, least and largest over places in the lattice.
SELF_WEIGHT = {2: (0.76, 0.69, 1.03), 3: (0.71, 0.6, 1.15), 4: (0.67, 0.55, 1.3), 5: (0.65, 0.52, 1.4),
               6: (0.63, 0.48, 1.6), 7: (0.61, 0.46, 1.7), 8: (0.6, 0.44, 1.9)}  # fmt: skip


@pytest.mark.parametrize("d", SELF_WEIGHT)
def test_weight_of_a_row_on_itself(d):
    isolated = 100 * torch.arange(4000.0).unsqueeze(1) + 10 * uniform(d).float()
    weight = gaussian_filter(torch.ones(4000, 1), isolated)
    mean, least, largest = SELF_WEIGHT[d]
    assert abs(weight.mean() - mean) < 0.01 and weight.min() > least and weight.max() < largest


@pytest.mark.parametrize("d", range(2, 9))
def test_one_place(d):
    """Where all rows lie within one simplex, each gets the sum, as far as a row's weight on itself is 1."""
    values = make(n=4000, d=d)[0].abs()
    out = gaussian_filter(values, 0.3 + 1e-3 * uniform(d).float())
    ratio = out / values.sum(0)
    assert ratio.std() < 1e-3 and 0.68 < ratio.mean() < 0.75


def test_transpose_is_exact():
    """<A x, y> = <x, A' y>, where missing lattice points make A unsymmetric."""
    x, positions = make(n=500, d=4, spread=2, dtype=torch.float64)
    y = make(n=500, d=4, dtype=torch.float64, seed=1)[0]
    leaf = x.clone().requires_grad_()
    out = gaussian_filter(leaf, positions)
    (back,) = torch.autograd.grad(out, leaf, y)
    torch.testing.assert_close((out * y).sum(), (x * back).sum(), rtol=1e-13, atol=0)
    assert not torch.allclose(back, gaussian_filter(y, positions), rtol=1e-6)


@pytest.mark.parametrize("d", [2, 3, 5, 8])
def test_gradcheck(d):
    values, positions = make(n=12, d=d, c=2, dtype=torch.float64)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gaussian_filter(x, positions), values)
    assert torch.autograd.gradgradcheck(lambda x: gaussian_filter(x, positions), values)


def test_positions_get_no_gradient():
    values, positions = make()
    positions.requires_grad_()
    assert not gaussian_filter(values, positions).requires_grad
    gaussian_filter(values.requires_grad_(), positions).sum().backward()
    assert positions.grad is None


def test_a_lattice_serves_many_calls(device):
    values, positions = (tensor.to(device) for tensor in make(d=5))
    lattice = PermutohedralLattice(positions)
    assert 0 < lattice.num_vertices <= positions.shape[0] * 6
    for c in (1, 5):
        assert torch.equal(lattice.filter(values[:, :c]), gaussian_filter(values[:, :c], positions))


def test_batched_equals_looped(device):
    lengths = [0, 120, 1, 0, 300, 79, 0]
    values, positions = (tensor.to(device) for tensor in make(n=sum(lengths)))
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0)
    out = gaussian_filter(values, positions, offsets=offsets)
    each = [gaussian_filter(v, p) for v, p in zip(values.split(lengths), positions.split(lengths))]
    assert torch.equal(out, torch.cat(each))
    check(values, positions, offsets)


def test_many_clouds():
    values, positions = make(n=70_000, c=2, spread=0.01)
    out = gaussian_filter(values, positions, offsets=torch.arange(70_001))
    # A cloud of one row: the row's value times the weight of a row on itself.
    torch.testing.assert_close(out, values * (out / values).mean(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_no_cloud():
    empty = torch.zeros(0, 3)
    assert gaussian_filter(empty, empty, offsets=torch.zeros(1, dtype=torch.int64)).shape == (0, 3)
    assert gaussian_filter(empty, empty, offsets=torch.zeros(4, dtype=torch.int64)).shape == (0, 3)


def test_permutation():
    values, positions = make(dtype=torch.float64)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        gaussian_filter(values[order], positions[order]), gaussian_filter(values, positions)[order]
    )


def test_translation():
    """By a lattice vector nothing changes; by any other the error moves, and the sum hardly."""
    values, positions = make(n=3000, d=3, dtype=torch.float64)
    values = values.abs()
    here = gaussian_filter(values, positions)
    step = torch.tensor([0, 0, (9 / 8) ** 0.5], dtype=torch.float64)  # to (1, 1, 1, -3)
    torch.testing.assert_close(gaussian_filter(values, positions + 2 * step), here, rtol=1e-9, atol=0)
    there = gaussian_filter(values, positions + torch.tensor([0.3, -1.7, 0.9], dtype=torch.float64))
    assert ((here - there).abs() / here).mean() < 0.05


def test_far_point_changes_nothing_elsewhere():
    values, positions = make(d=5, dtype=torch.float64)
    alone = gaussian_filter(values, positions)
    far = torch.cat([positions, torch.full((1, 5), 1e6, dtype=torch.float64)])
    out = gaussian_filter(torch.cat([values, values[:1]]), far)
    assert torch.equal(out[:-1], alone)
    ratio = out[-1] / values[0]
    assert ratio.std() < 1e-12 and 0.3 < ratio.mean() < 1


@pytest.mark.parametrize("spread", [0.2, 1.5])  # many rows to a lattice point, and few
def test_threads_do_not_change_bits(spread):
    values, positions = make(n=30_000, d=5, c=21, spread=spread)
    found, threads = [], torch.get_num_threads()
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        leaf = values.clone().requires_grad_()
        lattice = PermutohedralLattice(positions)
        out = lattice.filter(leaf)
        out.square().sum().backward()
        found.append((out.detach(), leaf.grad, *lattice.tensors))
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_instruction_sets_agree_to_the_bit():
    values, positions = make(n=2000, d=5, c=21)
    before, found = torch.ops.pcseg.isa(), []
    for isa in range(3):
        torch.ops.pcseg.limit_isa(isa)
        found.append(gaussian_filter(values, positions))
    torch.ops.pcseg.limit_isa(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("case", ["float64", "5 dimensions", "no row"])
def test_opcheck(case):
    values, positions = CASES[case]
    offsets = torch.tensor([0, len(values)])
    torch.library.opcheck(torch.ops.pcseg.permutohedral_lattice, (positions, offsets))
    lattice = torch.ops.pcseg.permutohedral_lattice(positions, offsets)
    for transpose in (False, True):
        torch.library.opcheck(torch.ops.pcseg.gaussian_filter, (values.clone().requires_grad_(), *lattice, transpose))


def test_compiles_without_graph_break():
    values, positions = CASES["5 dimensions"]
    compiled = torch.compile(gaussian_filter, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(values, positions), gaussian_filter(values, positions))
    lattice = PermutohedralLattice(positions)
    compiled = torch.compile(lattice.filter, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(values), lattice.filter(values))


def test_autocast_computes_in_float32():
    values, positions = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gaussian_filter(values.bfloat16(), positions).dtype == torch.float32
        assert gaussian_filter(values, positions.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "positions", "offsets", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 2), None, ValueError, r"values must be \(N, C\), got \(3,\)"),
        (torch.zeros(3, 1), torch.zeros(3), None, ValueError, r"positions must be \(N, D\), got \(3,\)"),
        (torch.zeros(3, 1), torch.zeros(3, 1), None, ValueError, "must have 2 to 8 dimensions, got 1"),
        (torch.zeros(3, 1), torch.zeros(3, 9), None, ValueError, "must have 2 to 8 dimensions, got 9"),
        (torch.zeros(4, 1), torch.zeros(3, 2), None, ValueError, r"a row for each position \(3\), got 4"),
        (torch.zeros(3, 1).double(), torch.zeros(3, 2), None, TypeError, "must have the dtype of the positions"),
        (torch.zeros(3, 1).long(), torch.zeros(3, 2), None, TypeError, "values must be float32 or float64"),
        (torch.zeros(3, 1), torch.zeros(3, 2).half(), None, TypeError, "positions must be float32 or float64"),
        (torch.zeros(3, 1), torch.tensor([[0, 0], [0, torch.nan], [0, 0]]), None, ValueError, "row 1 of positions"),
        (torch.zeros(3, 1), torch.tensor([[0, 0], [0, 0], [torch.inf, 0]]), None, ValueError, "row 2 of positions"),
        (torch.zeros(3, 1), torch.full((3, 2), -2e7), None, ValueError, "row 0 of positions .* beyond"),
        (torch.zeros(3, 1), torch.zeros(3, 2), torch.tensor([0, 2]), ValueError, "offsets must ascend from 0"),
        (torch.zeros(3, 1), torch.zeros(3, 2), torch.tensor([0, 3, 2, 3]), ValueError, "offsets must ascend"),
        (torch.zeros(3, 1), torch.zeros(3, 2), torch.tensor([0, 3]).int(), TypeError, "offsets must be int64"),
    ],
)
def test_errors(values, positions, offsets, error, message):
    with pytest.raises(error, match=message):
        gaussian_filter(values, positions, offsets=offsets)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("index", [10**6, -1])
def test_indices_outside_are_refused(place, index, threads):
    values, positions = make(n=20_000)
    tensors = list(PermutohedralLattice(positions).tensors)
    tensors[place] = torch.full_like(tensors[place], index)
    with pytest.raises(RuntimeError, match="indices lie outside"):
        torch.ops.pcseg.gaussian_filter(values, *tensors, False)
