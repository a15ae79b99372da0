"""Subsampling and the pyramid against brute force."""

import itertools

import numpy as np
import pytest
import torch

from pcseg.batch import IGNORE, PointBatch, cat, offsets_of, split
from pcseg.pyramid import build_knn_pyramid, build_pyramid, calibrate_max_neighbors, subsample

VOXEL = 0.25


def cloud(n, dim=3, seed=0, **fields):
    g = torch.Generator().manual_seed(seed)
    coords = torch.rand(n, dim, generator=g) * 3 - 1
    return PointBatch(coords=coords, feats=torch.randn(n, 2, generator=g), offsets=torch.tensor([0, n]), **fields)


def clouds(dim=3):
    """Three clouds and an empty one."""
    return cat([subsample(cloud(n, dim, seed=n), VOXEL)[0] for n in (150, 0, 1, 60)])


def pyramid(batch, **changes):
    settings = {"voxel_size": VOXEL, "num_levels": 3, "radius": 2.5, "max_neighbors": None} | changes
    return build_pyramid(batch.coords, batch.offsets, **settings)


def same_cloud(query_offsets, support_offsets):
    counts = [torch.repeat_interleave(torch.arange(len(o) - 1), o.diff()) for o in (query_offsets, support_offsets)]
    return counts[0][:, None] == counts[1]


@pytest.mark.parametrize("dim", [2, 3])
def test_lists_are_what_brute_force_finds(dim):
    levels = pyramid(clouds(dim))
    for index, level in enumerate(levels):
        support, reach = level.coords, 2.5 * VOXEL * 2**index
        pairs = [(level, level.neighbors)]
        if level.pool is not None:
            pairs.append((levels[index + 1], level.pool))
        for query, found in pairs:
            distance = torch.cdist(query.coords.double(), support.double(), compute_mode="donot_use_mm_for_euclid_dist")
            distance[~same_cloud(query.offsets, level.offsets)] = torch.inf
            for row, wanted in zip(found.tolist(), distance):
                kept = [j for j in row if j < len(support)]
                assert set(kept) == set(torch.nonzero(wanted <= reach)[:, 0].tolist())
                assert (wanted[kept].diff() > -1e-6).all()  # nearest first, to the resolution of float32
                assert row[len(kept) :] == [len(support)] * (len(row) - len(kept))


@pytest.mark.parametrize("dim", [2, 3])
def test_upsample_is_the_nearest_of_the_same_cloud(dim):
    levels = pyramid(clouds(dim))
    for fine, coarse in itertools.pairwise(levels):
        distance = torch.cdist(fine.coords.double(), coarse.coords.double())
        distance[~same_cloud(fine.offsets, coarse.offsets)] = torch.inf
        chosen = distance.gather(1, fine.upsample[:, None])[:, 0]
        torch.testing.assert_close(chosen, distance.min(1).values)
    assert levels[-1].upsample is None and levels[-1].pool is None


def test_coarse_points_are_barycentres_of_voxels_twice_as_large():
    batch = subsample(cloud(300), VOXEL)[0]
    fine, coarse = pyramid(batch, num_levels=2)
    cells = np.floor(fine.coords.numpy() / (2 * VOXEL)).astype(int)
    wanted = {tuple(c): fine.coords[(cells == c).all(1)].mean(0) for c in np.unique(cells, axis=0)}
    assert len(coarse.coords) == len(wanted)
    for point in coarse.coords:
        torch.testing.assert_close(point, wanted[tuple(np.floor(point.numpy() / (2 * VOXEL)).astype(int))])


def test_batched_equals_looped():
    batch = clouds()
    together = pyramid(batch)
    for index, part in enumerate(split(batch)):
        for whole, own in zip(together, pyramid(part)):
            start, end = whole.offsets[index : index + 2].tolist()
            assert torch.equal(whole.coords[start:end], own.coords)
            lists = whole.neighbors[start:end]
            mine = torch.where(lists < len(whole.coords), lists - start, len(own.coords))
            width = own.neighbors.shape[1]
            assert torch.equal(mine[:, :width], own.neighbors)
            assert (mine[:, width:] == len(own.coords)).all()


