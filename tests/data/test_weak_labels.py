"""Weak labels drawn at random, and the mask file: exact counts, nesting, sameness, and what is refused."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pcseg import IGNORE
from pcseg.config import DataConfig
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.hidden_labels import HiddenLabels
from pcseg.datasets.scene_folder import Scene, write_info
from pcseg.datasets.scene_part import ScenePart, training_parts, validation_parts
from pcseg.datasets.voxel_scene import VoxelScene
from pcseg.datasets.weak_draw import draw_labels
from pcseg.datasets.weak_labels import WeakLabels, describe_summary, labels_sha256, own_labels
from pcseg.datasets.weak_recipes import ListRecipe, PointsRecipe, RatioRecipe, ScenesRecipe
from pcseg.errors import InputError
from pcseg.weaken import print_table
from tests.data.grids import Grid
from tests.data.pictures import data_config, write_picture
from tests.data.scenes import town, write_scene

VOXEL = 1.0


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[Scene]:
    root = tmp_path_factory.mktemp("towns")
    return [town(root / name, count, seed=seed) for seed, (name, count) in enumerate(zip("abc", (3000, 2000, 900)))]


def voxels_by_hand(scene) -> dict[tuple, list[int]]:
    """Rows of each voxel."""
    cells: dict[tuple, list[int]] = {}
    for row, cell in enumerate(map(tuple, np.floor(scene.coords / np.float32(VOXEL)).astype(int).tolist())):
        cells.setdefault(cell, []).append(row)
    return cells


def majority(labels: np.ndarray) -> int:
    known = labels[labels >= 0]
    return int(np.bincount(known).argmax()) if len(known) else IGNORE


def counts_of(weak: WeakLabels, scene) -> list[int]:
    labels = scene.labels[weak.visible(scene)]
    assert (labels >= 0).all()
    return np.bincount(labels, minlength=len(scene.class_names)).tolist()


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.29, 1.0])
def test_a_ratio_of_the_voxels_of_each_class(scenes, ratio):
    weak = draw_labels(scenes, RatioRecipe(ratio=ratio), seed=3, voxel_size=VOXEL)
    for scene in scenes:
        cells = voxels_by_hand(scene)
        truth = {cell: majority(scene.labels[rows]) for cell, rows in cells.items()}
        there = [sum(label == index for label in truth.values()) for index in range(3)]
        expected = [max(int(round(ratio * 1000) * n // 1000), 1) for n in there]
        assert min(there) > 0 and counts_of(weak, scene) == expected
        by_row = {row: cell for cell, rows in cells.items() for row in rows}
        chosen = np.flatnonzero(weak.visible(scene)).tolist()
        assert len({by_row[row] for row in chosen}) == len(chosen), "one row a voxel"
        for row in chosen:
            rows = cells[by_row[row]]
            assert scene.labels[row] == truth[by_row[row]]
            centre = scene.coords[rows].astype(np.float64).mean(0)
            mates = [r for r in rows if scene.labels[r] == scene.labels[row]]
            nearest = min(np.square(scene.coords[r] - centre).sum() for r in mates)
            assert np.square(scene.coords[row] - centre).sum() == pytest.approx(nearest, rel=1e-4, abs=1e-9)
    entry = weak.info.scenes[0]
    assert (entry.num_voxels, entry.num_visible_voxels) == (len(voxels_by_hand(scenes[0])), sum(entry.class_counts))


def test_all_points_of_a_voxels_class_may_show_it(scenes):
    weak = draw_labels(scenes, RatioRecipe(ratio=0.05, reveal="all"), seed=3, voxel_size=VOXEL)
    single = draw_labels(scenes, RatioRecipe(ratio=0.05), seed=3, voxel_size=VOXEL)
    for scene in scenes:
        shown = weak.visible(scene)
        assert shown.sum() > single.visible(scene).sum() and not (single.visible(scene) & ~shown).any()
        for rows in voxels_by_hand(scene).values():
            if shown[rows].any():
                assert (shown[rows] == (scene.labels[rows] == majority(scene.labels[rows]))).all()


def test_voxels_of_training_carry_the_labels_that_were_drawn(scenes):
    """Whatever the other points of a voxel are: the network's voxels show exactly the classes of the mask."""
    weak = draw_labels(scenes, RatioRecipe(ratio=0.02), seed=0, voxel_size=VOXEL)
    contract = FeatureContract.fit(("height_above_ground",), scenes)
    for scene in scenes:
        hidden, whole = VoxelScene.build(weak.hide(scene), contract, VOXEL), VoxelScene.build(scene, contract, VOXEL)
        known = hidden.labels >= 0
        assert torch.bincount(hidden.labels[known], minlength=3).tolist() == counts_of(weak, scene)
        assert torch.equal(hidden.labels[known], whole.labels[known])


