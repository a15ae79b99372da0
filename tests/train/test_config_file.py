"""Configs in files and on the command line."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from pcseg.config import DataConfig, KPConvConfig, TrainConfig
from pcseg.config_file import config_yaml, load_config, parse_command, write_config
from pcseg.errors import InputError

RUN_FILE = """
from pcseg.config import DataConfig, KPConvConfig, TrainConfig

def config():
    return TrainConfig(
        name="toy", steps=10, model=KPConvConfig(voxel_size=0.5),
        data=DataConfig(root="data", train_scenes=("a",), class_names=("x", "y"), label_map={1: 0, 2: 1}),
    )
"""


@dataclass(frozen=True)
class Options:
    """Do something."""

    run: Path | None = None
    """Folder."""


@pytest.fixture
def config() -> TrainConfig:
    data = DataConfig(root=Path("data"), train_scenes=("a",), class_names=("x", "y"), label_map={1: 0, 2: 1, 9: -1})
    return TrainConfig(name="toy", steps=10, model=KPConvConfig(voxel_size=0.5), data=data)


def command(config: TrainConfig, text: str) -> tuple[Options, TrainConfig]:
    options, changed = parse_command(Options, text.split(), default_config=config, prog="prog")
    assert changed is not None
    return options, changed


def test_yaml_round_trip(config, tmp_path):
    write_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert load_config(tmp_path) == config, "a run folder stands for its config"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml"]


def test_run_file(tmp_path):
    (tmp_path / "toy.py").write_text(RUN_FILE)
    assert load_config(tmp_path / "toy.py").name == "toy"


def test_overrides_are_typed(config):
    options, changed = command(config, "--optim.lr 3e-3 --model.max-neighbors 9 9 9 9 9 --run out --optim.kind sgd")
    assert options.run == Path("out")
    assert changed.optim.lr == 0.003
    assert changed.optim.kind == "sgd"
    assert changed.model.max_neighbors == (9, 9, 9, 9, 9)
    assert changed.data == config.data


def test_no_override_changes_nothing(config):
    assert command(config, "") == (Options(), config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--optm.lr 3", "Unrecognized options: --optm.lr"),
        ("--optim.lr fast", "--optim.lr: could not convert string to float: 'fast'"),
        ("--optim.lr -1", "--optim.lr: Input should be greater than 0"),
        ("--data.augment.scale 0 0", "--data.augment.scale: a range of factors above 0, the lower one first"),
        ("--data.augment.scale 1.1 0.9", "--data.augment.scale: a range of factors above 0, the lower one first"),
        ("--data.augment.scale -1 -1", "--data.augment.scale: a range of factors above 0, the lower one first"),
        ("--data.augment.scale 1 inf", "--data.augment.scale.1: Input should be a finite number"),
        ("--data.augment.jitter inf", "--data.augment.jitter: Input should be a finite number"),
        ("--data.crop.radius inf", "--data.crop.radius: Input should be a finite number"),
        ("--steps 1.5", "--steps"),
        ("--steps 0", "--steps: Input should be greater than or equal to 1, got 0"),
        ("--average 1 --steps 0", "--steps: Input should be greater than or equal to 1, got 0 (and 1 more)"),
        ("--batch-size 3 --accumulate 2", "accumulate must divide batch_size 3, got 2"),
        ("--optim.kind adam", "--optim.kind"),
        ("--data.class-names x y z", "label_map leads nowhere to z"),
        ("--model.max-neighbors 1 2", "max_neighbors needs 5 values"),
    ],
)
def test_bad_overrides_name_the_option(config, text, message, capfd):
    with pytest.raises(InputError) as caught:
        command(config, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typo": 1}, "unknown key typo"),
        ({"optim": {"lr": 0.1, "typo": 1}}, "unknown key optim.typo"),
        ({"model": {"kind": "kpconv", "voxel_size": "wide"}}, "model.voxel_size: Input should be a valid number"),
        ({"steps": None}, "steps: Input should be a valid integer"),
        ({"accumulate": 3}, "accumulate must divide batch_size"),
        ({"method": {}}, "method.kind is missing; give one of supervised, entropy_minimization, "),
        ({"model": {"voxel_size": 1}}, "model.kind is missing; give one of kpconv, "),
        ({"panoptic": {}}, "panoptic.kind is missing; give one of "),
        ({"method": {"kind": "none"}}, "expected tags: 'supervised'"),
    ],
)
def test_bad_yaml_names_file_and_key(config, tmp_path, change, message):
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json") | change))
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_that_is_nested_too_deeply(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: " + "[" * 5000)
    with pytest.raises(InputError, match=r"config\.yaml: is nested too deeply"):
        load_config(path)


def test_yaml_is_not_executed(config, tmp_path):
    path, witness = tmp_path / "config.yaml", tmp_path / "witness"
    path.write_text(config_yaml(config) + f"x: !!python/object/apply:os.mkdir ['{witness}']\n")
    with pytest.raises(InputError, match="is no YAML"):
        load_config(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = 3", r"no function config\(\)"),
        ("def config(): return 3", "returns a int"),
        ("def config(): return missing", "NameError"),
        ("import nowhere", "ModuleNotFoundError"),
        (RUN_FILE.replace("steps=10", "step=10"), "steps is missing"),
    ],
)
def test_bad_run_files(tmp_path, text, message):
    (tmp_path / "toy.py").write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "toy.py")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such config"):
        load_config(tmp_path / "nothing.py")


def test_help_shows_every_field(config, capsys):
    with pytest.raises(SystemExit) as stop:
        command(config, "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for name in ("--run", "--optim.lr", "--model.max-neighbors", "--data.crop.max-voxels"):
        assert name in text
    assert dataclasses.fields(Options)[0].name in text
