"""Configs in files and on the command line: read, changed, written, always validated."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pcseg.config import TrainConfig
from pcseg.errors import InputError
from pcseg.io.atomic import replacing

Options = TypeVar("Options")
Config = TypeVar("Config", bound=BaseModel)


def load_config(path: Path | str) -> TrainConfig:
    """The config of a run: a run file ``configs/DATASET/RUN.py`` with ``config()``, a ``config.yaml``, or a run folder.

    Raises:
        InputError: no such file, no ``config()`` in it, or a config that is not valid.
    """
    path = Path(path)
    if path.is_dir() and (path / "config.yaml").exists():
        path = path / "config.yaml"
    if not path.is_file():
        raise InputError(f"{path}: no such config; give a file such as configs/ahn3/kpconv.py, or a run's config.yaml")
    if path.suffix in (".yaml", ".yml", ".json"):
        return read_config(path)
    if path.suffix != ".py":
        raise InputError(f"{path}: a config is a .py or a .yaml file")
    return _run_file(path)


def read_config(path: Path, config_class: type[Config] = TrainConfig) -> Config:
    """A config from YAML (or JSON, which is YAML); no code is executed.

    Raises:
        InputError: text that is no YAML, an unknown key, a wrong type.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no YAML: {error}") from error
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be a config") from None
    return parse_config(values, config_class, path)


def parse_config(values: Any, config_class: type[Config], where: Path | str) -> Config:
    """A config from plain values. ``where`` names their source in errors.

    Raises:
        InputError: an unknown key, a wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: a config is a table of keys and values, got {type(values).__name__}")
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error, values)}") from error


def write_config(config: BaseModel, path: Path) -> None:
    """The whole config as YAML, defaults included; the file appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(config_yaml(config), encoding="utf-8")


def config_yaml(config: BaseModel) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def explain(error: ValidationError, values: Any = None) -> str:
    """The first thing wrong, by the key's name, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = _key(first["loc"], values)
    if first["type"] == "extra_forbidden":
        text = f"unknown key {key}"
    elif first["type"] == "missing":
        text = f"{key} is missing"
    elif first["type"] == "union_tag_not_found":
        text = f"{key}.kind is missing; give one of {', '.join(_kinds(str(first['loc'][-1])))}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        got = f", got {first['input']!r}" if not isinstance(first["input"], (dict, BaseModel)) else ""
        text = f"{key}: {message}{got}" if key else message
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def leading_path(argv: Sequence[str] | None, what: str, options: type, *, prog: str) -> tuple[Path, list[str]]:
    """The first argument of a command, which names what it works on, and the rest.

    Raises:
        InputError: it is missing.
        SystemExit: 0 after ``--help``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        return Path(arguments[0]), arguments[1:]
    if {"-h", "--help"} & set(arguments):
        parse_command(options, ["--help"], prog=prog)
    raise InputError(f"the first argument is {what}: {prog}")


def parse_command(
    options: type[Options],
    argv: Sequence[str] | None = None,
    *,
    default_config: TrainConfig | None = None,
    prog: str,
) -> tuple[Options, TrainConfig | None]:
    """Parse a command line into ``options`` (a dataclass) and, where there is one, a changed ``default_config``.

    The config's fields are options of their own, ``--optim.lr 3e-3``; the documentation is theirs, too.

    Raises:
        InputError: an unknown option or a value of a wrong type, by its name.
        SystemExit: 0 after ``--help``.
    """
    import tyro

    argv = list(sys.argv[1:] if argv is None else argv)
    style = (tyro.conf.AvoidSubcommands,)
    command: Any = options
    if default_config is not None:
        unnamed = Annotated[TrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
        fields: list[Any] = [("options", Annotated[options, tyro.conf.arg(name="")])]
        fields.append(("config", unnamed, dataclasses.field(default=default_config)))
        command = dataclasses.make_dataclass("Command", fields)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: Any = tyro.cli(command, args=argv, prog=prog, description=options.__doc__, config=style)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_one_line(complaint.getvalue())}; see {prog} --help") from None
    except ValidationError as error:  # of the config itself; those of its parts are tyro's to tell
        option = "--" if error.errors()[0]["loc"] else ""
        raise InputError(f"{option}{explain(error)}; see {prog} --help") from None
    return (parsed, None) if default_config is None else (parsed.options, parsed.config)


def _run_file(path: Path) -> TrainConfig:
    name = f"pcseg_run_file_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "config", None)):
            raise InputError(f"{path}: has no function config() that returns a TrainConfig")
        config = module.config()
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path}: config() returns a {type(config).__name__}, not a TrainConfig")
    return config


def _key(location: Sequence[int | str], values: Any) -> str:
    """The dotted name of a key as it stands in the file: pydantic adds the ``kind`` of a union to the path."""
    parts, last = [], len(location) - 1
    for index, part in enumerate(location):
        if index < last and isinstance(values, dict) and part not in values and values.get("kind") == part:
            continue
        parts.append(str(part))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return ".".join(parts)


def _kinds(key: str) -> list[str]:
    """What may stand in the ``kind`` of a key of a run's config."""
    classes = get_args(TrainConfig.model_fields[key].annotation)
    return [option.model_fields["kind"].default for option in classes if option is not type(None)]


def _one_line(text: str) -> str:
    """What tyro draws in a box, up to the first ruler inside it."""
    lines = [line.strip("│ \t") for line in text.splitlines()]
    body = []
    for line in lines:
        if line.startswith(("╭", "╰")):
            continue
        if set(line) == {"─"}:
            break
        body.append(line)
    joined = " ".join(" ".join(body).split())
    joined = re.sub(r"For further information.*|\s*\[type=.*?\]", "", joined).strip()
    found = re.match(
        r"Error parsing (?:config\.?)?([\w.]*): \d+ validation errors? for \w+ (?:(?!Value error)([\w.]+) )?(.*)",
        joined,
    )
    if found is None:
        return joined.removeprefix("Error parsing ")
    group, key, message = found.groups()
    name = ".".join(part for part in (group, key) if part)
    message = message.removeprefix("Value error, ")
    return f"--{name}: {message}" if name else message
