"""Windows of images: determinism, balance, what hidden labels reveal, small images, rows."""

import itertools

import numpy as np
import pytest
import torch

from pcseg import IGNORE
from pcseg.batch import cat
from pcseg.config import AugmentConfig, CropConfig
from pcseg.datasets.hidden_labels import HiddenLabels
from pcseg.datasets.scene_part import ScenePart
from pcseg.datasets.views import CropDataset
from pcseg.datasets.voxel_scene import VoxelScene
from pcseg.datasets.windows import WindowDataset
from pcseg.errors import InputError
from tests.data.grids import Grid, noise_image, unit_contract

GEOMETRY = AugmentConfig(rotate=True, flip=0.5, scale=(0.5, 2.0))
EVERYTHING = GEOMETRY.model_copy(update={"color": 0.5, "brightness": 0.3, "blur": 0.5, "feature_jitter": 0.1})


def labels_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Class 0 on most, a spot of class 1, and a hundredth of class 2; some rows IGNORE."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int16)
    labels[2:6, 3:7] = 1
    labels[rng.random(labels.shape) < 0.01] = 2
    labels[rng.random(labels.shape) < 0.1] = IGNORE
    return labels.reshape(-1)


def dataset(*images: Grid, window: int = 16, augment: AugmentConfig | None = None, seed: int = 0, **options):
    balanced = options.pop("balanced", 1.0)
    crop = CropConfig(window=window, balanced=balanced, off_center=options.pop("off_center", 0.0))
    visible = options.pop("visible", None)
    shown = images if visible is None else map(HiddenLabels, images, map(np.flatnonzero, visible))
    parts = [ScenePart(image) for image in shown]
    return WindowDataset(parts, unit_contract(), crop, augment, seed=seed, **options)


@pytest.fixture(scope="module")
def images() -> tuple[Grid, Grid]:
    return (
        noise_image(40, 50, 0, labels=labels_of(40, 50)),
        noise_image(33, 20, 1, labels=labels_of(33, 20, 1)),
    )


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("coords", "feats", "labels", "rows", "image_sizes"))


def test_an_item_depends_on_its_index_and_the_seed_alone(images):
    one, other = (dataset(*images, augment=EVERYTHING) for _ in range(2))
    forward = [one[i] for i in range(6)]
    backward = [other[i] for i in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward))
    assert not same(forward[0], forward[1])
    assert not same(dataset(*images, augment=EVERYTHING, seed=1)[0], forward[0])
    assert same(one[2**40], other[2**40])


@pytest.mark.parametrize("augment", [None, GEOMETRY])
def test_items_are_grids_whose_rows_lead_back(images, augment):
    windows = dataset(*images, augment=augment)
    assert windows.scene_starts.tolist() == [0, 2000, 2660]
    labels = torch.from_numpy(np.concatenate([image.labels for image in images])).long()
    colors = torch.from_numpy(np.concatenate([image.columns["color"] for image in images])).float() / 255
    seen = set()
    for index in range(30):
        item = windows[index]
        assert item.num_rows == 256 and item.image_sizes.tolist() == [[16, 16]]
        assert item.coords[17].tolist() == [1.0, 1.0] and item.coords[16].tolist() == [0.0, 1.0]
        known = item.labels != IGNORE
        assert known.any() and torch.equal(item.labels[known], labels[item.rows[known]])
        numbers = set((item.rows >= 2000).tolist())
        assert len(numbers) == 1
        seen |= numbers
        if augment is None:
            assert torch.allclose(item.feats, colors[item.rows], atol=1e-6)
            assert torch.equal(item.labels, labels[item.rows]), "the window stays within the image"
    assert seen == {False, True}
    batch = cat([windows[0], windows[1]])
    assert batch.image_sizes is not None and batch.image_sizes.shape == (2, 2)


def test_every_pixel_can_be_in_a_window(images):
    image = noise_image(9, 10)
    for window in (4, 5):
        items = [dataset(image, window=window, balanced=0.0)[i] for i in range(200)]
        assert set(torch.cat([item.rows for item in items]).tolist()) == set(range(90))
        assert all(len(set(item.rows.tolist())) == window * window for item in items), "no border was needed"


def test_classes_are_centred_on_equally_often(images):
    labels = torch.cat([dataset(*images, window=1)[i].labels for i in range(450)])
    shares = torch.bincount(labels, minlength=3) / 450
    assert ((shares - 1 / 3).abs() < 0.08).all()
    plain = torch.cat([dataset(*images, window=1, balanced=0.0)[i].labels for i in range(450)])
    assert (plain == 2).float().mean() < 0.05 and (plain == IGNORE).any()


@pytest.mark.parametrize("augment", [None, GEOMETRY])
@pytest.mark.parametrize("off_center", [0.0, 0.9])
def test_the_pixel_drawn_is_in_the_window(augment, off_center):
    """One labelled pixel in a corner: every balanced window shows it, however it is turned."""
    labels = np.full(40 * 40, IGNORE, np.int16)
    labels[0] = 1
    windows = dataset(noise_image(40, 40, labels=labels), augment=augment, off_center=off_center)
    for index in range(40):
        item = windows[index]
        assert (item.rows[item.labels == 1] == 0).all() and (item.labels == 1).any()


