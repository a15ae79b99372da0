"""Training on few labels: hidden ones change nothing, masks and files of one's own, the command."""

import json
from pathlib import Path

import laspy
import numpy as np
import pytest
import torch
from PIL import Image

from data_prep import las, ply
from pcseg import evaluate, predict, weaken
from pcseg.checkpoint import load_checkpoint
from pcseg.config import DeepLabConfig, StripConfig, ViTConfig
from pcseg.config_file import write_config
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.scene_part import open_sources, training_parts
from pcseg.datasets.weak_draw import draw_labels
from pcseg.datasets.weak_labels import WeakLabels
from pcseg.datasets.weak_recipes import PointsRecipe
from pcseg.errors import InputError
from pcseg.io.images import write_mask
from pcseg.io.ply import write_ply
from pcseg.run_log import RunLog
from pcseg.train import train
from tests.train.toy import CLASSES, toy_cloud, toy_config, write_scenes
from tests.train.toy_images import CODES, image_config, volume_config, write_images, write_volumes

_KNOWN = ((2, 40), (6, 25))  # a code, and at how many points the held-out file says it
VIT = ViTConfig(hidden=32, layers=1, heads=2, patch_size=2, image_size=24)


def with_mask(config, path: Path):
    return config.model_copy(update={"data": config.data.model_copy(update={"weak_labels": path})})


@pytest.fixture
def losses(monkeypatch) -> list[dict[str, float]]:
    """The loss terms of every step that is made."""
    seen: list[dict[str, float]] = []
    monkeypatch.setattr(RunLog, "step", lambda self, step, loss, terms, *rest: seen.append({"all": loss, **terms}))
    return seen


def garble(config) -> None:
    """Replace every hidden label of the training data by another one, wherever it is kept."""
    rng = np.random.default_rng(0)
    for part in training_parts(config.data):
        hidden, path = ~part.visible, part.scene.path
        if config.data.kind == "scenes":
            labels = np.load(path / "labels.npy")
            # Out of range as well: nobody may look at them.
            labels[hidden] = rng.integers(-1, 90, int(hidden.sum()))
            np.save(path / "labels.npy", labels)
            info = json.loads((path / "scene.json").read_text())
            info["class_histogram"] = {name: 10**6 + index for index, name in enumerate(CLASSES)}
            (path / "scene.json").write_text(json.dumps(info))
            continue
        codes = np.array([*CODES, 9], np.uint8)
        if config.data.kind == "images":
            file = config.data.root / "masks" / f"{part.scene.name}.png"
            mask = np.array(Image.open(file))
            mask.reshape(-1)[hidden] = codes[rng.integers(0, 3, int(hidden.sum()))]
            Image.fromarray(mask).save(file)
        else:
            import nibabel

            file = config.data.root / "labels" / f"{part.scene.name}.nii.gz"
            image = nibabel.load(file)
            # The stored axes run against ours in x and y; what is hidden is told by the rows.
            values = np.asarray(image.dataobj)[::-1, ::-1, :].transpose(2, 1, 0).copy()
            values.reshape(-1)[hidden] = codes[rng.integers(0, 3, int(hidden.sum()))]
            stored = values.transpose(2, 1, 0)[::-1, ::-1, :]
            nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(stored), image.affine), file)


