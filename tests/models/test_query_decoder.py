"""Queries that propose masks: shapes, independence of clouds, small clouds, what learns."""

import numpy as np
import pytest
import torch

from pcseg.batch import PointBatch, cat, offsets_of
from pcseg.config import QueryDecoderConfig
from pcseg.models.heads import SegOutput
from pcseg.models.position_code import PositionCode, places_of, waves
from pcseg.models.query_decoder import QueryDecoder


def cloud(count: int, seed: int, dim: int = 3) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    return PointBatch(
        coords=torch.rand(count, dim, generator=generator) * 4,
        feats=torch.randn(count, 6, generator=generator),
        offsets=offsets_of([count]),
    )


def decoder(dim: int = 3, **settings) -> QueryDecoder:
    torch.manual_seed(0)
    return QueryDecoder(
        QueryDecoderConfig(queries=8, layers=2, channels=16, **settings), 6, (False, True, True, False), dim=dim
    )


def decoded(net: QueryDecoder, batch: PointBatch):
    return net(batch, SegOutput(batch.feats.new_zeros(batch.num_rows, 4), batch.feats))


@pytest.mark.parametrize("start", ["farthest", "learned"])
@pytest.mark.parametrize("dim", [2, 3])
def test_proposals_of_every_layer(start, dim):
    batch = cat([cloud(50, 1, dim), cloud(3, 2, dim), cloud(20, 3, dim)])  # the second has fewer rows than queries
    found = decoded(decoder(dim, start=start, matching="hungarian"), batch)
    assert len(found.layers) == 3 and found.last is found.layers[-1]
    for layer in found.layers:
        assert layer.class_logits.shape == (3, 8, 5) and layer.mask_logits.shape == (73, 8)
        assert torch.isfinite(layer.class_logits).all() and torch.isfinite(layer.mask_logits).all()


def test_queries_begin_at_rows_far_apart_most_of_them_on_things():
    batch = cat([cloud(50, 1), cloud(3, 2), cloud(0, 3)])
    logits = torch.zeros(53, 4)
    logits[:, 0] = 1.0
    logits[torch.arange(10, 30), 2] = 2.0  # a thing, in the first cloud alone
    seeds = decoder()(batch, SegOutput(logits, batch.feats)).seeds
    assert seeds.shape == (3, 8) and (seeds[2] == -1).all()
    assert ((seeds[0, :6] >= 10) & (seeds[0, :6] < 30)).all() and len(seeds[0, :6].unique()) == 6
    assert set(seeds[1].tolist()) == {50, 51, 52}
    assert decoder(start="learned", matching="hungarian")(batch, SegOutput(logits, batch.feats)).seeds is None
    with pytest.raises(ValueError, match="learned queries begin at no row"):
        QueryDecoderConfig(start="learned")


def test_a_mask_falls_with_the_distance_from_where_its_query_began():
    net = decoder()
    torch.nn.init.zeros_(net.embedding[-1].weight)
    torch.nn.init.zeros_(net.embedding[-1].bias)
    batch = cloud(40, 1)
    places = places_of(batch.coords, batch.offsets)
    found = decoded(net, batch)
    apart = torch.cdist(places, places[found.seeds[0]])
    torch.testing.assert_close(found.last.mask_logits, -2 * torch.log1p(50 * apart**2), atol=1e-3, rtol=1e-3)
    torch.nn.init.constant_(net.geometry.bias, -0.5)  # offsets of the centres, and the logarithm of the sharpness
    apart = torch.cdist(places, places[found.seeds[0]] - 0.5)
    expected = -2 * torch.log1p(50 * np.exp(-0.5) * apart**2)
    torch.testing.assert_close(decoded(net, batch).last.mask_logits, expected, atol=1e-3, rtol=1e-3)
    torch.nn.init.constant_(net.geometry.bias, -50.0)
    assert torch.isfinite(decoded(net, batch).last.mask_logits).all()


def test_clouds_are_decoded_each_by_itself():
    net, first, second = decoder(), cloud(40, 1), cloud(30, 2)
    both, alone = decoded(net, cat([first, second])).last, decoded(net, second).last
    torch.testing.assert_close(both.class_logits[1], alone.class_logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.mask_logits[40:], alone.mask_logits, atol=1e-5, rtol=1e-4)


def test_an_empty_cloud_has_proposals_of_nothing():
    found = decoded(decoder(), cat([cloud(0, 0), cloud(9, 1)])).last
    assert found.class_logits.shape == (2, 8, 5) and torch.isfinite(found.class_logits).all()


def test_all_weights_learn():
    net, batch = decoder(), cloud(60, 1)
    output = decoded(net, batch)
    torch.stack(
        [layer.class_logits.square().sum() + layer.mask_logits.square().sum() for layer in output.layers]
    ).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_place_is_coded_relative_to_the_cloud():
    batch = cloud(20, 4)
    moved = PointBatch(coords=batch.coords * 10 + 100, feats=batch.feats, offsets=batch.offsets)
    torch.testing.assert_close(
        waves(batch.coords, batch.offsets), waves(moved.coords, moved.offsets), atol=1e-3, rtol=1e-3
    )
    code = waves(batch.coords, batch.offsets)
    assert code.shape == (20, 3 * 9) and code.abs().max() <= 1.0001
    one = cloud(1, 5)
    assert torch.isfinite(PositionCode(3, 7)(one)).all()
    with pytest.raises(ValueError, match="heads must divide channels"):
        QueryDecoderConfig(channels=16, heads=3)
