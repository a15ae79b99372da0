"""Clicks, scribbles and blocks: one for each object, connected, on their class, nested, and on real images."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from pcseg import IGNORE
from pcseg.datasets.image_folder import find_images
from pcseg.datasets.weak_draw import draw_labels
from pcseg.datasets.weak_objects import cloud_components, objects_of
from pcseg.datasets.weak_recipes import BlocksRecipe, ClicksRecipe, ScribblesRecipe
from pcseg.errors import InputError
from tests.data.grids import Grid
from tests.data.pictures import SAMPLES
from tests.data.scenes import town, write_scene

EIGHT = np.ones((3, 3), bool)


def blobs(shape: tuple[int, ...] = (60, 80), seed: int = 0) -> Grid:
    """Three classes in smooth patches, with void between some of them."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    labels = np.digitize(noise, np.quantile(noise, [0.35, 0.7])).astype(np.int16)
    labels[np.abs(noise - np.median(noise)) < 0.1 * noise.std()] = IGNORE
    return Grid(shape, {}, labels.reshape(-1), class_names=("a", "b", "c"))


def components(labels: np.ndarray) -> list[np.ndarray]:
    """Masks of the components of each class."""
    found = []
    for index in np.unique(labels[labels >= 0]):
        numbers, count = ndimage.label(labels == index, structure=np.ones((3,) * labels.ndim))
        found += [numbers == number for number in range(1, count + 1)]
    return found


