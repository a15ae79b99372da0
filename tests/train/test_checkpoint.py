"""Checkpoints: whole or not at all, and never of another model unnoticed."""

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from pcseg import checkpoint as module
from pcseg.checkpoint import (
    Checkpoint,
    CheckpointCard,
    differences,
    initialise_from,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from pcseg.config import DataConfig, KPConvConfig, TrainConfig
from pcseg.errors import InputError


def card(**change) -> CheckpointCard:
    names = change.pop("class_names", ("x", "y"))
    data = DataConfig(
        root=Path("d"), train_scenes=("a",), class_names=names, label_map=dict(enumerate(range(len(names))))
    )
    config = TrainConfig(name="toy", steps=10, model=KPConvConfig(voxel_size=0.5, max_neighbors=(9,) * 5), data=data)
    return CheckpointCard(
        config=config, feature_contract={"names": ["z"]}, in_channels=1, tile_size=10.0, step=3, **change
    )


class Network(nn.Module):
    def __init__(self, width: int = 3, classes: int = 2):
        super().__init__()
        self.body = nn.Linear(2, width)
        self.classifier = nn.Linear(width, classes)


def trained() -> tuple[Network, dict]:
    torch.manual_seed(0)
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.classifier(model.body(torch.ones(4, 2))).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "best": float("-inf"), "none": None}
    return model, state


def test_round_trip_is_exact(tmp_path):
    model, state = trained()
    path = tmp_path / "last.safetensors"
    saved = card(scores={"miou": float("nan")}, protocol="p")
    save_checkpoint(Checkpoint(card=saved, weights=model.state_dict(), training=state), path)
    loaded = load_checkpoint(path)
    assert loaded.card.config == saved.config
    assert str(loaded.card.scores) == "{'miou': nan}"
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.weights[name], value)
    other = torch.optim.AdamW(Network().parameters(), lr=0.5)
    assert loaded.training is not None
    other.load_state_dict(loaded.training["optimizer"])
    before, after = state["optimizer"], other.state_dict()
    assert before["param_groups"] == [{**g, "betas": tuple(g["betas"])} for g in after["param_groups"]]
    for index, values in before["state"].items():
        for name, value in values.items():
            assert torch.equal(after["state"][index][name], value)
    assert torch.equal(loaded.training["rng"], state["rng"])
    assert (loaded.training["best"], loaded.training["none"]) == (float("-inf"), None)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_run_folder_stands_for_its_best_checkpoint(tmp_path):
    model, _ = trained()
    (tmp_path / "checkpoints").mkdir()
    for name in ("last", "best"):
        described = card(train_seconds=1.0 if name == "best" else 2.0)
        save_checkpoint(
            Checkpoint(card=described, weights=model.state_dict()), tmp_path / f"checkpoints/{name}.safetensors"
        )
        assert load_checkpoint(tmp_path).card.train_seconds == described.train_seconds


def test_full_disk_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    model, _ = trained()
    path = tmp_path / "last.safetensors"
    save_checkpoint(Checkpoint(card=card(), weights=model.state_dict()), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_checkpoint(Checkpoint(card=card(), weights=Network(width=5).state_dict()), path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_not_a_checkpoint(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("hello")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="is no checkpoint, or a damaged one"):
        load_checkpoint(tmp_path / "text")
    with pytest.raises(InputError, match="no checkpoint of pcseg"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [100, 2000, -1])
def test_cut_short(tmp_path, keep):
    model, state = trained()
    path = tmp_path / "last.safetensors"
    save_checkpoint(Checkpoint(card=card(), weights=model.state_dict(), training=state), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"last\.safetensors: is no checkpoint, or a damaged one"):
        load_checkpoint(path)


def test_another_model_is_refused_with_what_differs(tmp_path):
    saved = Checkpoint(card=card(), weights=Network(width=4).state_dict(), path=tmp_path / "c")
    with pytest.raises(InputError, match=r"another model: body.weight is \(4, 2\) there and \(3, 2\) here"):
        load_weights(Network(), saved)


def test_differences_of_model_and_classes():
    saved = card()
    config = saved.config
    assert differences(saved, config) == []
    open_caps = config.model_copy(update={"model": config.model.model_copy(update={"max_neighbors": None})})
    assert differences(saved, open_caps) == []
    wide = config.model_copy(update={"model": config.model.model_copy(update={"width": 32})})
    assert differences(saved, wide) == ["model.width is 64 there and 32 here"]
    other = card(class_names=("x", "z")).config
    assert differences(saved, other) == ["data.class_names is x, y there and x, z here"]


def test_fine_tuning_makes_the_head_new():
    torch.manual_seed(1)
    source, target = Network(), Network(classes=3)
    new_head = target.classifier.weight.clone()
    skipped = initialise_from(target, Checkpoint(card=card(), weights=source.state_dict()), same_classes=False)
    assert torch.equal(target.body.weight, source.body.weight)
    assert torch.equal(target.classifier.weight, new_head)
    assert [line.split()[0] for line in skipped] == ["classifier.weight", "classifier.bias"]
    assert "(2, 3) there and (3, 3) here" in skipped[0]


def test_a_head_of_the_same_size_is_new_for_other_classes():
    source, target = Network(), Network()
    skipped = initialise_from(target, Checkpoint(card=card(), weights=source.state_dict()), same_classes=False)
    assert len(skipped) == 2
    assert not torch.equal(target.classifier.weight, source.classifier.weight)
    assert initialise_from(target, Checkpoint(card=card(), weights=source.state_dict()), same_classes=True) == []
    assert torch.equal(target.classifier.weight, source.classifier.weight)


def test_nothing_fits(tmp_path):
    with pytest.raises(InputError, match="nothing in it fits"):
        initialise_from(nn.Linear(7, 7), Checkpoint(card=card(), weights=Network().state_dict()), same_classes=True)
