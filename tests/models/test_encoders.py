"""Encoders: the weights of a folder arrive, a checkpoint needs the folder no more, errors say what to do."""

import hashlib
import json
import shutil

import pytest
import torch

from pcseg.checkpoint import CheckpointCard, differences
from pcseg.config import DeepLabConfig, SwinConfig, ViTConfig
from pcseg.config_file import parse_command
from pcseg.errors import InputError
from pcseg.models import build_model, resolve_model
from pcseg.predictor import Predictor
from pcseg.run_setup import set_up
from tests.models.images import NARROW, TINY, TINY_MOBILENET, TINY_RESNET, images
from tests.train.toy_images import image_config, write_images

CLASSIFIERS = {
    "resnet/16": ("ResNetForImageClassification", "resnet."),
    "mobilenet/8": ("MobileNetV2ForImageClassification", "mobilenet_v2."),
    "vit": ("ViTForImageClassification", "vit."),
    "dinov2": ("Dinov2ForImageClassification", "dinov2."),
    "swin": ("SwinForImageClassification", ""),
}
UNREAD = ("classifier.", "pooler.", "conv_1x1.", "swin.layernorm.", "embeddings.mask_token")
"""Of a classifier, what no feature map comes from."""
NORMS = "hidden_states_norms."

KINDS = pytest.mark.parametrize("kind", CLASSIFIERS)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_weights(folder, kind, channels=3):
    """A classifier as ``transformers`` writes it, and its weights under the names of the encoder."""
    import transformers

    torch.manual_seed(3)
    config = TINY[kind]
    name, prefix = CLASSIFIERS[kind]
    network = getattr(transformers, name)
    settings = network.config_class(num_channels=channels, num_labels=7, layer_norm_eps=1e-3, **config.settings)
    classifier = network(settings)
    classifier.save_pretrained(folder)
    state = {name.removeprefix(prefix): value for name, value in classifier.state_dict().items()}
    return {name: value for name, value in state.items() if not name.startswith(UNREAD)}


def open_config(kind, folder):
    """As a user writes it: the sizes are those of the folder, whatever the config says."""
    changes = {"weights": str(folder), "encoder": None}
    if kind.startswith("resnet"):  # its name fixes the depths
        return TINY[kind].model_copy(update=changes | {"encoder": dict(TINY_RESNET)})
    if kind == "vit":
        changes |= {"hidden": 768, "layers": 12}
    return TINY[kind].model_copy(update=changes)


@KINDS
def test_weights_of_a_folder_arrive(kind, tmp_path):
    theirs = write_weights(tmp_path, kind)
    net = build_model(open_config(kind, tmp_path), 3, 4)
    ours = {name: value for name, value in net.encoder.net.state_dict().items() if not name.startswith(NORMS)}
    assert sorted(ours) == sorted(theirs)
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    assert all(p.dtype == torch.float32 and p.requires_grad for p in net.parameters())
    assert net.training and net.encoder.net.training


@KINDS
def test_a_checkpoint_needs_the_folder_no_more(kind, tmp_path):
    folder = tmp_path / "weights"
    write_weights(folder, kind)
    config = open_config(kind, folder)
    resolved = resolve_model(config)
    source = build_model(config, 3, 4).eval()
    shutil.rmtree(folder)
    resolved = type(resolved).model_validate(json.loads(resolved.model_dump_json()))
    assert resolve_model(resolved) == resolved
    other = build_model(resolved, 3, 4, pretrained=False).eval()
    other.load_state_dict(source.state_dict())
    batch = images([(32, 40)])
    assert torch.equal(other(batch, ()).logits, source(batch, ()).logits)
    if kind != "resnet/16":
        assert resolved.encoder["layer_norm_eps"] == 1e-3


def test_nothing_to_resolve():
    for config in (*TINY.values(), image_config("x").model):
        assert resolve_model(config) is config


@pytest.mark.parametrize("kind", ["vit", "mobilenet/8"])
def test_a_run_and_its_resumption(kind, tmp_path):
    """The folder is read once, at the start; after that the run's own checkpoint is enough."""
    folder = tmp_path / "weights"
    write_weights(folder, kind, channels=1)
    plain = image_config(write_images(tmp_path / "data"))
    config = plain.model_copy(update={"model": open_config(kind, folder)})
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(InputError, match=r"reads 1 channels, but data\.features gives 3"):
        set_up(config, run, init=None, fresh=False, device="cpu")
    shutil.rmtree(folder)
    theirs = write_weights(folder, kind)
    trainer, _ = set_up(config, run, init=None, fresh=False, device="cpu")
    started = trainer.model.state_dict()
    assert all(torch.equal(started[f"encoder.net.{name}"], value) for name, value in theirs.items())
    trainer._save_last()
    shutil.rmtree(folder)
    again, _ = set_up(config, run, init=None, fresh=False, device="cpu")
    assert again.config.model == trainer.config.model and again.config.model.encoder is not None
    loaded = Predictor.load(run, "cpu").model.state_dict()
    assert [n for n, v in started.items() if not torch.equal(v, loaded[n])] == []
    other = config.model_copy(update={"model": config.model.model_copy(update={"dropout": 0.3})})
    with pytest.raises(InputError, match=r"unfinished run of other settings: model\.dropout is"):
        set_up(other, run, init=None, fresh=False, device="cpu")


