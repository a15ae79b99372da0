"""Mixed batches: which rows, in which order, and where each came from."""

from dataclasses import replace

import pytest
import torch

from pcseg import IGNORE
from pcseg.batch import PointBatch, cat, offsets_of
from pcseg.datasets.mix import draw_boxes, draw_instances, mix_all, mix_boxes, mix_instances
from pcseg.images import image_batch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int, sizes=((12, 16), (9, 7))) -> PointBatch:
    rng = generator(seed)
    return cat(
        [
            image_batch(torch.rand(h, w, 3, generator=rng), torch.randint(5, (h, w), generator=rng), _blocks(h, w))
            for h, w in sizes
        ]
    )


def _blocks(height: int, width: int) -> torch.Tensor:
    """Two instances and stuff."""
    instances = torch.full((height, width), IGNORE)
    instances[1:4, 1:4] = 0
    instances[5:8, 2:6] = 1
    return instances


def clouds(seed: int, counts=(300, 200), dim: int = 3) -> PointBatch:
    rng = generator(seed)
    count = sum(counts)
    return PointBatch(
        coords=torch.rand(count, dim, generator=rng) * 10 - 5,
        feats=torch.rand(count, 2, generator=rng),
        offsets=offsets_of(counts),
        labels=torch.randint(5, (count,), generator=rng),
        instances=torch.randint(-1, 4, (count,), generator=rng),
        rows=torch.arange(count) + 1000 * seed,
    )


def check_sources(mixed, first, second):
    """Every field of every row is that of the row it names."""
    batch, shift = mixed.batch, first.instances.max() + 1
    for name in ("coords", "feats", "labels", "rows"):
        expected = torch.stack(
            [(first, second)[s].__getattribute__(name)[i] for s, i in zip(mixed.source.tolist(), mixed.index.tolist())]
        )
        assert torch.equal(getattr(batch, name), expected), name
        assert torch.equal(mixed.take(getattr(first, name), getattr(second, name)), expected)
    theirs = second.instances.where(second.instances == IGNORE, second.instances + shift)
    assert torch.equal(batch.instances, mixed.take(first.instances, theirs))
    assert torch.equal(batch.cloud_index, mixed.take(first.cloud_index, second.cloud_index))


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_keeps_the_grid(seed):
    first, second = images(1), images(2)
    boxes = draw_boxes(first, generator(seed))
    mixed = mix_boxes(first, second, boxes)
    check_sources(mixed, first, second)
    assert torch.equal(mixed.index, torch.arange(first.num_rows)), "each pixel stays at its place"
    assert torch.equal(mixed.batch.coords, first.coords) and torch.equal(mixed.batch.offsets, first.offsets)
    assert torch.equal(mixed.batch.image_sizes, first.image_sizes)
    for source, box, size in zip(mixed.source.split(first.lengths.tolist()), boxes, first.image_sizes.tolist()):
        inside = source.view(size)
        (left, top), (right, bottom) = (box + 0.5).long().tolist()
        assert inside[top:bottom, left:right].all() and int(inside.sum()) == (bottom - top) * (right - left)
        assert 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]


def test_boxes_by_hand():
    first, second = images(1, ((3, 4),)), images(2, ((3, 4),))
    mixed = mix_boxes(first, second, torch.tensor([[[0.5, 0.5], [2.5, 9.0]]]))
    assert mixed.source.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0]


@pytest.mark.parametrize("kind", ["images", "columns", "blocks", "plane"])
def test_boxes_have_the_area_and_the_aspect_asked_for(kind):
    batch = images(0, ((200, 300),)) if kind == "images" else clouds(0, (20_000,), 2 if kind == "plane" else 3)
    extent = torch.tensor([300.0, 200.0]) if kind == "images" else batch.coords.amax(0) - batch.coords.amin(0)
    shares, ratios = [], []
    for seed in range(300):
        box = draw_boxes(batch, generator(seed), in_plane=kind != "blocks")[0]
        part = (box[1] - box[0]) / extent
        if kind == "columns":
            assert torch.isinf(box[:, 2]).all()
        shares.append(float(part[: 2 if kind == "columns" else None].prod()))
        ratios.append(float(part[1] / part[0]))
    assert 0.018 < min(shares) < 0.06 and 0.35 < max(shares) < 0.405
    assert 0.28 < min(ratios) < 0.7 and 1.5 < max(ratios) < 3.5
    assert torch.equal(draw_boxes(batch, generator(3)), draw_boxes(batch, generator(3)))


