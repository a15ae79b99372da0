"""Potts energy and its gradient over k-NN lists: the fused op against plain, chunked and compiled PyTorch.

And the descent of soft labels on it: one kernel against a step after the other, from the fused gradient and PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.case import Case
from benchmarks.clouds import Clouds
from pcseg.batch import IGNORE
from pcseg.ops import GridEdges, image_grid_edges, knn, nearest_others, potts_energy
from pcseg.ops.potts_energy import Relaxation
from pcseg.pseudo.soft_labels import Pairwise, potts_on_edges, solve_soft_labels

OPS = ("potts_energy", "potts_descent")

CLASSES, NEIGHBORS = 13, 16
STEPS = 20
CHUNK = 4096  # rows; the fastest of 1024, 4096 and 16384


def cases(clouds: Clouds) -> Iterator[Case]:
    inputs = {"ahn3": clouds.ahn3, "room": clouds.room, "lidar": clouds.lidar}
    for name, cloud in inputs.items():
        coords = cloud()
        neighbors = knn(coords, coords, NEIGHBORS)[0]
        relaxations: tuple[Relaxation, ...] = ("q", "cd", "lq") if name == "ahn3" else ("cd",)
        for relaxation in relaxations:
            yield one(name, neighbors, relaxation)
    edges = image_grid_edges(clouds.image(), 8)
    yield one("image, 8 neighbours", edges.neighbors, "cd", edges.edge_weight)
    nearest = nearest_others(clouds.ahn3_voxels(), 8)[0]
    for classes in (3, 13, 20):
        yield descent("ahn3, voxels", nearest, classes)


def one(name: str, neighbors: Tensor, relaxation: Relaxation, edge_weight: Tensor | None = None) -> Case:
    rows, width = neighbors.shape
    g = torch.Generator().manual_seed(0)
    weight = torch.rand(rows, width, generator=g).to(neighbors.device) if edge_weight is None else edge_weight
    log_probs = torch.log_softmax(2 * torch.randn(rows, CLASSES, generator=g), 1).to(neighbors.device)
    # torch.compile and gathering take any index that exists: a missing neighbour becomes the row itself, weight 0.
    missing = neighbors == rows
    listed = torch.where(missing, torch.arange(rows, device=neighbors.device).unsqueeze(1), neighbors)
    given = weight.masked_fill(missing, 0)

    def both(energy: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            leaf = log_probs.detach().requires_grad_()
            energy(leaf).sum().backward()
            assert leaf.grad is not None
            return leaf.grad

        return run

    def plain(leaf: Tensor) -> Tensor:
        return pairs(table(leaf, relaxation), listed, given, relaxation)

    def ours(leaf: Tensor) -> Tensor:
        return potts_energy(leaf, neighbors, weight, relaxation)

    peers: dict[str, Callable[[], object]] = {
        "PyTorch": both(plain),
        "PyTorch, chunked": lambda: chunked(log_probs, listed, given, relaxation),
        "PyTorch, compiled": both(torch.compile(plain, dynamic=False)),
    }

    def check() -> None:
        # As logits get them: "lq" is written for rows that sum to 1, so the part along the probabilities is free.
        probs = log_probs.exp()
        found, wanted = (grad - probs * grad.sum(1, keepdim=True) for grad in (both(ours)(), both(plain)()))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)

    return Case(
        op="potts_energy",
        variant=f"forward and backward, {relaxation}, K = {CLASSES}, k = {width}",
        input=name,
        rows=rows,
        ours=both(ours),
        peers=peers,
        bytes_moved=rows * (4 * CLASSES + 12 * width + 4 + 4 * CLASSES),
        # A product and sum per class forward, and for the similarity and both ends backward.
        flops=rows * width * CLASSES * 2 * 4,
        check=check,
    )


def descent(name: str, neighbors: Tensor, classes: int) -> Case:
    """Twenty steps, the graph's making included."""
    g = torch.Generator().manual_seed(0)
    rows = len(neighbors)
    log_probs = torch.log_softmax(torch.randn(rows, classes, generator=g), 1).to(neighbors.device)
    labels = torch.where(torch.arange(rows) % 1000 == 0, torch.arange(rows) % classes, IGNORE).to(neighbors.device)
    weight = torch.rand(neighbors.shape, generator=g).to(neighbors.device) / 2
    fused = potts_on_edges(GridEdges(neighbors, weight), "cd")

    def run(pairwise: Pairwise) -> Callable[[], Tensor]:
        return lambda: solve_soft_labels(log_probs, labels, pairwise, steps=STEPS, lr=0.02).log_targets

    ours, stepwise = run(fused), run(replace(fused, graph=None))

    def check() -> None:
        torch.testing.assert_close(ours().exp(), stepwise().exp(), rtol=0, atol=1e-4)

    return Case(
        op="potts_descent",
        variant=f"soft labels, {STEPS} steps, cd, K = {classes}, k = {neighbors.shape[1]}",
        input=name,
        rows=rows,
        ours=ours,
        peers={"step by step": stepwise},
        check=check,
    )


def table(log_probs: Tensor, relaxation: Relaxation) -> Tensor:
    probs = log_probs.clamp(min=-30).exp()
    return probs / probs.norm(dim=1, keepdim=True) if relaxation in ("nq", "cd") else probs


def pairs(rows: Tensor, neighbors: Tensor, weight: Tensor, relaxation: Relaxation) -> Tensor:
    """With the pairs gathered by ``embedding``, whose gradient is the fastest of PyTorch's gathers on a CPU."""
    return terms(rows.unsqueeze(1), torch.nn.functional.embedding(neighbors, rows), weight, relaxation)


def terms(one: Tensor, other: Tensor, weight: Tensor, relaxation: Relaxation) -> Tensor:
    if relaxation in ("q", "nq"):
        pair = (one - other).square().sum(-1) / 2
    elif relaxation == "lq":
        pair = -torch.log(1 - (one - other).square().sum(-1) / 2)
    else:
        product = torch.einsum("nac,nkc->nk", one, other)
        pair = 1 - product if relaxation == "bl" else -torch.log(product)
    return (pair * weight).sum(1)


def chunked(log_probs: Tensor, neighbors: Tensor, weight: Tensor, relaxation: Relaxation) -> Tensor:
    """Forward and backward chunk by chunk, so that only a chunk's pairs exist at a time; returns the gradient."""
    leaf = log_probs.detach().requires_grad_()
    rows = table(leaf, relaxation)
    fixed, grad = rows.detach(), torch.zeros_like(rows)
    energy = []
    for first in range(0, len(fixed), CHUNK):
        part = slice(first, first + CHUNK)
        listed = neighbors[part]
        own = fixed[part].unsqueeze(1).requires_grad_()
        other = fixed.index_select(0, listed.flatten()).view(*listed.shape, -1).requires_grad_()
        chunk = terms(own, other, weight[part], relaxation)
        grad_own, grad_other = torch.autograd.grad(chunk.sum(), (own, other))
        grad[part] += grad_own.squeeze(1)
        grad.index_add_(0, listed.flatten(), grad_other.flatten(0, 1))
        energy.append(chunk.detach())
    torch.cat(energy)
    rows.backward(grad)
    assert leaf.grad is not None
    return leaf.grad
