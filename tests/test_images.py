"""Images and volumes as packed clouds: round trips, neighbour lists, and labels that survive a change of size."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pcseg import images, ops
from pcseg.batch import IGNORE, cat
from pcseg.ops import GridEdges


def random_image(height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return 40 * torch.rand(height, width, channels, generator=torch.Generator().manual_seed(seed))


def random_batch(sizes=((5, 7), (3, 4), (1, 6))):
    clouds = []
    for seed, (height, width) in enumerate(sizes):
        labels = torch.randint(-1, 4, (height, width), generator=torch.Generator().manual_seed(seed))
        clouds.append(images.image_batch(random_image(height, width, seed=seed), labels, labels.abs()))
    return cat(clouds)


def test_an_image_goes_into_rows_and_back():
    image = torch.arange(24, dtype=torch.uint8).view(2, 4, 3)
    labels = torch.tensor([[0, 1, -1, 2], [3, 3, 0, 0]], dtype=torch.int16)
    batch = images.image_batch(image, labels)
    assert batch.coords.tolist() == [[x, y] for y in range(2) for x in range(4)]
    assert batch.coords.dtype == batch.feats.dtype == torch.float32 and batch.labels is not None
    assert batch.image_sizes.tolist() == [[2, 4]] and batch.rows.tolist() == list(range(8))
    assert torch.equal(images.to_planes(batch.feats, batch.image_sizes)[0], image.float())
    assert torch.equal(images.to_planes(batch.labels, batch.image_sizes)[0], labels.long())


def test_images_of_several_sizes_share_a_batch_without_padding():
    batch = random_batch()
    assert batch.num_rows == 35 + 12 + 6 and batch.image_sizes.tolist() == [[5, 7], [3, 4], [1, 6]]
    planes = images.to_planes(batch.feats, batch.image_sizes)
    for seed, plane in enumerate(planes):
        assert torch.equal(plane, random_image(*plane.shape[:2], seed=seed))
    with pytest.raises(ValueError, match="53 rows in all, got 52"):
        images.to_planes(batch.feats[1:], batch.image_sizes)


def test_a_volume_goes_into_rows_and_back():
    volume = torch.rand(2, 3, 4)
    batch = images.volume_batch(volume, (0.5, 1.0, 3.0), labels=(volume > 0.5).int())
    z, y, x = 1, 2, 3
    row = (z * 3 + y) * 4 + x
    assert batch.coords[row].tolist() == [1.5, 2.0, 3.0] and batch.feats[row, 0] == volume[z, y, x]
    assert torch.equal(images.to_volumes(batch.feats, [(2, 3, 4)])[0][..., 0], volume)
    two = cat([batch, images.volume_batch(torch.rand(1, 2, 2), (1, 1, 1), torch.zeros(1, 2, 2))])
    assert [tuple(v.shape) for v in images.to_volumes(two.labels, [(2, 3, 4), (1, 2, 2)])] == [(2, 3, 4), (1, 2, 2)]
    assert images.volume_batch(torch.rand(2, 2, 2, 5), (1, 1, 1)).feats.shape == (8, 5)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("sigma", [9.0, "adaptive"])
def test_lists_of_a_batch_are_those_of_each_image(connectivity, sigma):
    batch = random_batch()
    edges = images.image_edges(batch.feats, batch.image_sizes, connectivity, sigma)
    start = 0
    for image in images.to_planes(batch.feats, batch.image_sizes):
        alone, count = ops.image_grid_edges(image, connectivity, sigma), image.shape[0] * image.shape[1]
        there = alone.neighbors < count
        part = edges.neighbors[start : start + count]
        assert torch.equal(part[there], alone.neighbors[there] + start)
        assert (part[~there] == batch.num_rows).all()
        assert torch.equal(edges.edge_weight[start : start + count], alone.edge_weight)
        start += count
    assert edges.neighbors.shape == (batch.num_rows, connectivity)


def test_image_lists_equal_a_search_and_take_empty_batches_and_gradients():
    batch = random_batch()
    found = images.image_edges(batch.feats, batch.image_sizes, 8).neighbors
    near = ops.radius_search(
        batch.coords, batch.coords, 1.5, 9, query_offsets=batch.offsets, support_offsets=batch.offsets
    )
    near = near.masked_fill(near == torch.arange(batch.num_rows)[:, None], batch.num_rows)
    assert torch.equal(found.sort(1).values, near.sort(1).values[:, :8])
    nothing = images.image_edges(torch.zeros(0, 3), torch.zeros(0, 2, dtype=torch.int64), 4)
    assert nothing.neighbors.shape == nothing.edge_weight.shape == (0, 4)
    colors = batch.feats.clone().requires_grad_()
    images.image_edges(colors, batch.image_sizes).edge_weight.sum().backward()
    assert colors.grad is not None and colors.grad.abs().sum() > 0


def brute_force_volume(volume, spacing, connectivity, sigma):
    """{(i, j): weight} of all ordered pairs."""
    depth, height, width = volume.shape[:3]
    cells = [(z, y, x) for z in range(depth) for y in range(height) for x in range(width)]
    contrasts, pairs = {}, {}
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            step = [abs(p - q) for p, q in zip(a, b)]
            if max(step) == 1 and sum(step) <= {6: 1, 18: 2, 26: 3}[connectivity]:
                lengths = [s * u / min(spacing) for s, u in zip(step, reversed(spacing))]
                contrasts[i, j] = (volume[a] - volume[b]).square().sum().item()
                pairs[i, j] = math.hypot(*lengths)
    variance = sum(contrasts.values()) / len(contrasts) if sigma == "adaptive" else sigma**2
    return {pair: math.exp(-contrasts[pair] / (2 * variance)) / 2 / length for pair, length in pairs.items()}


def listed(edges: GridEdges, total: int) -> dict[tuple[int, int], float]:
    return {
        (i, j): weight
        for i, (row, weights) in enumerate(zip(edges.neighbors.tolist(), edges.edge_weight.tolist()))
        for j, weight in zip(row, weights)
        if j < total
    }


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("sigma", [15.0, "adaptive"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 5), (3, 1, 1)])
def test_volume_lists_equal_a_loop(connectivity, sigma, shape):
    volume = random_image(shape[0], shape[1] * shape[2], 2).view(*shape, 2).double()
    spacing = (0.5, 0.75, 2.0)
    edges = images.volume_edges(volume.view(-1, 2), [shape], [spacing], connectivity, sigma)
    found, expected = listed(edges, math.prod(shape)), brute_force_volume(volume, spacing, connectivity, sigma)
    assert found.keys() == expected.keys()
    for pair, weight in expected.items():
        assert found[pair] == found[pair[::-1]] == pytest.approx(weight, rel=1e-9)
    assert (edges.edge_weight[edges.neighbors == math.prod(shape)] == 0).all()


@pytest.mark.parametrize(("connectivity", "radius"), [(6, 1.1), (18, 1.5), (26, 1.8)])
def test_volume_lists_stand_in_the_order_of_knn(connectivity, radius):
    shapes = [(3, 4, 3), (2, 2, 2)]
    batch = cat([images.volume_batch(torch.rand(*shape), (1, 1, 1)) for shape in shapes])
    found = images.volume_edges(batch.feats, shapes, [(1, 1, 1)] * 2, connectivity).neighbors
    near = ops.radius_search(
        batch.coords, batch.coords, radius, 27, query_offsets=batch.offsets, support_offsets=batch.offsets
    )
    for row, (ours, theirs) in enumerate(zip(found.tolist(), near.tolist())):
        assert [j for j in ours if j < 44] == [j for j in theirs if j not in (row, 44)]


def test_nearest_in_place_and_colour():
    batch = random_batch()
    scale = 0.2
    edges = images.color_edges(batch.coords, batch.feats, 7, color_scale=scale, offsets=batch.offsets)
    joined = torch.cat([batch.coords, batch.feats * scale], 1)
    distance = torch.cdist(joined.double(), joined.double())
    distance[batch.cloud_index[:, None] != batch.cloud_index] = torch.inf
    distance.fill_diagonal_(torch.inf)
    near = distance.sort(1)
    expected = near.indices[:, :7].masked_fill(near.values[:, :7].isinf(), batch.num_rows)
    assert torch.equal(edges.neighbors, expected)
    assert (edges.neighbors[-6:, 5:] == batch.num_rows).all()  # the last image has 6 pixels
    i, j = 3, int(edges.neighbors[3, 2])
    contrast = (batch.feats[i] - batch.feats[j]).square().sum() * scale**2
    assert edges.edge_weight[3, 2] == pytest.approx(float(torch.exp(-contrast / 2) / 2), rel=1e-5)
    assert (edges.edge_weight[edges.neighbors == batch.num_rows] == 0).all()


def test_no_row_is_its_own_neighbour_even_among_equals():
    coords, colors = torch.zeros(9, 2), torch.ones(9, 3)
    edges = images.color_edges(coords, colors, 3, color_scale=1.0)
    assert (edges.neighbors != torch.arange(9)[:, None]).all() and (edges.neighbors < 9).all()
    assert all(len(set(row)) == 3 for row in edges.neighbors.tolist())


def test_potts_counts_each_pair_once():
    image = torch.zeros(2, 2, 1)
    edges = images.image_edges(image.view(-1, 1), torch.tensor([[2, 2]]), 4)
    probs = torch.eye(2)[[0, 1, 0, 1]]  # two pairs of four differ
    assert float(ops.potts_energy(probs.log(), *edges, "bl").sum()) == pytest.approx(2, abs=1e-5)


def test_a_crop_is_the_image_of_the_window():
    image, labels = random_image(6, 8), torch.arange(48).view(6, 8) % 5
    window = images.crop(images.image_batch(image, labels), (2, 3), (3, 4))
    alone = images.image_batch(image[2:5, 3:7], labels[2:5, 3:7])
    for name in ("coords", "feats", "labels", "offsets", "image_sizes"):
        assert torch.equal(getattr(window, name), getattr(alone, name)), name
    assert torch.equal(window.rows.view(3, 4), torch.arange(48).view(6, 8)[2:5, 3:7])
    twice = images.crop(window, (1, 0), (2, 2))
    assert torch.equal(twice.rows.view(2, 2), torch.arange(48).view(6, 8)[3:5, 3:5])
    for start, size in (((4, 0), (3, 1)), ((-1, 0), (2, 2))):
        with pytest.raises(ValueError, match="does not lie inside"):
            images.crop(images.image_batch(image), start, size)
    with pytest.raises(ValueError, match="one image is needed"):
        images.crop(random_batch(), (0, 0), (1, 1))
    volume = torch.arange(60).view(3, 4, 5)
    rows = images.box_rows((3, 4, 5), (1, 0, 2), (2, 3, 2))
    assert torch.equal(rows.view(2, 3, 2), volume[1:3, 0:3, 2:4])


# A change of size


label_images = arrays.arrays(
    np.int64, arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9), elements=st.integers(-1, 3)
)


@settings(deadline=None, max_examples=60)
@given(label_images, st.data())
def test_no_label_is_lost_and_none_is_made_up(values, data):
    size = [data.draw(st.integers(1, 12)) for _ in values.shape]
    cells = images.resize_labels(torch.from_numpy(values), size).numpy()
    assert cells.shape == tuple(size)
    votes: dict[tuple[int, ...], list[int]] = {}
    shrinks = all(after <= before for before, after in zip(values.shape, size))
    for place in np.ndindex(values.shape):
        cell = tuple(
            math.floor((p + 0.5) * after / before) for p, before, after in zip(place, values.shape, size, strict=True)
        )
        votes.setdefault(cell, []).append(int(values[place]))
    for cell, all_votes in votes.items():
        labelled = [v for v in all_votes if v != IGNORE]
        counts = {v: labelled.count(v) for v in labelled}
        if shrinks:  # the majority, ties to the lower class
            expected = min(counts, key=lambda v: (-counts[v], v)) if counts else IGNORE
            assert cells[cell] == expected
            if len(labelled) == 1:
                assert cells[cell] == labelled[0]
        elif all(after >= before for before, after in zip(values.shape, size)):
            assert cells[cell] == all_votes[0]
    if not shrinks:
        assert set(np.unique(cells)) <= set(np.unique(values))


def test_a_single_click_survives():
    labels = torch.full((101, 77), IGNORE)
    labels[60, 33] = 2
    small = images.resize_labels(labels, (5, 4))
    assert (small != IGNORE).sum() == 1 and small[60 * 5 // 101, 33 * 4 // 77] == 2


def test_features_are_area_means_and_linear_between():
    image = torch.rand(8, 12, 3)
    pooled = F.avg_pool2d(image.movedim(-1, 0), (2, 3)).movedim(0, -1)
    assert torch.allclose(images.resize_features(image, (4, 4)), pooled, atol=1e-6)
    cut = images.resize_features(torch.tensor([[[1.0], [2.0], [4.0]]]), (1, 2))
    assert cut.view(-1).tolist() == pytest.approx([(1 + 0.5 * 2) / 1.5, (0.5 * 2 + 4) / 1.5])
    large = F.interpolate(image.movedim(-1, 0)[None], (17, 12), mode="bilinear")[0].movedim(0, -1)
    assert torch.allclose(images.resize_features(image, (17, 12)), large, atol=1e-5)
    mixed = images.resize_features(image, (16, 5))
    assert mixed.shape == (16, 5, 3) and torch.allclose(mixed.mean((0, 1)), image.mean((0, 1)), atol=0.05)
    small = torch.rand(5, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: images.resize_features(x, (3, 7)), small)
    volume = torch.rand(4, 6, 2, 1)
    means = F.avg_pool3d(volume.movedim(-1, 0), (2, 2, 1)).movedim(0, -1)
    assert torch.allclose(images.resize_features(volume, (2, 3, 2)), means, atol=1e-6)


def test_a_batch_changes_size_image_by_image():
    batch = random_batch()
    sizes = [(2, 3), (3, 4), (4, 6)]
    small = images.resize(batch, sizes)
    assert small.image_sizes.tolist() == [list(size) for size in sizes] and small.rows is None
    assert small.lengths.tolist() == [6, 12, 24] and small.labels is not None and small.instances is not None
    before, after = (images.to_planes(b.labels, b.image_sizes) for b in (batch, small))
    assert torch.equal(after[0], images.resize_labels(before[0], (2, 3))) and torch.equal(after[1], before[1])
    assert (small.coords >= 0).all() and small.coords[5].tolist() == [2.0, 1.0]
    assert images.resize(batch, [(5, 7), (3, 4), (1, 6)]) is batch


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: images.image_batch(torch.zeros(3, 3)), r"image must be \(H, W, C\)"),
        (lambda: images.image_batch(torch.zeros(3, 3, 1), torch.zeros(3, 2)), r"labels must be \(3, 3\)"),
        (lambda: images.volume_batch(torch.zeros(3, 3), (1, 1, 1)), r"volume must be \(D, H, W\)"),
        (lambda: images.volume_batch(torch.zeros(3, 3, 3), (1, 0, 1)), "three positive lengths"),
        (lambda: images.volume_edges(torch.zeros(8, 1), [(2, 2, 2)], [(1, 1, 1)], 8), "6, 18 or 26"),  # pyright: ignore
        (lambda: images.volume_edges(torch.zeros(8, 1), [(2, 2, 2)], []), "as many spacings"),
        (lambda: images.volume_edges(torch.zeros(8, 1), [(2, 2, 2)], [(1, 1, 1)], 6, -1), "sigma"),
        (lambda: images.color_edges(torch.zeros(2, 2), torch.zeros(2, 1), 1, color_scale=0), "color_scale"),
        (lambda: images.resize_labels(torch.zeros(2, 2).long(), (0, 1)), "positive numbers"),
        (lambda: images.resize_features(torch.zeros(2, 2, 1).long(), (1, 1)), "floating point"),
        (lambda: images.resize_features(torch.zeros(0, 2, 1), (1, 1)), "has no pixels"),
        (lambda: images.resize(random_batch(), [(1, 1)]), "3 clouds and 1 sizes"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
