"""``python -m pcseg.features``: stored features are the network's own, and a head learns from them."""

import numpy as np
import pytest
import torch
from torch import nn

from pcseg import features
from pcseg.config import CropConfig, DataConfig, HeadConfig, TrainConfig
from pcseg.config_file import write_config
from pcseg.datasets.scene_folder import Scene, find_scenes
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError
from pcseg.inference import Protocol
from pcseg.inference import features as read_features
from pcseg.predictor import Predictor
from pcseg.train import train
from tests.train.toy import CLASSES, toy_config, write_scenes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A few steps of a network, and its scenes."""
    root = tmp_path_factory.mktemp("features")
    scenes = write_scenes(root / "scenes")
    train(toy_config(scenes), root / "run", device="cpu")
    return root


def store(run, out, model="run", *options):
    features.main([str(run / model), str(run / "scenes"), "-o", str(out), "--device", "cpu", *options])
    return find_scenes(out)


def test_stored_rows_are_what_the_last_layer_reads(run, tmp_path):
    scenes = store(run, tmp_path)
    assert [scene.name for scene in scenes] == ["train_a", "train_b", "val_a"]
    predictor = Predictor.load(run / "run", "cpu")
    width = predictor.model.get_parameter("classifier.weight").shape[1]
    original = Scene.open(run / "scenes" / "val_a")
    per_point = torch.zeros(original.num_points, width)
    for rows, values in predictor.predict_part(ScenePart(original), Protocol(), answer=read_features(width)):
        per_point[torch.from_numpy(rows)] = values
    scene = scenes[2]
    size = predictor.card.config.model.voxel_size
    cells, inverse = np.unique(np.floor(original.coords / np.float32(size)), axis=0, return_inverse=True)
    assert scene.num_points == len(cells)
    means = torch.zeros(len(cells), width).index_add(0, torch.from_numpy(inverse.reshape(-1)), per_point)
    means /= torch.from_numpy(np.bincount(inverse.reshape(-1))).unsqueeze(1)
    order = np.lexsort(np.floor(scene.coords / np.float32(size)).T[::-1])
    wanted = means.numpy()[np.lexsort(cells.T[::-1])]
    np.testing.assert_allclose(np.asarray(scene.column("frozen"), np.float32)[order], wanted, atol=2e-2, rtol=2e-3)
    assert scene.class_names == CLASSES and sum(scene.info.class_histogram.values()) > 0.8 * scene.num_points
    np.testing.assert_array_equal(scene.origin, original.origin)


def test_a_head_learns_from_them(run, tmp_path):
    store(run, tmp_path / "frozen")
    data = DataConfig(
        root=tmp_path / "frozen",
        train_scenes=("train_*",),
        val_scenes=("val_*",),
        class_names=CLASSES,
        label_map={2: 0, 6: 1},
        features=("frozen",),
        crop=CropConfig(max_voxels=400),
    )
    config = TrainConfig(name="head", data=data, model=HeadConfig(voxel_size=0.01), steps=60, prefetch=0)
    train(config, tmp_path / "head", device="cpu")
    predictor = Predictor.load(tmp_path / "head", "cpu")
    assert predictor.card.scores["oa"] > 0.8


def test_a_second_call_computes_only_what_is_new(run, tmp_path, capsys):
    store(run, tmp_path)
    before = (tmp_path / "val_a" / "frozen.npy").stat().st_mtime_ns
    capsys.readouterr()
    store(run, tmp_path)
    assert capsys.readouterr().out == "3 of 3 were there already\n"
    assert (tmp_path / "val_a" / "frozen.npy").stat().st_mtime_ns == before
    store(run, tmp_path, "run", "--votes", "2")
    assert "were there already" not in capsys.readouterr().out
    assert (tmp_path / "val_a" / "frozen.npy").stat().st_mtime_ns > before


class Foreign(nn.Module):
    def forward(self, coords: torch.Tensor, feats: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.cat([feats, coords[:, 2:], torch.ones_like(feats)], 1)


def test_a_foreign_network_reads_columns_as_they_are(run, tmp_path):
    torch.jit.script(Foreign()).save(str(run / "foreign.pt"))
    options = ("--voxel-size", "0.5", "--features", "height_above_ground")
    scene = store(run, tmp_path, "foreign.pt", *options)[0]
    found = np.asarray(scene.column("frozen"), np.float32)
    assert found.shape[1] == 3
    height = Scene.open(run / "scenes" / "train_a").column("height_above_ground")
    assert abs(found[:, 0].max() - height.max()) < 0.6  # metres, unscaled; means of voxels
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=0.3)
    assert (found[:, 2] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}/run"], "the second argument is a config"),
        (["{run}/run", "{run}/scenes", "-o", "{run}/scenes"], "overwritten by its own features"),
        (["{run}/nothing", "{run}/scenes", "-o", "{out}"], "no such checkpoint"),
        (["{run}/run", "{run}/nowhere", "-o", "{out}"], "no such config"),
        (["{run}/none.pt", "{run}/scenes", "-o", "{out}", "--voxel-size", "0.5"], "no such file"),
        (["{run}/run", "{run}/scenes", "-o", "{out}", "--scenes", "x*"], "no scene matches"),
    ],
)
def test_what_is_missing_is_named(run, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        features.main([text.format(run=run, out=tmp_path / "out") for text in arguments])


def test_a_foreign_network_needs_a_voxel_size(run, tmp_path):
    torch.jit.script(Foreign()).save(str(run / "foreign.pt"))
    with pytest.raises(InputError, match="--voxel-size"):
        store(run, tmp_path, "foreign.pt")


def test_a_scene_that_fails_is_named_and_the_others_are_done(run, tmp_path, capsys):
    scenes = write_scenes(tmp_path / "scenes")
    (scenes / "train_b" / "height_above_ground.npy").write_bytes(b"broken")
    with pytest.raises(SystemExit) as stop:
        features.main([str(run / "run"), str(scenes), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "height_above_ground.npy" in told.err and "2 of 3 done" in told.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["train_a", "val_a"]


def test_a_pretrained_encoder_gives_its_patch_tokens(tmp_path):
    """On pictures of two sizes, with labels scattered to the patches."""
    import transformers
    from PIL import Image

    torch.manual_seed(0)
    settings = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    network = transformers.Dinov2Model(transformers.Dinov2Config(**settings)).eval()
    network.save_pretrained(tmp_path / "dinov2")
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a": (28, 42), "b": (70, 49)}.items():
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(tmp_path / f"data/images/{name}.png")
        mask = np.full((height, width), 255, np.uint8)
        mask[3, 10] = 1  # one labelled pixel, in the second patch of the first row
        Image.fromarray(mask).save(tmp_path / f"data/masks/{name}.png")
    config = toy_config(tmp_path).model_dump(mode="json")
    config["data"] |= {
        "kind": "images",
        "root": str(tmp_path / "data"),
        "train_scenes": ["a"],
        "val_scenes": ["b"],
        "label_map": {"0": 0, "1": 1, "255": -1},
        "features": ["color"],
    }
    config["model"]["dim"] = 2
    write_config(TrainConfig.model_validate(config), tmp_path / "config.yaml")
    arguments = [str(tmp_path / "dinov2"), str(tmp_path / "config.yaml"), "-o", str(tmp_path / "out")]
    features.main([*arguments, "--device", "cpu"])
    first, second = find_scenes(tmp_path / "out")
    assert first.num_points == 4 * 6 and second.num_points == 10 * 7
    np.testing.assert_allclose(first.coords[:2], [(3, 3), (10, 3)], atol=1e-4)
    assert first.labels is not None and np.flatnonzero(first.labels >= 0).tolist() == [1] and first.labels[1] == 1
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "data/images/a.png"))).permute(2, 0, 1) / 255.0
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    scaled = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        tokens = network(scaled.unsqueeze(0)).last_hidden_state[0, 1:]
    np.testing.assert_allclose(np.asarray(first.column("frozen"), np.float32), tokens.numpy(), atol=4e-3, rtol=4e-3)
    data = DataConfig(
        root=tmp_path / "out",
        train_scenes=("a",),
        val_scenes=("b",),
        class_names=CLASSES,
        label_map={0: 0, 1: 1},
        features=("frozen",),
        crop=CropConfig(max_voxels=50),
    )
    head = TrainConfig(name="head", data=data, model=HeadConfig(dim=2, voxel_size=1.0), steps=40, prefetch=0)
    train(head, tmp_path / "head", device="cpu")
    assert Predictor.load(tmp_path / "head", "cpu").card.scores["oa"] == 1.0  # the one label of the other picture