def clusters(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sheets of points, some of one class, more than 1 apart: coordinates, class, sheet."""
    rng = np.random.default_rng(seed)
    parts, labels, sheets = [], [], []
    for number, (x, y, label) in enumerate([(0, 0, 0), (10, 0, 0), (0, 9, 1), (10, 9, 1), (5, 18, 0)]):
        count = 150 + 50 * number
        sheet = rng.random((count, 3)) * (6, 6, 0.1)
        sheet[:, 2] += np.sin(sheet[:, 0])
        parts.append(sheet + np.array([x, y, 0]))
        labels.append(np.full(count, label))
        sheets.append(np.full(count, number))
    order = rng.permutation(sum(map(len, parts)))
    return tuple(np.concatenate(values)[order] for values in (parts, labels, sheets))


@pytest.mark.parametrize("shape", [(60, 80), (12, 30, 30)])
def test_a_click_for_each_component_of_a_grid(shape):
    grid = blobs(shape)
    rows = draw_labels([grid], ClicksRecipe(), seed=0).rows["grid"]
    chosen = np.zeros(shape, bool)
    chosen.reshape(-1)[rows] = True
    found = components(grid.labels.reshape(shape))
    assert len(found) == len(rows) > 5 and all(chosen[mask].sum() == 1 for mask in found)
    large = draw_labels([grid], ClicksRecipe(min_rows=50), seed=0).rows["grid"]
    assert set(large) <= set(rows) and len(large) == sum(mask.sum() >= 50 for mask in found) < len(rows)


def test_several_clicks_for_each_object():
    """As many as asked for on every object, all of a smaller one; one click is among ten of the same seed."""
    grid = blobs((60, 80))
    one, ten = (draw_labels([grid], ClicksRecipe(count=count), seed=3).rows["grid"] for count in (1, 10))
    chosen = np.zeros(grid.num_points, bool)
    chosen[ten] = True
    found = components(grid.labels.reshape(60, 80))
    assert all(chosen[mask.reshape(-1)].sum() == min(10, mask.sum()) for mask in found)
    assert set(one) < set(ten) and chosen.sum() == sum(min(10, int(mask.sum())) for mask in found)


def test_clicks_on_the_objects_of_a_cloud(tmp_path):
    coords, labels, sheets = clusters()
    bare = write_scene(tmp_path / "bare", coords, labels=labels, class_names=("a", "b"))
    with pytest.raises(InputError, match=r"not every labelled point has an instance .* say with --radius"):
        draw_labels([bare], ClicksRecipe(), seed=0)
    rows = draw_labels([bare], ClicksRecipe(radius=1.5), seed=0).rows["bare"]
    assert sorted(sheets[rows].tolist()) == [0, 1, 2, 3, 4]


def test_clicks_on_instances(tmp_path):
    coords, labels, sheets = clusters()
    halves = sheets * 2 + (coords[:, 0] > 3)  # more instances than components, their ids far apart
    ids = np.where(sheets == 4, -1, halves * 1000).astype(np.int32)  # the last sheet has none
    labels = labels.copy()
    labels[:40] = -1
    scene = write_scene(tmp_path / "s", coords, labels=labels, class_names=("a", "b"), instances=ids)
    rows = draw_labels([scene], ClicksRecipe(radius=1.5), seed=0).rows["s"]
    expected = {*np.unique(ids[(labels >= 0) & (ids >= 0)]).tolist(), -1}
    assert len(rows) == len(expected) and set(ids[rows].tolist()) == expected and (labels[rows] >= 0).all()
    objects = objects_of(scene, 1.5)
    assert (objects[labels < 0] == -1).all() and set(np.unique(objects)) == set(range(-1, len(expected)))


def test_components_of_a_cloud_are_those_of_its_radius_graph():
    """Against all pairs. Points lie far enough apart for their voxels to hold one each, so that nothing is merged."""
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 20, (500, 3)), axis=0).astype(np.float32) + 0.25
    coords = coords[rng.permutation(len(coords))]
    expected = connected_components(cdist(coords, coords) <= 1.99)[1]
    found = cloud_components(coords, 1.99)
    pairs = set(zip(expected.tolist(), found.tolist()))
    assert 20 < len(pairs) == len(set(expected.tolist())) == len(set(found.tolist()))


def test_components_of_a_dense_cloud_lie_between_those_of_two_radii():
    """Barycentres stand for their voxels' points: within 0.13 radii all are linked, beyond 1.87 none are."""
    coords = np.random.default_rng(0).random((2500, 2)).astype(np.float32) * 30
    found = cloud_components(coords, 0.7)
    distances = cdist(coords, coords)
    finer, coarser = (connected_components(distances <= 0.7 * factor)[1] for factor in (0.13, 1.87))
    assert len(set(zip(finer.tolist(), found.tolist()))) == len(set(finer.tolist()))
    assert len(set(zip(found.tolist(), coarser.tolist()))) == len(set(found.tolist()))
    assert len(set(coarser.tolist())) < len(set(found.tolist())) < len(set(finer.tolist()))


def test_dense_clouds_have_no_cut_neighbour_lists():
    """A thousand points within a radius, linked to a second bunch through one point."""
    rng = np.random.default_rng(1)
    bunch = rng.normal(0, 0.02, (1000, 3))
    coords = np.concatenate([bunch, bunch + np.array([1.8, 0, 0]), [[0.9, 0, 0]]]).astype(np.float32)
    assert len(np.unique(cloud_components(coords, 1.0))) == 1
    assert len(np.unique(cloud_components(coords[:2000], 1.0))) == 2


def stroke_masks(grid: Grid, share: float, **options) -> np.ndarray:
    rows = draw_labels([grid], ScribblesRecipe(share=share, **options), seed=1).rows["grid"]
    mask = np.zeros(grid.grid_shape, bool)
    mask.reshape(-1)[rows] = True
    return mask


def test_strokes_lie_in_their_object_and_are_connected():
    from skimage.morphology import skeletonize

    grid = blobs()
    labels = grid.labels.reshape(grid.grid_shape)
    found = components(labels)
    for share in (0.0, 0.3, 0.5, 1.0):
        mask = stroke_masks(grid, share)
        assert not (mask & (labels < 0)).any()
        for component in found:
            stroke = mask & component
            assert ndimage.label(stroke, structure=EIGHT)[1] == 1
            whole = int(skeletonize(component).sum())
            assert stroke.sum() == max(1, int(np.ceil(round(share * whole, 9))))
    assert stroke_masks(grid, 1.0).sum() < 0.25 * (labels >= 0).sum()
    whole = stroke_masks(grid, 1.0)
    for component in found:
        assert np.array_equal(whole & component, skeletonize(component)) or component.sum() < 10


def test_shorter_strokes_are_part_of_longer_ones():
    for grid in (blobs(), blobs((4, 40, 50))):
        masks = [stroke_masks(grid, share) for share in (0.0, 0.2, 0.3, 0.8, 1.0)]
        for few, more in itertools.pairwise(masks):
            assert few.sum() < more.sum() and not (few & ~more).any()


def test_objects_of_few_pixels_have_a_stroke_too():
    labels = np.full((12, 14), IGNORE, np.int16)
    labels[1, 1] = 0
    labels[4:6, 4:6] = 1
    labels[8:10, 1:3] = 0
    labels[8, 8:12] = 1
    grid = Grid((12, 14), {}, labels.reshape(-1))
    for share in (0.0, 1.0):
        mask = stroke_masks(grid, share)
        assert all((mask & component).any() for component in components(labels))
    assert not stroke_masks(grid, 1.0, min_rows=5).any()


def test_strokes_in_slices_of_a_volume():
    grid = blobs((6, 40, 50))
    labels = grid.labels.reshape(grid.grid_shape)
    mask = stroke_masks(grid, 0.5, slice_step=2)
    assert not mask[1::2].any()
    for number in (0, 2, 4):
        found = components(labels[number])
        assert all(ndimage.label(mask[number] & c, structure=EIGHT)[1] == 1 for c in found)


def test_strokes_over_the_surface_of_a_cloud(tmp_path):
    coords, labels, sheets = clusters()
    scene = write_scene(tmp_path / "s", coords, labels=labels, class_names=("a", "b"))
    former = np.zeros(len(coords), bool)
    for share in (0.0, 0.3, 0.6, 1.0):
        rows = draw_labels([scene], ScribblesRecipe(share=share, radius=1.5), seed=3).rows["s"]
        mask = np.zeros(len(coords), bool)
        mask[rows] = True
        assert not (former & ~mask).any()
        former = mask
        for number in range(5):
            stroke = coords[mask & (sheets == number)]
            assert len(stroke) >= 1
            links = cdist(stroke, stroke) <= 1.5
            assert connected_components(links)[0] == 1
            if share == 0.0:
                assert len(stroke) == 1
            if share == 1.0:  # it goes through most of the sheet, and no point of it is a detour
                assert cdist(stroke, stroke).max() > 5.0
                assert len(stroke) < 40
    with pytest.raises(InputError, match="say with --radius"):
        draw_labels([scene], ScribblesRecipe(), seed=3)


def test_a_stroke_is_a_shortest_path(tmp_path):
    """On a ribbon the whole stroke runs from end to end, point after point, duplicates included."""
    line = np.stack([np.arange(50.0), np.zeros(50), np.zeros(50)], 1)
    coords = np.concatenate([line, line[20:21]])
    scene = write_scene(tmp_path / "s", coords, labels=np.zeros(51), class_names=("a", "b"))
    rows = draw_labels([scene], ScribblesRecipe(share=1.0, radius=1.2, neighbors=3), seed=0).rows["s"]
    assert set(coords[rows, 0].tolist()) == set(range(50))


@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0])
def test_square_blocks_of_an_image(ratio):
    grid = blobs()
    labels = grid.labels.reshape(grid.grid_shape)
    rows = draw_labels([grid], BlocksRecipe(ratio=ratio, size=8), seed=0).rows["grid"]
    mask = np.zeros(grid.grid_shape, bool)
    mask.reshape(-1)[rows] = True
    total = (labels >= 0).sum()
    assert ratio * total <= mask.sum() < ratio * total + 64 or ratio == 1.0
    assert not (mask & (labels < 0)).any()
    whole = mask | (labels < 0)
    # Each visible pixel lies in a square of 8 x 8 (cut at the border) all of whose labels are visible.
    padded = np.pad(whole, 8, constant_values=True)
    assert (ndimage.binary_opening(padded, np.ones((8, 8)))[8:-8, 8:-8] | ~mask).all()
    if ratio == 1.0:
        assert (mask == (labels >= 0)).all()