KINDS = {
    "scenes": (write_scenes, toy_config, {}),
    "images as points": (write_images, image_config, {}),
    "images as windows": (write_images, image_config, {"model": VIT}),
    "volumes": (write_volumes, volume_config, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_labels_change_no_loss(kind, tmp_path, losses):
    write, make, change = KINDS[kind]
    root = write(tmp_path / "data")
    loss = {"lovasz": 0.5, "class_weights": "inverse"}
    config = make(root, steps=2, **change).model_copy(update={"steps": 2})
    config = type(config).model_validate(config.model_dump() | {"loss": loss})
    config = config.model_copy(update={"data": config.data.model_copy(update={"val_scenes": ()})})
    sources = open_sources(config.data, config.data.train_scenes)
    voxel_size = config.model.voxel_size if kind == "scenes" else None
    weak = draw_labels(sources, PointsRecipe(count=9), seed=0, voxel_size=voxel_size)
    weak.save(tmp_path / "mask.npz")
    config = with_mask(config, tmp_path / "mask.npz")
    train(config, tmp_path / "one")
    clean = {source.name: np.array(source.labels) for source in sources}
    garble(config)
    dirty = open_sources(config.data, config.data.train_scenes)
    for source in dirty:
        shown, changed = weak.rows[source.name], source.labels != clean[source.name]
        assert not changed[shown].any() and changed.mean() > 0.3, "only what is hidden was garbled"
    with pytest.raises(InputError, match="has other labels than when the mask file"):
        train(config, tmp_path / "refused")
    garbled = WeakLabels.of_rows(dirty, weak.rows, weak.info.recipe, seed=0, voxel_size=voxel_size)
    garbled.save(tmp_path / "mask.npz")
    train(config, tmp_path / "two")
    assert len(losses) == 4 and losses[:2] == losses[2:] and losses[0]["all"] > 0
    one, other = (load_checkpoint(tmp_path / name / "checkpoints/last.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    assert one.card.feature_contract == other.card.feature_contract
    assert one.card.config.with_caps(None) == other.card.config.with_caps(None)


def test_visible_labels_do_change_the_loss(tmp_path, losses):
    """The counterpart: what the test above compares depends on the labels that are seen."""
    config = toy_config(write_scenes(tmp_path / "data"), steps=2)
    sources = open_sources(config.data, config.data.train_scenes)
    for seed in (0, 1):
        draw_labels(sources, PointsRecipe(count=9), seed=seed, voxel_size=0.5).save(tmp_path / f"{seed}.npz")
        train(with_mask(config, tmp_path / f"{seed}.npz"), tmp_path / str(seed))
    assert losses[:2] != losses[2:]


def test_results_say_what_was_seen(scenes, tmp_path, command):
    config = toy_config(scenes)
    write_config(config, tmp_path / "config.yaml")
    mask = tmp_path / "weak" / "mask.npz"
    code, out, err = command(weaken.main, [tmp_path / "config.yaml", "points", "--count", 20, "--seed", 3, "-o", mask])
    assert (code, err) == (0, "") and "train_a" in out and "40 labels" in out and "points (count 20" in out
    weak = WeakLabels.load(mask)
    assert weak.info.class_counts == (20, 20) and weak.info.seed == 3 and weak.info.voxel_size == 0.5
    run = tmp_path / "run"
    train(with_mask(config, mask), run)
    card = load_checkpoint(run).card
    assert card.weak_labels == weak.summary() and card.config.data.weak_labels == mask
    assert json.loads((run / "metrics.json").read_text())["weak_labels"] == weak.summary()
    mask.rename(tmp_path / "gone.npz")  # scoring needs no mask
    code, out, _ = command(evaluate.main, [run])
    assert code == 0 and "40 labels" in " ".join(out.split())
    assert json.loads((run / "metrics.json").read_text())["weak_labels"]["labels"] == {"flat": 20, "tall": 20}


def test_a_run_does_not_go_on_with_other_labels(scenes, tmp_path, monkeypatch):
    config = with_mask(toy_config(scenes, steps=8, save_every=2), tmp_path / "mask.npz")
    sources = open_sources(config.data, config.data.train_scenes)
    draw_labels(sources, PointsRecipe(count=9), seed=0).save(tmp_path / "mask.npz")
    from pcseg.trainer import Trainer

    steps = []

    def stop(self, *arguments, _original=Trainer._optimize):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return _original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimize", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    draw_labels(sources, PointsRecipe(count=9), seed=1).save(tmp_path / "mask.npz")
    with pytest.raises(InputError, match="holds a run that saw other labels"):
        train(config, tmp_path / "run")
    draw_labels(sources, PointsRecipe(count=9), seed=0).save(tmp_path / "mask.npz")
    train(config, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").card.finished


def test_the_command_leaves_what_is_there(scenes, tmp_path, command):
    write_config(toy_config(scenes), tmp_path / "config.yaml")
    mask = tmp_path / "mask.npz"

    def weak(*arguments):
        return command(weaken.main, [tmp_path / "config.yaml", *arguments, "-o", mask])

    assert weak("ratio", "--ratio", "0.01")[0] == 0
    before = mask.read_bytes()
    code, out, _ = weak("ratio", "--ratio", "0.01")
    assert code == 0 and "was there already" in out and mask.read_bytes() == before
    code, _, err = weak("ratio", "--ratio", "0.02")
    assert code == 2 and "is a mask of another recipe: ratio (ratio 0.01" in err and mask.read_bytes() == before
    code, _, err = weak("ratio", "--ratio", "0.01", "--scenes", "val_a")
    assert code == 2 and "is a mask of other data" in err
    assert weak("ratio", "--ratio", "0.02", "--overwrite")[0] == 0 and mask.read_bytes() != before
    assert weak("ratio", "--ratio", "0.02", "--voxel-size", "0", "--overwrite")[0] == 0
    assert WeakLabels.load(mask).info.voxel_size is None


def test_the_command_replaces_nothing_but_masks(scenes, tmp_path, command, monkeypatch):
    write_config(toy_config(scenes), tmp_path / "config.yaml")
    monkeypatch.setattr(weaken, "_drawn", None)  # all of this is said before labels are drawn
    scan = tmp_path / "one.laz"
    scan.write_bytes(b"LASF and points")
    (tmp_path / "file").touch()
    told = {
        (scan, "--overwrite"): "is no mask file of weak labels, or a damaged one, and stays",
        (scan,): "is no mask file of weak labels",
        (tmp_path, "--overwrite"): f"{tmp_path}: is a folder; name a file in it: -o {tmp_path}/weak.npz",
        (Path("/proc/x.npz"),): "/proc/x.npz: ",
        (tmp_path / "file" / "x.npz",): "x.npz: Not a directory",
    }
    for (out, *more), message in told.items():
        code, _, err = command(weaken.main, [tmp_path / "config.yaml", "points", "--count", 5, "-o", out, *more])
        assert code == 2 and message in err and err.count("\n") == 1, err
    assert scan.read_bytes() == b"LASF and points"
    with pytest.raises(InputError, match="is a folder; name the mask file in it"):
        WeakLabels.load(tmp_path)


def test_every_recipe_is_a_command(scenes, pictures, tmp_path, command):
    write_config(toy_config(scenes), tmp_path / "scenes.yaml")
    write_config(image_config(pictures), tmp_path / "images.yaml")
    (tmp_path / "names.txt").write_text("train_b\n\n")
    for name in ("train_a", "train_b"):
        (tmp_path / f"{name}.txt").write_text("1\n2\n3\n")
    recipes = {
        "ratio": ["ratio", "--ratio", "0.1", "--no-stratified"],
        "points": ["points", "--count", 3, "--per", "scene"],
        "clicks": ["clicks", "--radius", 1],
        "scribbles": ["scribbles", "--share", "0.5", "--radius", 1],
        "blocks": ["blocks", "--ratio", "0.1", "--size", 4],
        "scenes": ["scenes", "--ids", "train_a"],
        "named": ["scenes", "--ids", tmp_path / "names.txt"],
        "counted": ["scenes", "--count", 1],
        "list": ["list", "--folder", tmp_path],
    }
    for name, arguments in recipes.items():
        for kind in ("scenes", "images"):
            mask = tmp_path / f"{name}_{kind}.npz"
            code, out, err = command(weaken.main, [tmp_path / f"{kind}.yaml", *arguments, "-o", mask])
            assert code == 0, err
            weak = WeakLabels.load(mask)
            assert f"{mask}: {weak.info.recipe.kind}" in out and sum(weak.info.class_counts) > 0
    assert len(WeakLabels.load(tmp_path / "named_scenes.npz").rows["train_a"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the second argument is a recipe, one of ratio, points, clicks, scribbles, blocks, scenes, list"),
        (["dots"], "got 'dots'"),
        (["ratio"], "--ratio"),
        (["ratio", "--ratio", "0"], "greater than 0"),
        (["ratio", "--ratio", "1.5"], "less than or equal to 1"),
        (["ratio", "--ratio", "0.1", "--seed", "-1"], "--seed: must be 0 or more"),
        (["ratio", "--ratio", "0.1", "--voxel-size", "-1"], "--voxel-size: must be 0 or more"),
        (["scenes"], "give either count or ids"),
        (["clicks", "--voxel-size", "0"], "say with --radius how near"),
        (["blocks", "--ratio", "0.1", "--size", "inf"], "should be a finite number"),
        (["clicks", "--radius", "nan"], "should be a finite number"),
        (["clicks", "--radius", "1e-9"], "train_a: the radius 1e-09 is too small for coordinates up to"),
        (["scribbles", "--radius", "1e-9"], "the radius 1e-09 is too small"),
        (["ratio", "--ratio", "0.1", "--voxel-size", "1e-9"], "train_a: the voxel size 1e-09 is too small"),
        (["clicks", "--radius", "1", "--voxel-size", "1e-44"], "the voxel size 1e-44 is too small"),
        (["clicks", "--min-rows", "100000"], "no object has the 100000 rows of --min-rows"),
        (["list", "--folder", "nowhere"], "nowhere: holds no list of 'train_a'"),
        (["points", "--count", "2", "--scenes", "none"], "no scene matches 'none'"),
    ],
)
def test_what_the_command_refuses(scenes, tmp_path, command, arguments, message):
    write_config(toy_config(scenes), tmp_path / "config.yaml")
    code, _, err = command(weaken.main, [tmp_path / "config.yaml", *arguments, "-o", tmp_path / "mask.npz"])
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "mask.npz").exists()


def test_a_class_that_nobody_has_is_told(tmp_path, command):
    root = write_scenes(tmp_path / "data")
    for name in ("train_a", "train_b"):
        labels = np.load(root / name / "labels.npy")
        np.save(root / name / "labels.npy", np.where(labels == 1, -1, labels).astype(np.int16))
    write_config(toy_config(root), tmp_path / "config.yaml")
    arguments = [tmp_path / "config.yaml", "points", "--count", 5, "-o", tmp_path / "mask.npz"]
    code, _, err = command(weaken.main, arguments)
    assert code == 0 and err == "no visible label of the class tall\n"


def test_blocks_far_beyond_the_ratio_are_told(scenes, tmp_path, command):
    write_config(toy_config(scenes), tmp_path / "config.yaml")
    arguments = [tmp_path / "config.yaml", "blocks", "--ratio", "0.01", "-o", tmp_path / "mask.npz", "--overwrite"]
    code, _, err = command(weaken.main, [*arguments, "--size", "1e9"])
    assert code == 0 and "the blocks show 95.0% of all rows, and --ratio is 1.0%" in err and err.count("\n") == 1
    code, _, err = command(weaken.main, [*arguments, "--size", "0.2"])
    assert code == 0 and "blocks" not in err


def test_a_mask_without_any_label_is_not_written(scenes, tmp_path, command):
    write_config(toy_config(scenes), tmp_path / "config.yaml")
    for name in ("train_a", "train_b"):
        (tmp_path / f"{name}.txt").write_text("")
    arguments = [tmp_path / "config.yaml", "list", "--folder", tmp_path, "-o", tmp_path / "mask.npz"]
    code, _, err = command(weaken.main, arguments)
    assert code == 2 and "list: shows no label of" in err and "name labelled rows in the files in" in err
    assert err.count("\n") == 1 and not (tmp_path / "mask.npz").exists()


def test_strokes_that_show_too_much_are_told(scenes, tmp_path, command):
    """With the default radius the toy's plane and wall are whole; a radius below their density leaves only pieces."""
    write_config(toy_config(scenes), tmp_path / "config.yaml")
    arguments = [tmp_path / "config.yaml", "scribbles", "-o", tmp_path / "mask.npz", "--overwrite"]
    code, out, err = command(weaken.main, arguments)
    assert (code, err) == (0, "") and "radius 2.5" in out
    assert "% of all rows" in out and "% of all voxels" in out
    code, _, err = command(weaken.main, [*arguments, "--radius", "0.05"])
    share = WeakLabels.load(tmp_path / "mask.npz").info.ratio_points
    assert code == 0 and share > 0.1 and f"the strokes show {share:.1%} of all rows, many objects are small" in err


def test_labels_in_the_strip_are_told(scenes, tmp_path, capsys):
    config = toy_config(scenes, steps=1)
    sources = open_sources(config.data, config.data.train_scenes)
    weak = draw_labels(sources, PointsRecipe(count=50), seed=0)
    weak.save(tmp_path / "mask.npz")
    config = with_mask(config, tmp_path / "mask.npz")
    strip = StripConfig(fraction=0.3, margin=1.0)
    config = config.model_copy(update={"data": config.data.model_copy(update={"strip": strip})})
    lost = 0
    for source in sources:
        x, rows = np.asarray(source.coords)[:, 0], weak.rows[source.name]
        lost += int((x[rows] >= np.quantile(x, 0.7) - 1.0).sum())
    assert 0 < lost < 100
    train(config, tmp_path / "run")
    assert f"{lost} of them lie in the strip held out or beside it" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["weak_labels"]["lost"] == lost


@pytest.mark.parametrize("suffix", ["las", "laz", "ply"])
def test_files_of_ones_own_with_few_labelled_points(tmp_path, suffix, command):
    """A code means "unlabelled": 60 points of the training file carry another one; the other file is scored in full."""
    rng = np.random.default_rng(0)
    for seed, name in enumerate(("train_a", "val_a")):
        coords, labels = toy_cloud(seed, 1500)
        codes = np.where(labels == 1, 6, np.where(labels == 0, 2, 0)).astype(np.uint8)
        if name == "train_a":
            hidden = np.ones(len(codes), bool)
            for code in (2, 6):
                hidden[rng.choice(np.flatnonzero(codes == code), 30, replace=False)] = False
            codes[hidden] = 0
        _write_scan(tmp_path / f"{name}.{suffix}", coords, codes)
    scans = [tmp_path / f"{name}.{suffix}" for name in ("train_a", "val_a")]
    column = ["--label-column", "classification"] if suffix == "ply" else []
    arguments = [*scans, "--out", tmp_path / "data", "--label-map", "2=flat", "6=tall", "0=ignore", *column]
    arguments = [str(argument) for argument in (*arguments, "--features", "height_above_ground")]
    _prepare(ply if suffix == "ply" else las, arguments)
    assert np.bincount(np.load(tmp_path / "data/train_a/labels.npy") + 1).tolist() == [1440, 30, 30]
    config = toy_config(tmp_path / "data", steps=40, optim={"lr": 0.01})
    train(config, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    seen = metrics["weak_labels"]
    assert metrics["miou"] > 0.8 and seen["recipe"] == {"kind": "own"}
    assert seen["labels"] == {"flat": 30, "tall": 30} and seen["ratio_points"] == 60 / 1500
    code, out, _ = command(evaluate.main, [tmp_path / "run", "--protocol", "full/votes=1/scene"])
    assert "trained on labels of their own: 60 labels, 4.0000% of all rows" in " ".join(out.split())
    scored = json.loads((tmp_path / "run" / "metrics.json").read_text())["num_points"]
    labels = Scene.open(tmp_path / "data" / "val_a").labels
    assert code == 0 and labels is not None and scored == int((labels >= 0).sum()) < 1500


def test_a_held_out_file_with_few_labelled_points(tmp_path, command):
    """Scored at its labelled points and nowhere else: as many, and as right, as the predicted file says of them."""
    rng = np.random.default_rng(0)
    for seed, name in enumerate(("train_a", "val_a")):
        coords, labels = toy_cloud(seed, 1500)
        codes = np.where(labels == 1, 6, np.where(labels == 0, 2, 0)).astype(np.uint8)
        if name == "val_a":
            rows = np.concatenate([rng.choice(np.flatnonzero(codes == code), n, replace=False) for code, n in _KNOWN])
            codes = np.where(np.isin(np.arange(len(codes)), rows), codes, 0).astype(np.uint8)
        _write_scan(tmp_path / f"{name}.las", coords, codes)
    arguments = [str(tmp_path / "train_a.las"), str(tmp_path / "val_a.las"), "--out", str(tmp_path / "data")]
    _prepare(las, [*arguments, "--label-map", "2=flat", "6=tall", "0=ignore", "--features", "height_above_ground"])
    train(toy_config(tmp_path / "data", steps=40, optim={"lr": 0.01}), tmp_path / "run")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert 0 < metrics["num_points"] <= sum(n for _, n in _KNOWN)  # a voxel has one label
    code, _, _ = command(evaluate.main, [tmp_path / "run", "--protocol", "full/votes=1/scene"])
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert code == 0 and metrics["num_points"] == sum(n for _, n in _KNOWN)
    scan = tmp_path / "val_a.las"
    code, _, err = command(predict.main, [tmp_path / "run", scan, "-o", tmp_path / "out.las", "--no-pictures"])
    assert code == 0, err
    found = np.asarray(laspy.read(tmp_path / "out.las").pred_class)[rows]
    truth = np.asarray(laspy.read(scan).classification)[rows] == 6
    assert 0 < found.mean() < 1
    assert metrics["oa"] == pytest.approx(float((found == truth).mean()), abs=1e-6)
    for index, name in enumerate(CLASSES):
        either, both = (found == index) | (truth == index), (found == index) & (truth == index)
        assert metrics["iou"][name] == pytest.approx(float(both.sum() / either.sum()), abs=1e-6)


def _prepare(module, arguments: list[str]) -> None:
    import sys
    from unittest import mock

    with mock.patch.object(sys, "argv", ["prepare", *arguments]):
        module.main()


def _write_scan(path: Path, coords: np.ndarray, codes: np.ndarray) -> None:
    if path.suffix == ".ply":
        columns = dict(zip("xyz", coords.T)) | {"classification": codes}
        types = {name: values.dtype for name, values in columns.items()}
        write_ply(path, types, len(coords), [columns])
        return
    scan = laspy.create(point_format=6, file_version="1.4")
    scan.header.offsets, scan.header.scales = np.zeros(3), np.full(3, 0.001)
    scan.x, scan.y, scan.z = coords.T.astype(np.float64)
    scan.classification = codes
    scan.write(path)


@pytest.mark.parametrize("model", [None, VIT, DeepLabConfig(backbone="mobilenet_v2", decoder_channels=16)])
def test_sparse_masks_of_ones_own(tmp_path, model):
    """Index PNGs whose void code is ignored: 40 pixels a class in the training images, all of the other one."""
    root = write_images(tmp_path / "data")
    rng = np.random.default_rng(0)
    for name in ("train_a", "train_b"):
        file = root / "masks" / f"{name}.png"
        codes = np.array(Image.open(file))
        sparse = np.full(codes.shape, 255, np.uint8)
        for code in CODES:
            rows = rng.choice(np.flatnonzero(codes == code), 40, replace=False)
            sparse.reshape(-1)[rows] = code
        if name == "train_a":
            Image.fromarray(sparse).save(file)
        else:
            write_mask(file, sparse)  # with a palette
    config = image_config(root, steps=60 if model is None else 2, **({} if model is None else {"model": model}))
    labels = config.data.label_map | {255: -1}
    config = config.model_copy(update={"data": config.data.model_copy(update={"label_map": labels})})
    parts = training_parts(config.data)
    assert [np.bincount(part.labels + 1).tolist()[1:] for part in parts] == [[40, 40]] * 2
    train(config, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    whole = np.array(Image.open(root / "masks" / "val_a.png"))
    assert metrics["num_points"] == int((whole != 9).sum())
    if model is None:
        assert metrics["miou"] > 0.6
