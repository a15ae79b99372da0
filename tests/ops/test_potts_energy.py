"""potts_energy against plain PyTorch, the pair losses, sums over pairs by hand, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from ops.potts_cases import CASES, as_csr, make, one_hot
from torch import Tensor

from pcseg.losses.potts import pairwise
from pcseg.ops import potts_energy, potts_energy_csr, reference
from pcseg.ops.potts_energy import RELAXATIONS


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN, so that a result that is not written shows."""
    torch.use_deterministic_algorithms(True)  # whose fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(False)


def gathered(log_probs: Tensor, neighbors: Tensor, weight: Tensor, relaxation) -> Tensor:
    """From the loss on pairs, with every pair of rows gathered."""
    present = neighbors < len(neighbors)
    other = neighbors.where(present, torch.arange(len(neighbors), device=neighbors.device)[:, None])
    pair = pairwise(log_probs[:, None], log_probs[other], relaxation)
    return (pair * weight).where(present, 0).sum(1)


def run(op, log_probs, neighbors, weight, relaxation, device=None, dtype=None) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, gradient to the logits behind log_probs, gradient to the weights."""
    leaves = [x.detach().to(device=device, dtype=dtype).clone().requires_grad_() for x in (log_probs, weight)]
    energy = op(leaves[0], neighbors.to(leaves[0].device), leaves[1], relaxation)
    upstream = torch.linspace(-1, 2, energy.numel(), dtype=energy.dtype, device=energy.device)
    (energy * upstream).sum().backward()
    grad, probs = leaves[0].grad, leaves[0].detach().exp()
    return energy.detach(), grad - probs * grad.sum(1, keepdim=True), leaves[1].grad


def check(inputs, relaxation, device=None) -> None:
    found = run(potts_energy, *inputs, relaxation, device=device)
    expected = run(gathered, *inputs, relaxation, dtype=torch.float64)
    tolerance = 1e-12 if inputs[0].dtype == torch.float64 else 3e-6
    scale = inputs[2].abs().sum(1).max().item() if inputs[2].numel() else 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=10 * tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("case", CASES)
def test_equals_pair_losses(case, relaxation, device):
    check(CASES[case](), relaxation, device)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_every_instruction_set(isa, relaxation):
    for case in ("usual", "many_slots", "many_classes", "many_classes_float64", "one_hot", "16_classes"):
        check(CASES[case](), relaxation)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_equals_reference(relaxation):
    inputs = make(dtype=torch.float64)
    found, expected = (run(op, *inputs, relaxation) for op in (potts_energy, reference.potts_energy))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_pairs_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [1, 0, 0]], dtype=torch.float64)
    neighbors = torch.tensor([[1, 3], [0, 1], [3, 3]])
    weight = torch.tensor([[2, 9], [0.5, 1], [9, 9]], dtype=torch.float64)
    values = {"bl": 0.73, "q": 0.19, "nq": 0.403960, "cce": 1.309333, "cd": 0.517448, "lq": 0.210721}
    itself = {"bl": 0.62, "cce": 0.967584}
    for relaxation in RELAXATIONS:
        energy = potts_energy(p.log(), neighbors, weight, relaxation)
        expected = [2 * values[relaxation], 0.5 * values[relaxation] + itself.get(relaxation, 0), 0]
        torch.testing.assert_close(energy, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-6)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_gradient_reaches_both_ends(relaxation):
    """Listing an edge from its other end, or half the weight from each, changes nothing."""
    log_probs = make(n=30, dtype=torch.float64)[0]
    g = torch.Generator().manual_seed(1)
    source, target = torch.randint(0, 30, (2, 100), generator=g)
    weight = torch.rand(100, generator=g, dtype=torch.float64)

    def total(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        order = source.argsort(stable=True)
        offsets = torch.searchsorted(source[order], torch.arange(31))
        leaf = log_probs.clone().requires_grad_()
        energy = potts_energy_csr(leaf, offsets, target[order], weight[order], relaxation).sum()
        energy.backward()
        return energy.detach(), leaf.grad

    expected = total(source, target, weight)
    both = torch.cat([source, target]), torch.cat([target, source]), torch.cat([weight, weight]) / 2
    for found in (total(target, source, weight), total(*both)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("case", ["usual", "float64", "many_slots", "no_slot", "no_row", "one_hot"])
def test_csr_equals_lists(case, relaxation, device):
    log_probs, neighbors, weight = (x.to(device) for x in CASES[case]())
    offsets, index, packed = (x.to(device) for x in as_csr(neighbors.cpu(), weight.cpu()))
    leaves = [x.clone().requires_grad_() for x in (log_probs, packed)]
    energy = potts_energy_csr(leaves[0], offsets, index, leaves[1], relaxation)
    energy.square().sum().backward()
    twins = [x.clone().requires_grad_() for x in (log_probs, weight)]
    expected = potts_energy(twins[0], neighbors, twins[1], relaxation)
    expected.square().sum().backward()
    torch.testing.assert_close(energy, expected)
    torch.testing.assert_close(leaves[0].grad, twins[0].grad, rtol=1e-4, atol=1e-4)
    present = neighbors < len(neighbors)
    torch.testing.assert_close(leaves[1].grad, twins[1].grad[present], rtol=1e-4, atol=1e-4)
    assert (twins[1].grad[~present] == 0).all()


def test_row_of_many_edges():
    log_probs = make(n=50, dtype=torch.float64)[0]
    index = torch.arange(10_000) % 50
    offsets = torch.tensor([0] * 20 + [10_000] * 31)
    weight = torch.ones(10_000, dtype=torch.float64)
    energy = potts_energy_csr(log_probs, offsets, index, weight, "cd")
    torch.testing.assert_close(energy[19], 200 * pairwise(log_probs[19], log_probs, "cd").sum())
    assert (energy[:19] == 0).all() and (energy[20:] == 0).all()


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_gradcheck(relaxation):
    log_probs, neighbors, weight = make(n=8, k=5, classes=4, dtype=torch.float64, scale=1)
    leaves = log_probs.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: potts_energy(x, neighbors, w, relaxation), leaves)
    offsets, index, weight = as_csr(neighbors, weight.detach())
    leaves = log_probs, weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: potts_energy_csr(x, offsets, index, w, relaxation), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_one_hot_ends_cost_a_large_finite_energy(relaxation, dtype):
    hard = torch.where(torch.eye(3) == 1, 0.0, -torch.inf).to(dtype).requires_grad_()
    neighbors = torch.tensor([[1, 0], [2, 1], [0, 3]])
    energy = potts_energy(hard, neighbors, torch.ones(3, 2, dtype=dtype), relaxation)
    expected = {"cce": 30 - math.log(2), "cd": 30 - math.log(2), "lq": 30 - math.log(6)}.get(relaxation, 1)
    torch.testing.assert_close(energy, torch.full((3,), expected, dtype=dtype), rtol=1e-6, atol=0)
    energy.sum().backward()
    assert hard.grad.isfinite().all()
    assert (hard.grad[torch.eye(3) == 0] == 0).all()  # below the floor
    alone = potts_energy(hard, torch.arange(3)[:, None], torch.ones(3, 1, dtype=dtype), relaxation)
    assert alone.abs().max() < 1e-6


def test_confident_logits_get_the_gradient_of_float64():
    """Where 1 - Q and the cosine are 1e-12, float32 is as good as elsewhere."""
    for relaxation in RELAXATIONS:
        for logit in (8.0, 20.0, 27.0):
            logits = torch.tensor([[logit, 0, 0.5], [0.2, logit, 0]], dtype=torch.float64)
            found = []
            for dtype in (torch.float32, torch.float64):
                leaf = logits.to(dtype).requires_grad_()
                weight = torch.ones(2, 1, dtype=dtype)
                energy = potts_energy(torch.log_softmax(leaf, 1), torch.tensor([[1], [2]]), weight, relaxation)
                energy.sum().backward()
                found.append((energy.detach().double(), leaf.grad.double()))
            torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("relaxation", ["q", "cd", "lq"])
def test_threads_do_not_change_bits(relaxation):
    for dtype, classes in ((torch.float32, 13), (torch.float64, 20)):
        inputs = make(n=5003, k=19, classes=classes, dtype=dtype)
        found, threads = [], torch.get_num_threads()
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found.append(run(potts_energy, *inputs, relaxation))
        torch.set_num_threads(threads)
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_permuted_rows_give_permuted_results():
    log_probs, neighbors, weight = make(dtype=torch.float64)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    renamed = torch.cat([order.argsort(), torch.tensor([60])])[neighbors[order]]
    found = run(potts_energy, log_probs[order], renamed, weight[order], "lq")
    expected = run(lambda *a: potts_energy(*a), log_probs, neighbors, weight, "lq")
    torch.testing.assert_close(found[0], expected[0][order])


def test_batched_equals_looped():
    parts = [make(n=n, dtype=torch.float64, seed=n) for n in (5, 0, 31, 12)]
    lists, before, total = [], 0, sum(len(part[0]) for part in parts)
    for _, neighbors, _ in parts:
        lists.append((neighbors + before).masked_fill(neighbors == len(neighbors), total))
        before += len(neighbors)
    batch = torch.cat([p[0] for p in parts]), torch.cat(lists), torch.cat([p[2] for p in parts])
    leaf = batch[0].clone().requires_grad_()
    energy = potts_energy(leaf, *batch[1:], "cd")
    energy.sum().backward()
    assert torch.equal(energy.detach(), torch.cat([potts_energy(*part, "cd") for part in parts]))
    grads = []
    for log_probs, neighbors, weight in parts:
        one = log_probs.clone().requires_grad_()
        potts_energy(one, neighbors, weight, "cd").sum().backward()
        grads.append(one.grad)
    torch.testing.assert_close(leaf.grad, torch.cat(grads), rtol=0, atol=0)


def test_only_what_is_asked_for():
    log_probs, neighbors, weight = make()
    both = run(potts_energy, log_probs, neighbors, weight, "cce")
    upstream = torch.linspace(-1, 2, 60)
    only = log_probs.clone().requires_grad_()
    (potts_energy(only, neighbors, weight, "cce") * upstream).sum().backward()
    torch.testing.assert_close(only.grad - only.detach().exp() * only.grad.sum(1, keepdim=True), both[1])
    only = weight.clone().requires_grad_()
    (potts_energy(log_probs, neighbors, only, "cce") * upstream).sum().backward()
    assert torch.equal(only.grad, both[2])


def test_empty_slots_ignore_their_weight():
    log_probs, neighbors, weight = make()
    weight[neighbors == 60] = torch.nan
    assert potts_energy(log_probs, neighbors, weight, "cce").isfinite().all()
    _, grad, grad_weight = run(potts_energy, log_probs, neighbors, weight, "cce")
    assert grad.isfinite().all() and (grad_weight[neighbors == 60] == 0).all()
    log_probs[0] = torch.nan  # a row without neighbours
    assert potts_energy(log_probs, neighbors, weight, "cce")[0] == 0


@pytest.mark.parametrize("case", ["usual", "float64", "no_row", "no_slot"])
@pytest.mark.parametrize("relaxation", ["q", "lq"])
def test_opcheck(case, relaxation):
    log_probs, neighbors, weight = CASES[case]()
    code = RELAXATIONS.index(relaxation)
    leaves = log_probs.clone().requires_grad_(), weight.clone().requires_grad_()
    torch.library.opcheck(torch.ops.pcseg.potts_energy, (leaves[0], neighbors, leaves[1], None, code))
    offsets, index, packed = as_csr(neighbors, weight)
    torch.library.opcheck(torch.ops.pcseg.potts_energy, (leaves[0], index, packed.requires_grad_(), offsets, code))


def test_compiles_without_graph_break():
    inputs = make()
    compiled = torch.compile(potts_energy, backend="aot_eager", fullgraph=True)
    for a, b in zip(run(compiled, *inputs, "cd"), run(potts_energy, *inputs, "cd"), strict=True):
        assert torch.equal(a, b)


def test_autocast_computes_in_float32():
    log_probs, neighbors, weight = one_hot()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = potts_energy(log_probs.bfloat16(), neighbors, weight, "cd")
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy, potts_energy(log_probs.bfloat16().float(), neighbors, weight, "cd"))


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


LONG = torch.int64


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((zeros(3), zeros(3, 1, dtype=LONG), zeros(3, 1)), ValueError, r"log_probs must be \(N, K\)"),
        ((zeros(3, 0), zeros(3, 1, dtype=LONG), zeros(3, 1)), ValueError, r"K >= 1, got \(3, 0\)"),
        ((zeros(3, 2), zeros(4, 1, dtype=LONG), zeros(4, 1)), ValueError, r"neighbors must be \(N = 3, k\), got \(4,"),
        ((zeros(3, 2), zeros(3, dtype=LONG), zeros(3)), ValueError, r"neighbors must be \(N = 3, k\), got \(3,\)"),
        ((zeros(3, 2), zeros(3, 1, dtype=LONG), zeros(3, 2)), ValueError, r"shape of neighbors, \(3, 1\), got \(3, 2"),
        ((zeros(3, 2), zeros(3, 1, dtype=torch.int32), zeros(3, 1)), TypeError, "neighbors must be int64"),
        ((zeros(3, 2), zeros(3, 1, dtype=LONG), zeros(3, 1).double()), TypeError, "float32 and torch.float64"),
        ((zeros(3, 2).half(), zeros(3, 1, dtype=LONG), zeros(3, 1).half()), TypeError, "use autocast"),
        ((zeros(3, 2), zeros(3, 1, dtype=LONG) + 4, zeros(3, 1)), RuntimeError, r"must lie in \[0, N\]"),
        ((zeros(3, 2), zeros(3, 1, dtype=LONG) - 1, zeros(3, 1)), RuntimeError, r"must lie in \[0, N\]"),
    ],
)
def test_errors(inputs, error, message):
    with pytest.raises(error, match=message):
        potts_energy(*inputs, "cd")


@pytest.mark.parametrize(
    ("offsets", "index", "error", "message"),
    [
        ([0, 1], [0], ValueError, r"edge_offsets must be \(N \+ 1 = 3,\), got \(2,\)"),
        ([0, 2, 1], [0], RuntimeError, "edge_offsets must ascend from 0"),
        ([0, 1, 2], [0], RuntimeError, "edge_offsets must ascend from 0"),
        ([1, 1, 1], [0], RuntimeError, "edge_offsets must ascend from 0"),
        ([0, 1, 1], [[0]], ValueError, r"edge_index must be \(E,\), got \(1, 1\)"),
        ([0, 1, 1], [3], RuntimeError, r"must lie in \[0, N\]"),
    ],
)
def test_errors_csr(offsets, index, error, message):
    index = torch.tensor(index)
    with pytest.raises(error, match=message):
        potts_energy_csr(zeros(2, 2), torch.tensor(offsets), index, torch.zeros(index.shape), "cd")


def test_unknown_relaxation():
    with pytest.raises(ValueError, match="potts_energy: relaxation must be one of bl, q, nq, cce, cd, lq, got 'potts'"):
        potts_energy(*make(), "potts")