def test_fewer_blocks_are_part_of_more():
    grid = blobs((10, 30, 30))
    few, more = (draw_labels([grid], BlocksRecipe(ratio=r, size=5), seed=0).rows["grid"] for r in (0.05, 0.2))
    assert len(few) < len(more) and set(few) < set(more)


@pytest.mark.parametrize("shape", ["column", "ball"])
def test_blocks_of_a_cloud(tmp_path, shape):
    scene = town(tmp_path / "s")
    labels, axes = scene.labels, 2 if shape == "column" else 3
    rows = draw_labels([scene], BlocksRecipe(ratio=0.2, size=4.0, shape=shape), seed=0).rows["s"]
    total = (labels >= 0).sum()
    assert 0.2 * total <= len(rows) < 0.2 * total + 120 and (labels[rows] >= 0).all()
    places = np.asarray(scene.coords[:, :axes], np.float64)
    known = np.flatnonzero(labels >= 0)
    centres = [r for r in rows if set(known[_near(places[known], places[r])]) <= set(rows)]
    assert centres, "some rows have all that is near them visible"
    assert (cKDTree(places[centres]).query(places[rows])[0] <= 2.0 + 1e-6).all()


def _near(places: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places - centre, axis=1) <= 2.0


def test_real_images():
    codes = {code: code for code in range(5)} | {255: -1}
    images = find_images(
        SAMPLES / "dubai_aerial", ["tile1_00*"], ("building", "land", "road", "vegetation", "water"), codes
    )
    masks = [draw_labels(images, ScribblesRecipe(share=share, min_rows=100), seed=0) for share in (0.0, 0.3, 1.0)]
    assert 0.01 < masks[2].info.ratio_points < 0.08
    clicks = draw_labels(images, ClicksRecipe(min_rows=100), seed=0)
    assert masks[0].info.class_counts == clicks.info.class_counts
    for image in images[:2]:
        labels = image.labels.reshape(image.grid_shape)
        shown = [mask.visible(image).reshape(image.grid_shape) for mask in masks]
        assert not (shown[0] & ~shown[1]).any() and not (shown[1] & ~shown[2]).any()
        found = [component for component in components(labels) if component.sum() >= 100]
        assert all(ndimage.label(shown[2] & component, structure=EIGHT)[1] == 1 for component in found)
        assert not (shown[2] & ~np.logical_or.reduce(found)).any()
