"""Clusters that stand for labels: means and distances against SciPy, the sure share, the centres against the truth."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from pcseg.batch import IGNORE, PointBatch, cat, offsets_of
from pcseg.errors import InputError
from pcseg.pseudo.clusters import Clusters, neighborhood_means


def cloud(seed: int, rows: int = 80, channels: int = 3) -> PointBatch:
    g = torch.Generator().manual_seed(seed)
    return PointBatch(
        coords=torch.rand(rows, 3, generator=g),
        feats=torch.randn(rows, channels, generator=g),
        offsets=offsets_of([rows]),
    )


def test_means_equal_scipy_and_stay_within_a_cloud():
    clouds = [cloud(0), cloud(1, rows=5)]
    found = neighborhood_means(cat(clouds), 8)
    expected = []
    for one in clouds:
        count = min(8, one.num_rows)
        index = cKDTree(one.coords.numpy()).query(one.coords.numpy(), count)[1]
        expected.append(one.feats.numpy()[index].mean(1))
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-6)
    assert torch.equal(neighborhood_means(clouds[0], 1), clouds[0].feats)


def test_the_surest_rows_get_the_nearest_centre():
    batch, centres = cloud(2), torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    distances = cdist(neighborhood_means(batch, 4).numpy(), centres.numpy())
    everything = Clusters(centres, neighbors=4, share=1.0)(batch)
    assert np.array_equal(everything, distances.argmin(1))
    some = Clusters(centres, neighbors=4, share=0.25)(batch)
    nearest, second = np.sort(distances, 1)[:, :2].T
    sure = np.argsort(nearest / second)[:20]
    assert set(torch.nonzero(some != IGNORE)[:, 0].tolist()) == set(sure.tolist())
    assert torch.equal(some[some != IGNORE], everything[some != IGNORE])


def test_centres_are_those_of_the_groups():
    truth = torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 9, 0]])
    batch = cloud(4, rows=300)
    group = torch.arange(300) % 3
    feats = truth[group] + 0.1 * batch.feats
    batch = PointBatch(coords=batch.coords, feats=feats, offsets=batch.offsets)
    clusters = Clusters.fit([batch, batch], 3, neighbors=1, share=1.0, seed=0)
    means = torch.stack([feats[group == number].mean(0) for number in range(3)])
    order = cdist(means, clusters.centres).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    torch.testing.assert_close(clusters.centres[order], means)
    assert torch.equal(clusters(batch), torch.from_numpy(order)[group])
    again = Clusters.fit([batch, batch], 3, neighbors=1, share=1.0, seed=0)
    assert torch.equal(again.centres, clusters.centres)


def test_nothing_and_one_cluster():
    empty = PointBatch(coords=torch.zeros(0, 3), feats=torch.zeros(0, 3), offsets=offsets_of([0]))
    assert Clusters(torch.zeros(2, 3), neighbors=4, share=0.5)(empty).shape == (0,)
    assert Clusters(torch.zeros(1, 3), neighbors=4, share=0.5)(cloud(0)).eq(0).all()
    with pytest.raises(InputError, match="name some in"):
        Clusters.fit([cloud(0, channels=0)], 2, neighbors=4, share=0.5, seed=0)
    with pytest.raises(InputError, match="3 clusters need as many rows, there are 2"):
        Clusters.fit([cloud(0, rows=2)], 3, neighbors=1, share=0.5, seed=0)