@pytest.mark.parametrize("in_plane", [True, False])
def test_boxes_of_clouds(in_plane):
    first, second = clouds(1), clouds(2, (100, 400))
    boxes = draw_boxes(first, generator(4), in_plane=in_plane)
    mixed = mix_boxes(first, second, boxes)
    check_sources(mixed, first, second)
    for number, box in enumerate(boxes):
        here = mixed.batch.cloud_index == number
        coords, source = mixed.batch.coords[here], mixed.source[here]
        inside = ((coords >= box[0]) & (coords < box[1])).all(1)
        assert torch.equal(inside, source == 1) and (source.diff() >= 0).all()
    kept = int((mixed.source == 0).sum())
    assert 0 < kept < first.num_rows and mixed.batch.num_rows - kept < second.num_rows


def test_labels_that_one_lacks_are_ignored():
    first, second = images(1), replace(images(2), labels=None, instances=None, rows=None)
    mixed = mix_boxes(first, second, draw_boxes(first, generator(0)))
    assert torch.equal(mixed.batch.labels, torch.where(mixed.source == 0, first.labels, IGNORE))
    assert mixed.batch.rows is None
    bare = replace(first, labels=None, instances=None)
    assert mix_boxes(bare, second, draw_boxes(first, generator(0))).batch.labels is None
    other = mix_boxes(second, first, draw_boxes(first, generator(0))).batch
    assert torch.equal(other.labels, torch.where(mixed.source == 1, first.labels, IGNORE))


def test_instances_of_images_replace_pixels():
    first, second = images(1), images(2)
    chosen = draw_instances(second, generator(1))
    mixed = mix_instances(first, second, chosen, reach=1.0)
    check_sources(mixed, first, second)
    assert torch.equal(mixed.source == 1, chosen) and torch.equal(mixed.index, torch.arange(first.num_rows))
    assert not (set(mixed.batch.instances[chosen].tolist()) & set(first.instances.tolist()))


def test_instances_of_clouds_replace_what_they_cover():
    first, second = clouds(1), clouds(2, (100, 400))
    chosen = draw_instances(second, generator(1), share=0.3)
    assert chosen.any() and not chosen.all() and (second.instances[chosen] != IGNORE).all()
    mixed = mix_instances(first, second, chosen, reach=0.8)
    check_sources(mixed, first, second)
    assert int((mixed.source == 1).sum()) == int(chosen.sum())
    for number in range(2):
        pasted = second.coords[chosen & (second.cloud_index == number)]
        own = first.cloud_index == number
        far = (first.coords[own][:, None] - pasted).norm(dim=2).amin(1) > 0.8
        kept = mixed.index[(mixed.source == 0) & (mixed.batch.cloud_index == number)]
        assert torch.equal(kept, torch.nonzero(own)[far, 0])
    none = mix_instances(first, second, torch.zeros_like(chosen), reach=0.8)
    assert torch.equal(none.batch.coords, first.coords) and int(none.source.sum()) == 0


def test_whole_instances_are_drawn_each_by_chance():
    batch = clouds(1, (3000, 2000))
    picks = torch.stack([draw_instances(batch, generator(seed), share=0.4) for seed in range(200)])
    key = batch.cloud_index * 10 + batch.instances
    for value in key[batch.instances >= 0].unique().tolist():
        members = picks[:, (key == value) & (batch.instances >= 0)]
        assert (members.all(1) == members.any(1)).all() and 0.2 < members[:, 0].float().mean() < 0.6
    with pytest.raises(ValueError, match="draw_instances: the batch has no instances"):
        draw_instances(replace(batch, instances=None), generator())


def test_all_rows_of_both():
    first, second = clouds(1), clouds(2, (100, 50))
    mixed = mix_all(first, second)
    check_sources(mixed, first, second)
    assert mixed.batch.lengths.tolist() == [400, 250] and torch.bincount(mixed.source).tolist() == [500, 150]
    assert mixed.source[:400].tolist() == [0] * 300 + [1] * 100
    nothing = clouds(3, (0, 0))
    assert torch.equal(mix_all(first, nothing).batch.coords, first.coords)
    with pytest.raises(ValueError, match="of clouds alone"):
        mix_all(images(1), images(2))


def test_what_does_not_fit():
    first = images(1)
    boxes = draw_boxes(first, generator())
    for other, message in (
        (images(2, ((12, 16),)), "as many clouds"),
        (images(2, ((12, 16), (9, 8))), "images of one size"),
        (replace(images(2), image_sizes=None), "one batch is of images"),
        (replace(images(2), feats=torch.zeros(first.num_rows, 1)), "feats have different widths"),
    ):
        with pytest.raises(ValueError, match=message):
            mix_boxes(first, other, boxes)
    with pytest.raises(ValueError, match="boxes must be"):
        mix_boxes(first, images(2), boxes[:1])
    with pytest.raises(ValueError, match="chosen must be"):
        mix_instances(first, images(2), torch.ones(3), reach=1.0)
