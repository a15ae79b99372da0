"""The table-top scans: packing loses nothing, scenes have instances, and what is damaged is skipped by name."""

import numpy as np
import pytest

from data_prep import tabletop
from pcseg.datasets.scene_folder import find_scenes
from pcseg.datasets.tabletop import CLASS_NAMES
from pcseg.datasets.upright import upright
from pcseg.errors import InputError
from pcseg.io.raw_tree import RawTree
from tests.data.pictures import SAMPLES


def cloud(seed: int, count: int = 400):
    """Coordinates in 0.1 mm, colours, classes and objects: a table with two boxes."""
    rng = np.random.default_rng(seed)
    coords = rng.integers(-8000, 8000, (count, 3)).astype(np.int16)
    coords[: count // 2, 1] = 4000  # the table
    objects = rng.integers(1, 4, count).astype(np.uint8)
    return coords, rng.integers(0, 256, (count, 3)).astype(np.uint8), (objects > 1).astype(np.uint8), objects


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "mosd"
    for seed, name in enumerate(("learn/a", "learn/b", "test/c")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        tabletop.pack(root / f"{name}.npz", *cloud(seed))
    return root


def test_a_cloud_becomes_a_scene(release, tmp_path, command):
    code, out, err = command(tabletop.main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 0 and "3 prepared; 1,200 points" in out, err
    scenes = find_scenes(tmp_path / "out", ["@learn", "@test"])
    assert [scene.name for scene in scenes] == ["a", "b", "c"]
    for seed, scene in enumerate(scenes):
        coords, color, codes, objects = cloud(seed)
        there = scene.coords + scene.origin
        apart = [np.linalg.norm(points[:, None] - points, axis=2) for points in (there, coords / 10_000)]
        np.testing.assert_allclose(apart[0], apart[1], atol=1e-5, err_msg="turned and shifted, nothing else")
        np.testing.assert_allclose(scene.column("height"), there[:, 2], atol=1e-6)
        np.testing.assert_array_equal(scene.column("color"), color)
        np.testing.assert_array_equal(scene.labels, codes)
        instances = scene.column("instances")
        assert instances.dtype == np.int32
        np.testing.assert_array_equal(instances, np.where(codes == 0, -1, objects.astype(int)))
    assert "3 left as it was" in command(tabletop.main, ["--raw", release, "--out", tmp_path / "out"])[1]


def test_damaged_clouds_are_skipped_by_file(release, tmp_path, command):
    (release / "learn/a.npz").write_bytes(b"PK")
    with np.load(release / "learn/b.npz") as arrays:
        kept = dict(arrays)
    np.savez(release / "learn/b.npz", **kept | {"semantic": kept["semantic"][:-1]})
    coords, color, codes, objects = cloud(2)
    codes[0] = 9
    tabletop.pack(release / "test/c.npz", coords, color, codes, objects)
    code, out, err = command(tabletop.main, ["--raw", release, "--check"])
    text = out + err
    assert code in (2, 3)
    assert "learn/a.npz: is no whole cloud" in text
    assert "learn/b.npz: expected arrays of (3, N)" in text
    assert "test/c.npz: class codes outside the table: 9" in text
    (tmp_path / "empty").mkdir()
    code, _, err = command(tabletop.main, ["--raw", tmp_path / "empty", "--out", tmp_path / "o"])
    assert code == 2 and "holds no cloud" in err


def test_two_clouds_of_one_name_and_rows_too_far_apart(release, tmp_path, command):
    tabletop.pack(release / "test/a.npz", *cloud(9))
    code, _, err = command(tabletop.main, ["--raw", release, "--out", tmp_path / "o"])
    assert code == 2 and "has the name of learn/a.npz too" in err
    coords, color, codes, objects = cloud(0)
    far = coords.astype(np.int32)
    far[5] = 100_000
    with pytest.raises(ValueError, match="more than int16 holds"):
        tabletop.pack(release / "x.npz", far, color, codes, objects)


def test_the_shipped_clouds():
    tree = RawTree.open(SAMPLES / "mosd_tabletop")
    found = tabletop.find(SAMPLES / "mosd_tabletop")
    assert {split: len(names) for split, names in found.splits.items()} == {"learn": 37, "test": 36}
    seen = np.zeros(len(CLASS_NAMES), np.int64)
    for name in sorted(tree.sizes)[::9]:
        chunk = tabletop.read(tree, name)
        assert chunk.coords[:, 2].min() > 0.4 and np.ptp(chunk.coords, axis=0).max() < 3
        classes, instances = chunk.columns["class"], chunk.columns["instances"]
        assert ((classes == 0) == (instances == -1)).all()
        height = tabletop.stand(tree, name).columns["height"]
        assert np.abs(height[classes == 0]).mean() < 0.002 and np.median(height[classes > 0]) > 0.03
        pairs = np.unique(np.stack([classes, instances], 1), axis=0)
        assert len(np.unique(pairs[:, 1])) == len(pairs), "every object has one class"
        seen += np.bincount(classes, minlength=len(seen))
    assert (seen > 1000).all()


def test_upright_undoes_a_camera():
    """A table with a block on it, seen from above at a slant: x right, y forward, z up come back."""
    rng = np.random.default_rng(3)
    table = np.c_[rng.uniform(-1, 1, (2000, 2)), rng.normal(0, 0.001, 2000)]
    block = np.c_[rng.uniform(0.2, 0.4, (500, 2)), rng.uniform(0.01, 0.3, 500)]
    world = np.concatenate([table, block])
    tilt = np.radians(35)  # the camera looks forward and down
    right, forward, down = (1, 0, 0), (0, np.cos(tilt), -np.sin(tilt)), (0, -np.sin(tilt), -np.cos(tilt))
    place = np.array([0.1, -1.5, 1.2])
    found, camera = upright((world - place) @ np.array([right, down, forward]).T)
    np.testing.assert_allclose(camera - found.mean(0), place - world.mean(0), atol=0.01)
    np.testing.assert_allclose(found[:, 2], world[:, 2], atol=0.003)
    np.testing.assert_allclose(found - found.mean(0), world - world.mean(0), atol=0.01)


def test_normals_look_at_the_camera():
    """A ball on the floor: away from its middle wherever it is seen, up on the floor."""
    rng = np.random.default_rng(0)
    camera = np.array([0.0, -1.0, 1.0])
    floor = np.c_[rng.uniform(-0.5, 0.5, (40_000, 2)), np.zeros(40_000)]
    way = rng.normal(size=(20_000, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    middle = np.array([0.0, 0.0, 0.3])
    ball = middle + 0.1 * way
    seen = np.einsum("nd,nd->n", way, camera - ball) > 0.02
    coords = np.concatenate([floor, ball[seen]])
    normals = tabletop.normals_of(coords, camera)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-5)
    assert (normals[: len(floor), 2] > 0.999).mean() > 0.99
    assert np.median(np.einsum("nd,nd->n", normals[len(floor) :], way[seen])) > 0.98


def test_upright_needs_something_to_stand_on():
    with pytest.raises(InputError, match="2 points lie on no plane"):
        upright(np.zeros((2, 3)))
    wall = np.c_[np.random.default_rng(0).uniform(-1, 1, (500, 2)), np.full(500, 2.0)]
    with pytest.raises(InputError, match="a wall"):
        upright(wall)