def test_a_ratio_of_rows(scenes):
    plain = draw_labels(scenes, RatioRecipe(ratio=0.01, stratified=False), seed=0)
    apart = draw_labels(scenes, RatioRecipe(ratio=0.01), seed=0)
    for scene in scenes:
        there = np.bincount(scene.labels[scene.labels >= 0], minlength=3)
        assert plain.visible(scene).sum() == int(there.sum()) // 100
        assert counts_of(apart, scene) == [max(int(n) // 100, 1) for n in there]
    assert plain.info.ratio_voxels is None and plain.info.scenes[0].num_voxels is None
    total = sum(scene.num_points for scene in scenes)
    assert plain.info.ratio_points == sum(int(plain.visible(s).sum()) for s in scenes) / total


def test_rows_are_drawn_evenly():
    """Over many seeds every row of a class is drawn about equally often."""
    grid = Grid((1, 40), {}, np.repeat([0, 1], 20).astype(np.int16))
    hits = np.zeros(40)
    for seed in range(400):
        hits[draw_labels([grid], RatioRecipe(ratio=0.2), seed=seed).rows["grid"]] += 1
    assert hits.sum() == 400 * 8 and hits.min() > 45 and hits.max() < 120


@pytest.mark.parametrize("voxel_size", [None, VOXEL])
def test_a_number_of_points(scenes, voxel_size):
    together = draw_labels(scenes, PointsRecipe(count=7), seed=1, voxel_size=voxel_size)
    assert together.info.class_counts == (7, 7, 7)
    each = draw_labels(scenes, PointsRecipe(count=3, per="class_and_scene"), seed=1, voxel_size=voxel_size)
    assert all(counts_of(each, scene) == [3, 3, 3] for scene in scenes)
    any_class = draw_labels(scenes, PointsRecipe(count=11, per="scene"), seed=1, voxel_size=voxel_size)
    assert all(any_class.visible(scene).sum() == 11 for scene in scenes)
    everything = draw_labels(scenes, PointsRecipe(count=10**6), seed=1)
    assert all((everything.visible(scene) == (scene.labels >= 0)).all() for scene in scenes)


def test_points_of_a_class_come_from_all_scenes_alike():
    """A class that one scene has four times as often is drawn there four times as often."""
    grids = [Grid((n,), {}, np.zeros(n, np.int16), name=str(n)) for n in (100, 400)]
    taken = [len(draw_labels(grids, PointsRecipe(count=5), seed=seed).rows["400"]) for seed in range(200)]
    assert np.mean(taken) == pytest.approx(4.0, abs=0.25)


def recipes_in_order():
    yield "ratio", [RatioRecipe(ratio=r) for r in (0.001, 0.01, 0.1)]
    yield "points", [PointsRecipe(count=n) for n in (1, 5, 50)]
    yield "points of a scene", [PointsRecipe(count=n, per="scene") for n in (1, 5, 50)]
    yield "scenes", [ScenesRecipe(count=n) for n in (1, 2, 3)]


@pytest.mark.parametrize(("name", "recipes"), recipes_in_order())
def test_fewer_labels_are_part_of_more(scenes, name, recipes):
    masks = [draw_labels(scenes, recipe, seed=2, voxel_size=VOXEL) for recipe in recipes]
    for few, more in itertools.pairwise(masks):
        assert sum(few.info.class_counts) < sum(more.info.class_counts)
        assert not any((few.visible(scene) & ~more.visible(scene)).any() for scene in scenes)


@pytest.mark.parametrize("recipe", [RatioRecipe(ratio=0.01), PointsRecipe(count=4), ScenesRecipe(count=1)])
def test_nothing_but_scenes_recipe_and_seed_matters(scenes, recipe, tmp_path):
    def draw(sources, seed=5):
        np.random.rand(7)
        return draw_labels(sources, recipe, seed=seed, voxel_size=VOXEL)

    draw(scenes).save(tmp_path / "one.npz")
    np.random.seed(1)
    draw(scenes[::-1]).save(tmp_path / "deep" / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "deep" / "two.npz").read_bytes()
    others = [draw(scenes, seed).rows for seed in range(5)]
    assert len({json.dumps({n: r.tolist() for n, r in rows.items()}) for rows in others}) > 1
    if isinstance(recipe, RatioRecipe):
        assert np.array_equal(draw(scenes[:1]).rows["a"], draw(scenes).rows["a"])


def test_scenes_that_keep_all_their_labels(scenes):
    weak = draw_labels(scenes, ScenesRecipe(ids=("c", "a")), seed=0)
    shown = {scene.name: weak.visible(scene) for scene in scenes}
    assert not shown["b"].any() and (shown["a"] == (scenes[0].labels >= 0)).all()
    assert weak.summary()["labelled_scenes"] == 2 and weak.summary(["b"])["labels"]["ground"] == 0
    with pytest.raises(InputError, match=r"no scene is named d; there are a, b, c"):
        draw_labels(scenes, ScenesRecipe(ids=("a", "d")), seed=0)
    with pytest.raises(InputError, match="4 labelled scenes are wanted, and there are 3"):
        draw_labels(scenes, ScenesRecipe(count=4), seed=0)
    for given in ({}, {"count": 1, "ids": ("a",)}):
        with pytest.raises(ValueError, match="give either count or ids"):
            ScenesRecipe(**given)


def test_lists_of_rows(scenes, tmp_path):
    (tmp_path / "a.txt").write_text("5\n3\n\n3\n2999\n")
    np.save(tmp_path / "b.npy", np.array([8, 1], np.uint32))
    np.save(tmp_path / "c.npy", np.zeros(0, np.int64))
    weak = draw_labels(scenes, ListRecipe(folder=tmp_path), seed=0)
    assert {name: rows.tolist() for name, rows in weak.rows.items()} == {"a": [3, 5, 2999], "b": [1, 8], "c": []}
    labels = np.concatenate([scenes[0].labels[[3, 5, 2999]], scenes[1].labels[[1, 8]]])
    assert weak.info.class_counts == tuple(np.bincount(labels[labels >= 0], minlength=3).tolist())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n3000\n", r"a\.txt, line 2: '3000' is no row; the scene has rows 0 to 2999"),
        ("x\n", r"a\.txt, line 1: 'x' is no row"),
        ("9" * 5000, r"a\.txt, line 1: '9{40}' is no row"),
        ("-1\n", r"a\.txt, line 1: '-1' is no row"),
        (None, r"holds no list of 'a'; give a\.txt or a\.npy"),
        (np.array([0, -1]), r"a\.npy: entry 1 is row -1"),
        (np.array([0.5]), r"a\.npy: expected \(n,\) integers, got float64"),
    ],
)
def test_lists_that_do_not_fit(scenes, tmp_path, content, message):
    if isinstance(content, str):
        (tmp_path / "a.txt").write_text(content)
    elif content is not None:
        np.save(tmp_path / "a.npy", content)
    with pytest.raises(InputError, match=message):
        draw_labels(scenes[:1], ListRecipe(folder=tmp_path), seed=0)


