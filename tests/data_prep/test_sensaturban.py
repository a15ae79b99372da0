"""SensatUrban as it is released: what scenes hold, and what is skipped by name."""

import tracemalloc

import numpy as np
import pytest

from data_prep.sensaturban import main
from pcseg.datasets.scene_folder import Scene, find_scenes
from pcseg.datasets.sensaturban import CLASS_NAMES, TEST, VALIDATION
from pcseg.datasets.voxel_count import count_voxels
from tests.data_prep.releases import content, two_steps, zipped
from tests.data_prep.sensaturban_release import BLOCKS, block, write_block, write_release
from tests.io.scans import left_behind


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "raw")


def test_a_scene_holds_its_block(release, tmp_path, command):
    code, out, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 0, err
    assert "sensaturban (1): 6 prepared; 4,800 points" in out
    assert "cambridge_block_0: a tiny block" in out and "val: birmingham_block_5, cambridge_block_10 not here" in out
    scene, table = Scene.open(tmp_path / "out/birmingham_block_1"), block(1)
    points = np.stack([table[axis] for axis in "xyz"], 1).astype(np.float64)
    np.testing.assert_allclose(scene.coords + scene.origin, points, atol=1e-5)
    np.testing.assert_array_equal(scene.column("color"), np.stack([table[c] for c in ("red", "green", "blue")], 1))
    np.testing.assert_array_equal(scene.labels, table["class"])
    assert scene.class_names == CLASS_NAMES and len(CLASS_NAMES) == 13
    cells = np.unique(np.floor(np.asarray(scene.coords) / np.float32(0.2)), axis=0)
    assert scene.info.notes[-1].startswith(f"{len(cells):,} voxels of 0.2 m")
    hidden = Scene.open(tmp_path / "out/cambridge_block_15")
    assert hidden.labels is None and hidden.num_points == 800
    assert [s.name for s in find_scenes(tmp_path / "out", ["@val"])] == ["birmingham_block_1", "cambridge_block_7"]
    assert [s.name for s in find_scenes(tmp_path / "out", ["@train"])] == ["birmingham_block_0", "cambridge_block_0"]
    assert [s.name for s in find_scenes(tmp_path / "out", ["@test"])] == ["birmingham_block_2", "cambridge_block_15"]


def test_the_lists():
    assert len(VALIDATION) == 4 and len(TEST) == 6 and not set(VALIDATION) & set(TEST)


def test_zip_and_folder_and_two_workers_give_the_same_bytes(release, tmp_path, command):
    archive = zipped(release, tmp_path / "SensatUrban.zip")
    for name, arguments in (("folder", [release]), ("zip", [archive]), ("zip_two", [archive, "--workers", 2])):
        code, _, err = command(main, ["--raw", *arguments, "--out", tmp_path / name])
        assert code == 0, err
    first = content(tmp_path / "folder")
    assert content(tmp_path / "zip") == first and content(tmp_path / "zip_two") == first
    assert command(main, ["--out", tmp_path / "zip", "--verify"])[0] == 0


def _without_class(table):
    fields = [(n, table.dtype[n].str) for n in table.dtype.names if n != "class"]
    kept = np.zeros(len(table), fields)
    for name, _ in fields:
        kept[name] = table[name]
    return kept


def _beyond(table):
    table["class"][5] = 13
    return table


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: write_block(f, _without_class(block(0))),
            "is a block of the train list and has no property 'class'",
        ),
        (lambda f: write_block(f, _beyond(block(0))), "13"),
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), "promises 800 vertices, its"),
        (lambda f: f.write_bytes(b"PK\3\4 no ply"), "is no PLY file"),
    ],
)
def test_a_damaged_block_is_skipped_by_file(release, tmp_path, command, damage, message):
    damage(release / "train/birmingham_block_0.ply")
    archive = zipped(release, tmp_path / "a.zip")
    for raw in (release, archive):
        code, out, err = command(main, ["--raw", raw, "--out", tmp_path / f"out_{raw.name}"])
        assert code == 3 and "5 prepared, 1 skipped" in out
        assert err.startswith("skipped birmingham_block_0: ") and message in err and "birmingham_block_0.ply" in err
        assert str(raw) in err and ".copy-" not in err
        assert not [name for name in left_behind(tmp_path / f"out_{raw.name}") if name.startswith(".")]
    code, out, err = command(main, ["--raw", archive, "--check"])
    assert code == 3 and message in err


def test_another_byte_order_gives_the_same_scene(release, tmp_path, command):
    assert command(main, ["--raw", release, "--out", tmp_path / "little", "--quiet"])[0] == 0
    write_block(release / "train/birmingham_block_0.ply", block(0), order=">")
    assert command(main, ["--raw", release, "--out", tmp_path / "big", "--quiet"])[0] == 0
    little, big = (Scene.open(tmp_path / name / "birmingham_block_0") for name in ("little", "big"))
    assert little.info.array_sha256 == big.info.array_sha256 and little.info.source != big.info.source


def test_what_is_no_release(release, tmp_path, command):
    (release / "copy").mkdir()
    write_block(release / "copy" / "cambridge_block_7.ply", block(3))
    code, _, err = command(main, ["--raw", release, "--out", tmp_path / "out"])
    assert code == 2 and "cambridge_block_7 is there twice" in err
    (tmp_path / "none").mkdir()
    code, _, err = command(main, ["--raw", tmp_path / "none", "--out", tmp_path / "out"])
    assert code == 2 and "holds no SensatUrban block" in err


def test_voxels_are_counted_in_parts():
    rng = np.random.default_rng(0)
    coords = (rng.normal(size=(5000, 3)) * 3).astype(np.float32)
    cells, counts = np.unique(np.floor(coords / np.float32(0.2)), axis=0, return_counts=True)
    for size in (5000, 700, 1):
        parts = [coords[i : i + size] for i in range(0, 5000, size)]
        found = count_voxels(parts, 0.2)
        assert (found.num_voxels, found.num_points, found.most) == (len(cells), 5000, counts.max())
    assert count_voxels([], 0.2).num_voxels == 0
    with pytest.raises(ValueError, match="from the origin"):
        count_voxels([np.full((1, 3), 1e9, np.float32)], 0.2)
    with pytest.raises(ValueError, match="from the origin"):
        count_voxels([np.full((1, 3), -1e30, np.float32)], 0.2)


def test_counting_voxels_needs_little_more_than_the_voxels():
    """Points that share no voxel are the worst there is: 12 bytes each, and half as much waiting to be merged."""

    def parts():
        rng = np.random.default_rng(0)
        for _ in range(30):
            yield rng.random((200_000, 3), np.float32) * np.float32(2000)

    tracemalloc.start()
    found = count_voxels(parts(), 0.2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.num_voxels > 5_900_000 and peak < 34 * found.num_voxels


@pytest.mark.parametrize("network", ["kpconv", "point_transformer"])
def test_the_shipped_configs_train_on_it(release, tmp_path, command, network):
    assert command(main, ["--raw", release, "--out", tmp_path / "out", "--quiet"])[0] == 0
    found = two_steps(f"sensaturban/{network}.py", tmp_path / "out", tmp_path / "run")
    assert list(found["iou"]) == list(CLASS_NAMES) and found["num_points"] > 0 and len(BLOCKS) == 6