@pytest.mark.parametrize(
    ("config", "count", "names"),
    [
        (DeepLabConfig(backbone="resnet101"), 42_500_160, "6296c114"),
        (DeepLabConfig(backbone="resnet50"), 23_508_032, "4637ae51"),
        (DeepLabConfig(backbone="mobilenet_v2"), 1_811_712, "33698d85"),
        (ViTConfig(), 85_798_656, "02cd05ac"),
        (ViTConfig(family="dinov2", patch_size=14), 85_724_928, "2d6222c0"),
        (SwinConfig(), 27_520_698, "a62179fb"),
    ],
    ids=["resnet101", "resnet50", "mobilenet_v2", "vit", "dinov2", "swin"],
)
def test_parameters_of_the_known_sizes(config, count, names):
    """Names are part of every checkpoint: another release of transformers must not change them."""
    with torch.device("meta"):
        net = build_model(config, 3, 4).encoder.net
    assert sum(p.numel() for p in net.parameters()) == count
    assert hashlib.sha256("\n".join(sorted(net.state_dict())).encode()).hexdigest()[:8] == names


def test_errors_of_weights(tmp_path):
    write_weights(tmp_path / "vit", "vit")
    write_weights(tmp_path / "resnet", "resnet/16")

    def message(config, channels=3):
        with pytest.raises(InputError) as caught:
            build_model(config, channels, 4)
        text = str(caught.value)
        assert "\n" not in text
        return text

    vit = str(tmp_path / "vit")
    nowhere = str(tmp_path / "nowhere")
    assert message(ViTConfig(weights=nowhere)).startswith(f"model.weights {nowhere}: no such folder; give the one")
    hub = message(ViTConfig(weights="nobody/nothing"))
    assert hub.startswith("model.weights nobody/nothing: is no folder here, and not to be had from the hub")
    assert "hf download nobody/nothing --local-dir FOLDER" in hub
    assert message(SwinConfig(weights=vit)) == f"{vit}: is of model_type vit, but the config asks for swin"
    assert message(ViTConfig(weights=vit), 1) == f"{vit}: reads 3 channels, but data.features gives 1"
    deep = message(DeepLabConfig(backbone="resnet101", weights=str(tmp_path / "resnet")))
    assert "is a ResNet of depths (1, 2, 2, 2), not (3, 4, 23, 3) as in the config" in deep
    wrong = message(ViTConfig(encoder={"depths": (1, 2)}))
    assert wrong.startswith("model.encoder: vit has no setting depths; it has hidden_size,")
    file = tmp_path / "vit" / "model.safetensors"
    assert "is no folder" not in message(ViTConfig(weights=str(file)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert message(ViTConfig(weights=vit)).startswith(f"model.weights {vit}: cannot be read as an encoder")
    file.unlink()
    assert message(ViTConfig(weights=vit)).startswith(f"model.weights {vit}: cannot be read as an encoder")
    (tmp_path / "vit" / "config.json").write_text("{")
    assert message(ViTConfig(weights=vit)).startswith(f"model.weights {vit}: cannot be read as an encoder")


def test_a_file_that_lacks_tensors(tmp_path):
    from safetensors.torch import load_file, save_file

    write_weights(tmp_path, "vit")
    file = tmp_path / "model.safetensors"
    tensors = {
        name: value for name, value in load_file(file).items() if "fc1" not in name and ".intermediate" not in name
    }
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 4 tensors of a vit, such as layers\.0\.mlp\.fc1\.bias"):
        build_model(open_config("vit", tmp_path), 3, 4)


def test_a_checkpoint_fits_whatever_its_first_weights_were(tmp_path):
    write_weights(tmp_path, "vit")
    started = open_config("vit", tmp_path)
    run = image_config(tmp_path).model_copy(update={"model": resolve_model(started)})
    card = CheckpointCard(config=run, feature_contract={}, in_channels=3, tile_size=1.0, step=1)
    for model in (started, started.model_copy(update={"weights": None})):
        assert differences(card, run.model_copy(update={"model": model})) == []
    other = run.model_copy(update={"model": run.model.model_copy(update={"freeze": True})})
    assert differences(card, other) == ["model.freeze is False there and True here"]


def test_on_the_command_line(tmp_path):
    from dataclasses import make_dataclass

    config = image_config(tmp_path).model_copy(
        update={"model": DeepLabConfig(backbone="mobilenet_v2", encoder=TINY_MOBILENET, **NARROW)}
    )
    options = make_dataclass("Options", [])
    _, changed = parse_command(options, ["--model.dropout", "0.2"], default_config=config, prog="x")
    assert changed.model == config.model.model_copy(update={"dropout": 0.2})