def test_a_mask_file_says_what_it_is(scenes, tmp_path):
    weak = draw_labels(scenes, RatioRecipe(ratio=0.01), seed=4, voxel_size=VOXEL)
    weak.save(tmp_path / "mask.npz")
    again = WeakLabels.load(tmp_path / "mask.npz")
    assert again.info == weak.info and again.sha256 == weak.sha256
    assert all(np.array_equal(again.rows[name], rows) for name, rows in weak.rows.items())
    assert [path.name for path in tmp_path.iterdir()] == ["mask.npz"]
    with np.load(tmp_path / "mask.npz", allow_pickle=False) as arrays:
        info = json.loads(arrays["info"].tobytes())
        assert arrays["rows"].dtype == np.int64 and arrays["offsets"].tolist()[0] == 0
    assert info["recipe"] == {"kind": "ratio", "ratio": 0.01, "stratified": True, "reveal": "one"}
    assert info["seed"] == 4 and info["class_names"] == ["ground", "house", "post"]
    assert [scene["num_points"] for scene in info["scenes"]] == [3000, 2000, 900]
    assert info["scenes"][1]["labels_sha256"] == labels_sha256(scenes[1].labels)
    assert sum(info["class_counts"]) / 5900 == info["ratio_points"]
    voxels = [len(voxels_by_hand(scene)) for scene in scenes]
    assert info["ratio_voxels"] == sum(info["class_counts"]) / sum(voxels)


