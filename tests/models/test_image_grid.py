"""Packed pixels and planes: the same pixels, whatever sizes are in a batch."""

from dataclasses import replace

import pytest
import torch

from pcseg.models.image_grid import enlarge, from_planes, segment_images, to_planes
from tests.models.images import SIZES, images


def test_pixel_x_y_is_row_y_times_width_plus_x():
    batch = images(SIZES)
    groups = to_planes(batch)
    assert [group.images for group in groups] == [(0, 2), (1,)]
    assert [group.size for group in groups] == [(40, 33), (33, 47)]
    for group in groups:
        for plane, image in zip(group.values, group.images, strict=True):
            start = int(batch.offsets[image])
            x, y = batch.coords[start + 100].long().tolist()
            assert torch.equal(plane[:, y, x], batch.feats[start + 100])


@pytest.mark.parametrize("sizes", [SIZES, [(4, 5)] * 3, [(0, 7), (2, 3), (0, 0), (3, 2)], [(1, 1)]], ids=str)
def test_there_and_back(sizes):
    batch = images(sizes)
    groups = to_planes(batch)
    assert torch.equal(from_planes(groups, [group.values for group in groups]), batch.feats)


def test_images_of_one_size_are_not_copied():
    batch = images([(4, 5)] * 3)
    (group,) = to_planes(batch)
    assert group.values.data_ptr() == batch.feats.data_ptr()
    assert from_planes([group], [group.values]).data_ptr() == batch.feats.data_ptr()


def test_enlarged_samples_stand_in_the_middle_of_their_pixels():
    ramp = torch.arange(5.0).expand(1, 1, 2, 5)
    enlarged = enlarge(ramp, 4, (6, 18))
    assert enlarged.shape == (1, 1, 6, 18)
    expected = ((torch.arange(18) + 0.5) / 4 - 0.5).clamp(min=0)
    torch.testing.assert_close(enlarged[0, 0, 3], expected)
    torch.testing.assert_close(enlarge(ramp[..., :4], 4, (6, 12))[..., :12], enlarged[..., :12])


def test_features_at_the_pixels_are_what_a_linear_classifier_reads():
    batch = images(SIZES)
    classifier = torch.nn.Conv2d(3, 4, 1)
    shrink = torch.nn.AvgPool2d(4, ceil_mode=True)
    output = segment_images(
        batch,
        lambda planes: (planes, shrink(planes)),
        lambda stages: stages[1],
        classifier,
        in_channels=3,
        width=3,
        stride=4,
    )
    expected = output.feats @ classifier.weight[:, :, 0, 0].T + classifier.bias
    torch.testing.assert_close(output.logits, expected)
    assert output.feats is output.feats
    groups = to_planes(batch)
    assert [maps.images for maps in output.maps] == [(0, 2), (1,)]
    for maps, group in zip(output.maps, groups, strict=True):
        assert maps.size == group.size and torch.equal(maps.stages[0], group.values), "the encoder's maps are kept"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_sizes": None}, "no image_sizes"),
        ({"image_sizes": torch.tensor([[40, 33]])}, r"must be \(3, 2\), got \(1, 2\)"),
        ({"image_sizes": torch.tensor([[40, 33], [47, 33], [33, 41]])}, "image 2 is 33 x 41 .* 1353 pixels, .* 1320"),
        ({"image_sizes": torch.tensor([[-40, -33], [47, 33], [33, 40]])}, "image 0 is -40 x -33"),
    ],
)
def test_sizes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        to_planes(replace(images(SIZES), **change))


def test_planes_that_do_not_fit():
    groups = to_planes(images(SIZES))
    with pytest.raises(ValueError, match="one tensor for each of 2 groups"):
        from_planes(groups, [groups[0].values])
    with pytest.raises(ValueError, match=r"must be \(2, 'K', 40, 33\), got \(2, 3, 10, 9\)"):
        from_planes(groups, [groups[0].values[:, :, ::4, ::4], groups[1].values])
