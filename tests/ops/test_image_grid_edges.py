"""image_grid_edges against the general searches on pixel coordinates, a loop over pixels, and known weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pcseg.ops import image_grid_edges, knn, potts_energy, radius_search


def random_image(height: int, width: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(height * width)
    return 30 * torch.rand(height, width, channels, generator=g, dtype=dtype)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("size", [(7, 9), (2, 2), (1, 5), (6, 1), (1, 1)])
def test_lists_equal_general_searches(size, connectivity, device):
    height, width = size
    rows = height * width
    found = image_grid_edges(random_image(*size).to(device), connectivity).neighbors
    pixels = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(-1, 2).float().to(device)
    near = radius_search(pixels, pixels, 1.1 if connectivity == 4 else 1.5, 9)
    nearest = knn(pixels, pixels, 9)[0]
    own = torch.arange(rows, device=near.device)[:, None]
    expected = near.masked_fill(near == own, rows)
    assert torch.equal(found.sort(1).values, expected.sort(1).values[:, :connectivity])
    for row, listed, closest in zip(range(rows), found.tolist(), nearest.tolist()):  # and in the order of knn
        kept = [j for j in listed if j < rows]
        assert kept == [j for j in closest if j in kept and j != row]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("sigma", [9.0, "adaptive"])
def test_weights_equal_loop(sigma, connectivity):
    image = random_image(5, 6, dtype=torch.float64)
    edges = image_grid_edges(image, connectivity, sigma)
    steps = [(0, 1), (1, 0)] + ([(1, 1), (1, -1)] if connectivity == 8 else [])
    pairs = {}
    for y, x, (dy, dx) in itertools.product(range(5), range(6), steps):
        if y + dy < 5 and 0 <= x + dx < 6:
            contrast = (image[y, x] - image[y + dy, x + dx]).square().sum().item()
            pairs[y * 6 + x, (y + dy) * 6 + x + dx] = contrast, math.hypot(dy, dx)
    variance = sum(c for c, _ in pairs.values()) / len(pairs) if sigma == "adaptive" else sigma**2
    found = {
        (i, j): weight
        for i, (listed, weights) in enumerate(zip(edges.neighbors.tolist(), edges.edge_weight.tolist()))
        for j, weight in zip(listed, weights)
        if j < 30
    }
    assert len(found) == 2 * len(pairs)
    for (i, j), (contrast, distance) in pairs.items():
        expected = math.exp(-contrast / (2 * variance)) / distance / 2
        assert found[i, j] == found[j, i] == pytest.approx(expected, rel=1e-12)
    assert (edges.edge_weight[edges.neighbors == 30] == 0).all()


def test_known_weights():
    image = torch.tensor([0, 3, 12, 30, 60]).view(1, 5, 1)  # differences 3, 9, 18, 30
    weight = 2 * image_grid_edges(image.to(torch.uint8), 4, 9.0).edge_weight[:4, 2]
    torch.testing.assert_close(weight, torch.tensor([0.945959, 0.606531, 0.135335, 0.003866]), rtol=0, atol=1e-6)


def test_image_without_contrast():
    for sigma in (9.0, "adaptive"):
        edges = image_grid_edges(torch.full((3, 3, 3), 7.0), 8, sigma)
        expected = [0.5] * 4 + [0.5 / math.sqrt(2)] * 4
        torch.testing.assert_close(edges.edge_weight[4], torch.tensor(expected))


def test_empty_image():
    for height, width in ((0, 4), (4, 0)):
        edges = image_grid_edges(torch.zeros(height, width, 3), 8, "adaptive")
        assert edges.neighbors.shape == edges.edge_weight.shape == (0, 8)


def test_energy_counts_each_pair_once():
    image = torch.zeros(2, 2, 1)
    hard = torch.where(
        torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]) == 1, 0.0, -torch.inf
    )  # two cuts down, two across
    assert potts_energy(hard, *image_grid_edges(image, 4), "bl").sum().item() == pytest.approx(2)
    across = 2 + 2 / math.sqrt(2)
    assert potts_energy(hard, *image_grid_edges(image, 8), "bl").sum().item() == pytest.approx(across)


def test_gradient_to_the_image():
    image = random_image(3, 4, 2, torch.float64).requires_grad_()
    for sigma in (20.0, "adaptive"):
        assert torch.autograd.gradcheck(lambda x, s=sigma: image_grid_edges(x, 8, s).edge_weight, (image,))


def test_transposed_image_and_compile():
    image = random_image(8, 5)
    expected = image_grid_edges(image.contiguous(), 8)
    found = image_grid_edges(image.transpose(0, 1).contiguous().transpose(0, 1), 8)
    compiled = torch.compile(image_grid_edges, backend="aot_eager", fullgraph=True)(image, 8)
    for a, b, c in zip(expected, found, compiled, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 3),), r"image must be \(H, W, C\), got \(3, 3\)"),
        ((torch.zeros(3, 3, 1), 6), "connectivity must be 4 or 8, got 6"),
        ((torch.zeros(3, 3, 1), 8, 0.0), "sigma must be positive"),
        ((torch.zeros(3, 3, 1), 8, "auto"), "sigma must be positive or"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_grid_edges(*arguments)
