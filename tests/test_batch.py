"""The packed cloud: packing, splitting, and what it refuses."""

import pytest
import torch

from pcseg.batch import IGNORE, PointBatch, cat, offsets_of, split


def cloud(n: int, seed: int = 0, **fields) -> PointBatch:
    g = torch.Generator().manual_seed(seed)
    return PointBatch(
        coords=torch.rand(n, 3, generator=g),
        feats=torch.rand(n, 2, generator=g),
        offsets=offsets_of([n]),
        **fields,
    )


def test_cat_then_split_gives_the_clouds_back():
    clouds = [cloud(n, n, labels=torch.full((n,), n), rows=torch.arange(n)) for n in (4, 0, 1, 7)]
    packed = cat(clouds)
    assert packed.offsets.tolist() == [0, 4, 4, 5, 12]
    assert packed.lengths.tolist() == [4, 0, 1, 7]
    assert packed.cloud_index.tolist() == [0] * 4 + [2] + [3] * 7
    for before, after in zip(clouds, split(packed), strict=True):
        assert torch.equal(before.coords, after.coords)
        assert torch.equal(before.labels, after.labels)
        assert torch.equal(before.rows, after.rows)
        assert after.instances is None


def test_cat_joins_batches_of_several_clouds_and_image_sizes():
    pair = cat([cloud(2, image_sizes=torch.tensor([[1, 2]])), cloud(3, image_sizes=torch.tensor([[3, 1]]))])
    packed = cat([pair, cloud(6, image_sizes=torch.tensor([[2, 3]]))])
    assert packed.offsets.tolist() == [0, 2, 5, 11]
    assert packed.image_sizes.tolist() == [[1, 2], [3, 1], [2, 3]]
    assert split(packed)[2].image_sizes.tolist() == [[2, 3]]


def test_cat_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="at least one batch"):
        cat([])
    with pytest.raises(ValueError, match="only 1 of 2 batches have labels"):
        cat([cloud(2, labels=torch.zeros(2, dtype=torch.int64)), cloud(2)])
    wide = PointBatch(coords=torch.rand(2, 3), feats=torch.rand(2, 5), offsets=offsets_of([2]))
    with pytest.raises(ValueError, match=r"feats have different widths \[2, 5\]"):
        cat([cloud(2), wide])


def test_fields_are_checked_and_frozen():
    with pytest.raises(ValueError, match=r"labels must be \(3,\) int64"):
        cloud(3, labels=torch.zeros(3))
    with pytest.raises(ValueError, match="offsets must be"):
        PointBatch(coords=torch.rand(2, 3), feats=torch.rand(2, 1), offsets=torch.tensor([0.0, 2.0]))
    with pytest.raises(ValueError, match="coords"):
        PointBatch(coords=torch.rand(2, 3), feats=torch.rand(3, 1), offsets=offsets_of([2]))
    with pytest.raises(AttributeError):
        cloud(1).coords = torch.rand(1, 3)  # pyright: ignore[reportAttributeAccessIssue]


def test_to_moves_every_field_that_is_there():
    moved = cloud(3, labels=torch.full((3,), IGNORE)).to("meta")
    assert moved.coords.device.type == moved.labels.device.type == moved.offsets.device.type == "meta"
    assert moved.rows is None
