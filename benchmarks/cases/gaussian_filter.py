"""gaussian_filter on an image against a mean-field step of pydensecrf2, and on few rows against the exact sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg.ops import PermutohedralLattice, gaussian_filter

OPS = ("gaussian_filter",)

CHANNELS = 21
BANDWIDTHS = ((80, 13), (100, 15))  # of place in pixels, and of colour
FEW = 10_000


def cases(clouds: Clouds) -> Iterator[Case]:
    image = clouds.image()
    generator = torch.Generator().manual_seed(0)
    unary = torch.rand(image.shape[0] * image.shape[1], CHANNELS, generator=generator).to(clouds.device)
    for place, color in BANDWIDTHS:
        positions = positions_of(image, place, color)
        yield from steps(image, unary, positions, place, color)
        yield forward_backward(unary, positions, f"image {place}, {color}")
    few = positions_of(image[:100, :100], 80, 13)
    yield exact_sum(unary[: len(few)], few, "image 100 x 100")
    yield exact_sum(unary[:FEW], clouds.room()[:FEW] / 0.5, "room 10k")


def positions_of(image: Tensor, place: float, color: float) -> Tensor:  # (N, 5)
    height, width = image.shape[:2]
    rows, columns = torch.arange(height, device=image.device), torch.arange(width, device=image.device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.cat([torch.stack([x, y], 2) / place, image / color], 2).reshape(-1, 5)


def steps(image: Tensor, unary: Tensor, positions: Tensor, place: float, color: float) -> Iterator[Case]:
    """Q <- softmax(-unary + filter(Q)): what one iteration of a fully connected CRF does."""
    lattice, probs = PermutohedralLattice(positions), torch.softmax(-unary, 1)

    def step(lattice: PermutohedralLattice) -> Tensor:
        out = lattice.filter(probs).sub_(unary)
        return torch.softmax(out, 1, out=out)

    new, reused = peers(image, unary, place, color)
    sizes = {"rows": len(unary), "input": f"image {place}, {color}", "bytes_moved": 3 * unary.nbytes + positions.nbytes}
    yield Case(
        op="gaussian_filter",
        variant="mean-field step, new lattice",
        ours=lambda: step(PermutohedralLattice(positions)),
        peers=new,
        check=lambda: check(unary, positions),
        **sizes,
    )
    yield Case(op="gaussian_filter", variant="mean-field step", ours=lambda: step(lattice), peers=reused, **sizes)
    yield Case(
        op="gaussian_filter",
        variant="new lattice, no step",
        ours=lambda: gaussian_filter(probs, positions),
        **sizes,
    )
    yield Case(op="gaussian_filter", variant="no step", ours=lambda: lattice.filter(probs), **sizes)


Callables = dict[str, Callable[[], object]]


def peers(image: Tensor, unary: Tensor, place: float, color: float) -> tuple[Callables, Callables]:
    """With a lattice made each time, and with one made before. It has one thread; its sums are unnormalised too."""
    densecrf = optional("pydensecrf.densecrf")
    if not densecrf or image.is_cuda:
        return {}, {}
    height, width = image.shape[:2]
    energy, pixels = np.ascontiguousarray(unary.numpy().T), image.numpy()

    def crf():
        made = densecrf.DenseCRF2D(width, height, CHANNELS)
        made.setUnaryEnergy(energy)
        return made, made.startInference()

    def connect(made) -> None:
        made.addPairwiseBilateral(
            sxy=place, srgb=color, rgbim=pixels, compat=1, normalization=densecrf.NO_NORMALIZATION
        )

    def whole() -> None:
        made, state = crf()
        connect(made)
        made.stepInference(*state)

    kept, state = crf()
    connect(kept)
    return {"pydensecrf2": whole}, {"pydensecrf2": lambda: kept.stepInference(*state)}


def forward_backward(unary: Tensor, positions: Tensor, name: str) -> Case:
    values, grad, lattice = unary.clone().requires_grad_(), torch.rand_like(unary), PermutohedralLattice(positions)
    return Case(
        op="gaussian_filter",
        variant="forward + backward",
        input=name,
        rows=len(unary),
        ours=lambda: torch.autograd.grad(lattice.filter(values), values, grad),
        bytes_moved=4 * unary.nbytes,
    )


def exact_sum(values: Tensor, positions: Tensor, name: str) -> Case:
    positions = positions.contiguous()
    return Case(
        op="gaussian_filter",
        variant="new lattice, no step",
        input=name,
        rows=len(values),
        ours=lambda: gaussian_filter(values, positions),
        peers={"exact sum, PyTorch in chunks": lambda: exact(values, positions, positions)},
        bytes_moved=2 * values.nbytes + positions.nbytes,
    )


def exact(values: Tensor, positions: Tensor, query: Tensor) -> Tensor:
    return torch.cat([torch.exp(-0.5 * torch.cdist(q, positions).square()) @ values for q in query.split(1024)])


def check(values: Tensor, positions: Tensor) -> None:
    """Weighted means against the exact ones, at some pixels."""
    some = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))[:500].to(values.device)
    values = torch.cat([torch.ones_like(values[:, :1]), values], 1)
    found, wanted = gaussian_filter(values, positions)[some], exact(values, positions, positions[some])
    count = found[:, 0] / wanted[:, 0]
    assert count.min() > 0.6 and count.max() < 1.1, "sums"
    error = (found[:, 1:] / found[:, :1] - wanted[:, 1:] / wanted[:, :1]).abs().mean()
    assert error < 0.01 * values[:, 1:].std(), "weighted means"