@pytest.mark.parametrize("augment", [None, GEOMETRY])
def test_a_drawn_label_stands_anywhere_within_its_share_of_the_window(augment):
    labels = np.full(100 * 100, IGNORE, np.int16)
    labels[50 * 100 + 50] = 1

    def places(off_center: float) -> torch.Tensor:
        windows = dataset(noise_image(100, 100, labels=labels), augment=augment, off_center=off_center)
        items = [windows[i] for i in range(60)]
        return torch.cat([item.coords[item.labels == 1] - 8 for item in items]).abs().amax(1)

    assert places(0.0).max() <= 1  # the middle of an even window lies between cells
    off = places(0.75)
    assert len(off) >= 60 and 4 <= off.max() <= 7 and (off > 2).float().mean() > 0.5


def test_hidden_labels_change_nothing(images):
    visible = [np.random.default_rng(9).random(image.num_points) < 0.05 for image in images]
    garbled = []
    for image, shown in zip(images, visible):
        labels = image.labels.copy()
        labels[~shown] = np.random.default_rng(1).integers(0, 3, int((~shown).sum()))
        garbled.append(Grid(image.grid_shape, image.columns, labels))
    one = dataset(*images, augment=EVERYTHING, visible=visible)
    other = dataset(*garbled, augment=EVERYTHING, visible=visible)
    assert all(same(one[i], other[i]) for i in range(10))
    assert 0 < torch.cat([(one[i].labels != IGNORE).float() for i in range(10)]).mean() < 0.3


def test_small_images_go_on_as_their_mirror_image():
    image = noise_image(5, 30, labels=np.zeros(150, np.int16))
    item = dataset(image, window=16)[0]
    assert item.image_sizes.tolist() == [[16, 16]] and int((item.labels == 0).sum()) == 5 * 16
    colors = torch.from_numpy(image.columns["color"]).float() / 255
    assert torch.allclose(item.feats, colors[item.rows], atol=1e-6)
    rows = (item.rows.view(16, 16)[:, 0] // 30).tolist()
    assert all(abs(a - b) == 1 for a, b in itertools.pairwise(rows)), "neighbours stay neighbours"
    single = dataset(noise_image(1, 1, labels=np.zeros(1, np.int16)), window=4, augment=GEOMETRY)[3]
    assert single.rows.tolist() == [0] * 16 and (single.labels == 0).any()


def test_images_without_labels_and_parts_of_images(images):
    bare = dataset(noise_image(20, 20), augment=EVERYTHING)[0]
    assert bare.labels is None and bare.num_rows == 256
    chosen = np.flatnonzero(images[0].coords[:, 0] < 8)
    part = ScenePart(images[0], chosen)
    windows = WindowDataset([part], unit_contract(), CropConfig(window=16), seed=0)
    items = [windows[i] for i in range(10)]
    assert all((item.rows[item.labels != IGNORE] % 50 < 8).all() for item in items)


def test_images_are_read_when_they_are_needed(images):
    for image in images:
        image.reads.clear()
    windows = dataset(*images)
    assert not images[0].reads and not images[1].reads
    windows[0]
    assert len(images[0].reads + images[1].reads) == 1


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match="vol: is no image"):
        dataset(Grid((2, 3, 4), {}, name="vol"))
    with pytest.raises(InputError, match="no pixels to cut windows from"):
        dataset()


@pytest.mark.parametrize("shape", ["column", "sphere"])
@pytest.mark.parametrize("grid_shape", [(30, 40), (9, 20, 24)])
def test_point_networks_read_crops_of_images_and_volumes(shape, grid_shape):
    count = int(np.prod(grid_shape))
    colors = np.random.default_rng(0).integers(0, 256, (count, 3), dtype=np.uint8)
    grid = Grid(grid_shape, {"color": colors}, (np.arange(count) % 3).astype(np.int16), spacing=0.5)
    scene = VoxelScene.build(grid, unit_contract(), 0.5)
    assert scene.num_voxels == count
    crops = CropDataset([scene], unit_contract(), CropConfig(shape=shape, max_voxels=90), EVERYTHING, seed=0)
    for index in range(5):
        item = crops[index]
        assert item.num_rows == 90 and item.coords.shape[1] == len(grid_shape) and item.image_sizes is None
        assert torch.equal(item.labels, scene.labels[item.rows])
        plain = CropDataset([scene], unit_contract(), CropConfig(shape=shape, max_voxels=90), seed=0)[index]
        assert torch.equal(plain.rows, item.rows) and torch.equal(plain.feats, scene.feats[plain.rows])
        axes = 2 if shape == "column" else len(grid_shape)
        reach = float(plain.coords[:, :axes].norm(dim=1).max())
        centre = scene.coords[plain.rows[0]] - plain.coords[0]
        near = (scene.coords - centre)[:, :axes].norm(dim=1) < reach - 1e-3
        assert int(near.sum()) <= 90 and torch.isin(torch.nonzero(near)[:, 0], plain.rows).all()