def test_a_mask_of_other_data_is_refused(scenes, tmp_path):
    weak = draw_labels(scenes[:2], RatioRecipe(ratio=0.01), seed=4)
    weak.save(tmp_path / "mask.npz")
    weak = WeakLabels.load(tmp_path / "mask.npz")
    with pytest.raises(InputError, match=r"c: the mask file .*mask\.npz does not name it, it is of another data set"):
        weak.visible(scenes[2])
    relabelled = scenes[0].labels.copy()
    relabelled[17] = 2 if relabelled[17] != 2 else 1
    coords, names = np.asarray(scenes[0].coords), scenes[0].class_names
    for labels, rows, classes, message in (
        (relabelled, 3000, names, "has other labels than when the mask file"),
        (scenes[0].labels, 3000, ("x", "y", "z"), "has other labels than when the mask file"),
        (scenes[0].labels[:2999], 2999, names, "has 2,999 rows, and 3,000 when the mask file"),
        (None, 3000, names, "has no labels, and the mask file"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "a"
        other = write_scene(folder, coords[:rows], labels=labels, class_names=classes)
        with pytest.raises(InputError, match=message):
            weak.visible(other)


def test_files_that_are_no_masks(scenes, tmp_path):
    with pytest.raises(
        InputError, match=r"no such mask file; draw one with python -m pcseg\.weaken CONFIG RECIPE -o .*none"
    ):
        WeakLabels.load(tmp_path / "none.npz")
    path = tmp_path / "mask.npz"
    draw_labels(scenes, RatioRecipe(ratio=0.01), seed=4).save(path)
    whole = path.read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], b"{}"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is no mask file of weak labels, or a damaged one"):
            WeakLabels.load(path)
    path.write_bytes(whole)
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["rows"] = changed["rows"] + 1
    np.savez(path, **changed)
    with pytest.raises(InputError, match="its rows are not those that it was written with"):
        WeakLabels.load(path)


def test_scenes_that_no_mask_can_be_drawn_of(scenes, tmp_path):
    recipe = RatioRecipe(ratio=0.5)
    with pytest.raises(InputError, match="no scene to draw labels of"):
        draw_labels([], recipe, seed=0)
    bare = write_scene(tmp_path / "bare", np.zeros((3, 3)))
    with pytest.raises(InputError, match="bare: has no labels to draw from"):
        draw_labels([*scenes, bare], recipe, seed=0)
    other = write_scene(tmp_path / "o", np.zeros((3, 3)), labels=np.zeros(3), class_names=("x", "y"))
    with pytest.raises(InputError, match="o: has other classes than"):
        draw_labels([*scenes, other], recipe, seed=0)
    with pytest.raises(InputError, match="has the name of"):
        draw_labels([scenes[0], scenes[0]], recipe, seed=0)
    with pytest.raises(InputError, match="has 3,000 rows, and row 3000 is to be visible"):
        WeakLabels.of_rows(scenes[:1], {"a": np.array([3000])}, recipe, seed=0)
    empty = Grid((2, 2), {}, np.full(4, IGNORE, np.int16))
    assert draw_labels([empty], recipe, seed=0).rows["grid"].tolist() == []


def test_hidden_labels_are_gone(tmp_path):
    labels = np.array([0, 1, 1, 0, -1], np.int16)
    ids = np.array([3, 4, 4, 5, 6], np.uint32)
    scene = write_scene(tmp_path / "s", np.zeros((5, 3)), labels=labels, class_names=("a", "b"), instances=ids)
    hidden = HiddenLabels(scene, np.array([1, 3]))
    assert hidden.labels.tolist() == [-1, 1, -1, 0, -1] and hidden.labels.dtype == np.int16
    assert hidden.column("instances").tolist() == [-1, 4, -1, 5, -1]
    part = ScenePart(hidden, np.array([2, 3]))
    assert part.labels.tolist() == [-1, 0] and part.visible.tolist() == [False, True, False, True, False]
    assert ScenePart(scene).visible is None


def test_training_parts_hide_and_validation_parts_do_not(tmp_path):
    for seed, name in enumerate("ab"):
        write_picture(tmp_path, name, seed=seed)
    data = data_config(tmp_path, "images", val_scenes=("*",))
    weak = draw_labels([part.scene for part in training_parts(data)], PointsRecipe(count=3), seed=0)
    weak.save(tmp_path / "mask.npz")
    few = data.model_copy(update={"weak_labels": tmp_path / "mask.npz"})
    shown = np.concatenate([part.labels for part in training_parts(few)])
    assert np.bincount(shown + 1).tolist() == [2 * 768 - 6, 3, 3]
    for one, other in zip(validation_parts(few), validation_parts(data)):
        assert np.array_equal(one.labels, other.labels) and (one.labels >= 0).sum() > 100
    names = [part.scene.name for part in training_parts(few)]
    assert names == ["a", "b"] and Path(training_parts(few)[0].scene.path).name == "a.png"
    none = WeakLabels.of_rows(
        [part.scene for part in training_parts(data)], {n: np.zeros(0) for n in "ab"}, PointsRecipe(count=1), seed=0
    )
    none.save(tmp_path / "none.npz")
    with pytest.raises(InputError, match="shows no label of the training scenes"):
        training_parts(data.model_copy(update={"weak_labels": tmp_path / "none.npz"}))


def test_a_code_that_means_another_class_in_a_scene_is_refused(tmp_path):
    info = write_scene(
        tmp_path / "a", np.zeros((3, 3)), labels=np.array([0, 1, -1]), class_names=("ground", "house")
    ).info
    table = {"codes": {"2": "house", "3": "house", "6": "ground", "9": "ignore"}, "default": None}
    write_info(tmp_path / "a", info.model_copy(update={"recipe": {"label_map": table}, "class_codes": (6, 2)}))

    def config(label_map) -> DataConfig:
        return DataConfig(root=tmp_path, train_scenes=("a",), class_names=("ground", "house"), label_map=label_map)

    for fitting in ({6: 0, 2: 1}, {6: 0, 3: 1, 2: -1}, {6: 0, 2: 1, 9: 0}, {40: 0, 41: 1}):
        assert len(training_parts(config(fitting))) == 1
    with pytest.raises(InputError, match=r"a: was prepared with the code 2 for 'house', and data.label_map says 'gro"):
        training_parts(config({2: 0, 6: 1}))
    write_info(tmp_path / "a", info.model_copy(update={"class_codes": (6, 2)}))  # by hand
    with pytest.raises(InputError, match="was prepared with the code 6 for 'ground'"):
        training_parts(config({2: 0, 6: 1}))
    write_info(tmp_path / "a", info)
    assert len(training_parts(config({2: 0, 6: 1}))) == 1


def test_scenes_that_are_trained_on_and_scored_are_told_of(tmp_path, capsys):
    for name in "abcde":
        write_picture(tmp_path, name)
    told = {
        ("a",): "",
        ("a", "b"): "in train_scenes and in val_scenes: b; ",
        ("*",): "val_scenes: b, c, d and 1 more; ",
    }
    for val_scenes, line in told.items():
        training_parts(data_config(tmp_path, "images", train_scenes=("[b-e]",), val_scenes=val_scenes))
        err = capsys.readouterr().err
        assert line in err and err.count("\n") == bool(line)


def test_few_labels_of_the_data_themselves_are_told_of():
    few, none, all_of = np.array([0, 1, IGNORE, IGNORE, IGNORE]), np.full(3, IGNORE), np.array([0, 1, 1])
    told = own_labels(("a", "b"), [few, none])
    assert told is not None and told["labels"] == {"a": 1, "b": 1} and told["ratio_points"] == 2 / 8
    assert told["labelled_scenes"] == 1 and told["labels_a_scene"] == {"least": 0, "median": 1.0, "most": 2}
    line = "labels of their own: 2 labels, 25.0000% of all rows, 0 to 2 a scene (median 1)"
    assert describe_summary(told) == line
    assert own_labels(("a", "b"), [all_of, few]) is None


def test_a_large_labelled_set_is_not_read_to_its_end():
    def scenes():
        yield from [np.zeros(4, np.int16)] * 60
        raise AssertionError("read on")

    assert own_labels(("a",), scenes()) is None


@pytest.mark.parametrize("width", [80, 200])
def test_tables_of_many_classes_can_be_read(monkeypatch, capsys, width):
    names = tuple(f"kind_of_thing_{number}" for number in range(20))
    grid = Grid((1, 2000), {}, np.arange(2000).astype(np.int16) % 20, class_names=names, name="Area_1_office_1")
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(draw_labels([grid], RatioRecipe(ratio=0.01), seed=0))
    shown = capsys.readouterr().out
    assert all(name in shown for name in names) and "1.0000%" in shown and "Area_1_office_1" in shown
    assert max(map(len, shown.splitlines())) <= width