def test_caps_keep_the_nearest():
    batch = clouds()
    for full, capped in zip(pyramid(batch), pyramid(batch, max_neighbors=(4, 6, 5))):
        width = capped.neighbors.shape[1]
        assert width in (4, 5, 6)
        shared = min(width, full.neighbors.shape[1])
        assert torch.equal(capped.neighbors[:, :shared], full.neighbors[:, :shared])


def test_radius_may_differ_from_level_to_level():
    batch = clouds()
    narrow, wide = pyramid(batch), pyramid(batch, radius=(2.5, 5.0, 2.5))
    assert torch.equal(narrow[0].neighbors, wide[0].neighbors)
    assert wide[1].neighbors.shape[1] > narrow[1].neighbors.shape[1]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1]])
def test_empty_and_single(lengths):
    n = sum(lengths)
    levels = build_pyramid(
        torch.zeros(n, 3), offsets_of(lengths), voxel_size=1.0, num_levels=3, radius=2.5, max_neighbors=None
    )
    for level in levels:
        assert level.coords.shape == (n, 3) and level.neighbors.shape == (n, 1)
        assert torch.equal(level.offsets, offsets_of(lengths))


def knn_pyramid(batch, **changes):
    settings = {"neighbors": (6, 8, 8), "pooling": "farthest", "stride": 4, "voxel_size": VOXEL} | changes
    return build_knn_pyramid(batch.coords, batch.offsets, **settings)


@pytest.mark.parametrize("pooling", ["farthest", "grid"])
@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_lists_are_what_brute_force_finds(dim, pooling):
    batch = clouds(dim)
    levels = knn_pyramid(batch, pooling=pooling)
    for index, level in enumerate(levels):
        pairs = [(level, level, level.neighbors, (6, 8, 8)[index])]
        if level.pool is not None:
            coarse = levels[index + 1]
            pairs += [(coarse, level, level.pool, (6, 8, 8)[index + 1]), (level, coarse, level.interpolate, 3)]
        for query, support, found, places in pairs:
            distance = torch.cdist(query.coords.double(), support.coords.double())
            distance[~same_cloud(query.offsets, support.offsets)] = torch.inf
            wanted = torch.full((len(query.coords), places), torch.inf, dtype=torch.float64)
            nearest = distance.sort(1).values[:, :places]
            wanted[:, : nearest.shape[1]] = nearest
            got = torch.cat([distance, torch.full((len(distance), 1), torch.inf)], 1).gather(1, found)
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    assert [level.complete for level in levels] == [False] * 3
    assert levels[-1].pool is None and levels[-1].interpolate is None


def test_lists_that_every_cloud_fills_are_complete():
    levels = knn_pyramid(cat([subsample(cloud(n, seed=n), VOXEL)[0] for n in (150, 0, 120)]), neighbors=(6, 8, 60))
    assert [level.complete for level in levels] == [True, True, False]
    assert all((level.neighbors < len(level.coords)).all() for level in levels[:2])


def test_interpolation_weighs_by_inverse_distance():
    coords = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [7.0, 0.0], [9.0, 9.0]])
    levels = build_knn_pyramid(
        coords, torch.tensor([0, 4, 5]), neighbors=(2, 2), pooling="farthest", stride=2, voxel_size=1.0
    )
    assert levels[1].coords.tolist() == [[0.0, 0.0], [7.0, 0.0], [9.0, 9.0]]
    assert levels[0].interpolate.tolist() == [[0, 1, 3], [0, 1, 3], [0, 1, 3], [1, 0, 3], [2, 3, 3]]
    wanted = torch.tensor([[1, 0, 0], [6 / 7, 1 / 7, 0], [4 / 7, 3 / 7, 0], [1, 0, 0], [1, 0, 0]])
    torch.testing.assert_close(levels[0].interpolate_weights, wanted, rtol=0, atol=1e-6)


def test_farthest_points_of_small_clouds():
    levels = knn_pyramid(cat([cloud(n, seed=n) for n in (17, 0, 1, 3)]))
    assert [level.offsets.diff().tolist() for level in levels] == [[17, 0, 1, 3], [4, 0, 1, 1], [1, 0, 1, 1]]


@pytest.mark.parametrize("pooling", ["farthest", "grid"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1]])
def test_nearest_lists_of_nothing(lengths, pooling):
    n = sum(lengths)
    levels = build_knn_pyramid(
        torch.zeros(n, 3), offsets_of(lengths), neighbors=(4, 4), pooling=pooling, stride=4, voxel_size=1.0
    )
    for level in levels:
        assert level.coords.shape == (n, 3) and level.neighbors.shape == (n, 4)
        assert torch.equal(level.offsets, offsets_of(lengths))


def test_subsample_means_and_majorities():
    batch = PointBatch(
        coords=torch.tensor([[0.1, 0.1], [0.3, 0.5], [0.2, 0.3], [1.5, 0.5], [1.5, 0.7]]),
        feats=torch.tensor([[1.0], [2.0], [6.0], [4.0], [8.0]]),
        offsets=torch.tensor([0, 4, 5]),
        labels=torch.tensor([2, 0, 2, IGNORE, 1]),
        instances=torch.tensor([7, 4, IGNORE, IGNORE, 9]),  # 4 is of another label than the voxel
        rows=torch.arange(5),
    )
    reduced, grid = subsample(batch, 1.0)
    torch.testing.assert_close(reduced.coords, torch.tensor([[0.2, 0.3], [1.5, 0.5], [1.5, 0.7]]))
    torch.testing.assert_close(reduced.feats, torch.tensor([[3.0], [4.0], [8.0]]))
    assert reduced.labels.tolist() == [2, IGNORE, 1]
    assert reduced.instances.tolist() == [7, IGNORE, 9]
    assert reduced.offsets.tolist() == [0, 2, 3] and reduced.rows is None
    assert grid.voxel_of_point.tolist() == [0, 0, 0, 1, 2]


def test_majority_instance_breaks_ties_downwards():
    ids = [5, 3, 3, 5, 8, 8, 8, 3]
    batch = PointBatch(
        coords=torch.tensor([[0.5]] * 4 + [[1.5]] * 4).expand(8, 2).contiguous(),
        feats=torch.zeros(8, 0),
        offsets=torch.tensor([0, 8]),
        instances=torch.tensor(ids),
    )
    assert subsample(batch, 1.0)[0].instances.tolist() == [3, 8]


@pytest.mark.parametrize("percentile", [0.5, 0.9, 1.0])
def test_calibration_is_the_percentile_of_the_counts(percentile):
    crops = [clouds(), subsample(cloud(400, seed=9), VOXEL)[0]]
    caps = calibrate_max_neighbors(crops, voxel_size=VOXEL, num_levels=3, radius=2.5, percentile=percentile)
    for index, cap in enumerate(caps):
        counts = torch.cat([(p.neighbors < len(p.coords)).sum(1) for p in (pyramid(c)[index] for c in crops)])
        assert (counts <= cap).double().mean() >= percentile > (counts <= cap - 1).double().mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: pyramid(b, max_neighbors=(3, 4)), "max_neighbors needs 3 values"),
        (lambda b: pyramid(b, radius=(2.5, 2.5)), "radius needs 3 values"),
        (
            lambda b: calibrate_max_neighbors([b], voxel_size=1.0, num_levels=1, radius=1.0, percentile=0.0),
            r"percentile must be in \(0, 1\]",
        ),
        (lambda b: calibrate_max_neighbors([], voxel_size=1.0, num_levels=1, radius=1.0), "hold no point"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(clouds())
