"""Checkpoints: one safetensors file each, with everything that prediction and exact resumption need; never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from pcseg.config import TrainConfig
from pcseg.config_file import explain
from pcseg.errors import InputError
from pcseg.io.atomic import replacing

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
_WEIGHTS, _TRAINING = "model/", "training/"


class CheckpointCard(BaseModel):
    """What a checkpoint says about its weights; it stands as JSON in the file's header."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    format_version: int = FORMAT_VERSION
    config: TrainConfig
    """Of the run, neighbour caps filled in; class names and their codes in the source are in ``config.data``."""
    feature_contract: dict[str, Any]
    """:class:`pcseg.datasets.feature_contract.FeatureContract` as plain values."""
    in_channels: int
    tile_size: float
    """Extent of the training items, in the unit of the coordinates: prediction looks at tiles of this size."""
    step: int
    scores: dict[str, float] = {}
    """Validation scores of these weights, and ``protocol`` names how they were measured."""
    protocol: str | None = None
    weak_labels: dict[str, Any] | None = None
    """Which labels were seen in training (:meth:`pcseg.datasets.weak_labels.WeakLabels.summary`); None: all."""
    train_seconds: float = 0.0
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights, what they are, and the state of training where it can go on from here."""

    card: CheckpointCard
    weights: dict[str, Tensor] = field(repr=False)
    training: dict[str, Any] | None = field(default=None, repr=False)  # tensors and plain values, nested
    path: Path | None = None


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; the file appears whole or not at all, and a former one of that name stays until then.

    Raises:
        OSError: no place on the disk, a folder that cannot be written; ``filename`` is ``path``.
    """
    from safetensors.torch import save

    tensors = {_WEIGHTS + name: value for name, value in checkpoint.weights.items()}
    metadata = {"pcseg": checkpoint.card.model_dump_json()}
    if checkpoint.training is not None:
        metadata["training"] = json.dumps(_flatten(checkpoint.training, _TRAINING, tensors))
    payload = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint: a file, or a run folder (its best checkpoint, else its last one).

    Raises:
        InputError: no such file, or one that is no checkpoint of this format.
    """
    from safetensors import SafetensorError, safe_open

    path = find_checkpoint(Path(path))
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if "pcseg" not in metadata:
                raise InputError(f"{path}: holds tensors, but is no checkpoint of pcseg")
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                tensors[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise InputError(f"{path}: is no checkpoint, or a damaged one: {error}") from error
    card = _read_card(metadata["pcseg"], path)
    weights = {name[len(_WEIGHTS) :]: value for name, value in tensors.items() if name.startswith(_WEIGHTS)}
    training = None
    if "training" in metadata:
        try:
            training = _restore(json.loads(metadata["training"]), tensors)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}: the state of training in it is damaged: {error}") from error
    return Checkpoint(card=card, weights=weights, training=training, path=path)


def find_checkpoint(path: Path, names: Sequence[str] = ("best", "last")) -> Path:
    """The checkpoint that a user's path means: the file itself, or the first of ``names`` in a run folder.

    Raises:
        InputError: nothing there.
    """
    if path.is_file():
        return path
    if path.is_dir():
        for name in names:
            for folder in (path / "checkpoints", path):
                if (folder / f"{name}{SUFFIX}").is_file():
                    return folder / f"{name}{SUFFIX}"
        raise InputError(f"{path}: holds no checkpoint; is it the folder of a run that has saved one?")
    raise InputError(f"{path}: no such checkpoint or run folder")


LEARNING = ("freeze", "dropout", "norm_momentum")
"""Settings of networks that change how they learn, and not what they compute."""


def differences(
    card: CheckpointCard,
    config: TrainConfig,
    *,
    sections: Sequence[str] = ("model", "data"),
    leave_out: Sequence[str] = (),
) -> list[str]:
    """What keeps a checkpoint from fitting a config, one text each: fields of the model, classes and features.

    What the config leaves for training to fill in does not count, nor where an encoder's first weights came from.

    Args:
        leave_out: further fields of the model that may differ.
    """
    theirs, ours = card.config.model_dump(mode="json"), config.filled_from(card.config).model_dump(mode="json")
    for values in (theirs, ours):
        for name in ("weights", *leave_out):
            values["model"].pop(name, None)
    keep = ("class_names", "features")
    theirs["data"], ours["data"] = ({key: d["data"][key] for key in keep} for d in (theirs, ours))
    return [line for section in sections for line in compare(theirs[section], ours[section], section)]


def compare(there: Any, here: Any, name: str = "") -> list[str]:
    """Where two tables of plain values differ, one text a key."""
    if isinstance(there, dict) and isinstance(here, dict):
        prefix = f"{name}." if name else ""
        keys = dict.fromkeys([*here, *there])
        return [line for key in keys for line in compare(there.get(key), here.get(key), f"{prefix}{key}")]
    return [] if there == here else [f"{name} is {_plain(there)} there and {_plain(here)} here"]


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give a model the weights of a checkpoint, all of them.

    Raises:
        InputError: a checkpoint of another model; lists the tensors that differ.
    """
    wanted = model.state_dict()
    wrong = _misfits(wanted, checkpoint.weights)
    wrong += [f"{name} is not in this model" for name in checkpoint.weights if name not in wanted]
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise InputError(f"{checkpoint.path}: is of another model: {shown}")
    model.load_state_dict(checkpoint.weights)


def initialise_from(model: nn.Module, checkpoint: Checkpoint, *, same_classes: bool) -> list[str]:
    """Give a model what fits of a checkpoint, to train it further on something else.

    Args:
        same_classes: False makes the classifier new even if its shape fits.

    Returns:
        The tensors left new, each with the reason.

    Raises:
        InputError: nothing fits.
    """
    wanted = model.state_dict()
    skipped = _misfits(wanted, checkpoint.weights)
    missing = {line.split(" ", 1)[0] for line in skipped}
    if not same_classes:
        for name in wanted:
            if name.startswith("classifier.") and name not in missing:
                skipped.append(f"{name} belongs to another class table")
                missing.add(name)
    kept = {name: value for name, value in checkpoint.weights.items() if name in wanted and name not in missing}
    if not kept:
        raise InputError(f"{checkpoint.path}: nothing in it fits this model; is model.kind the same?")
    model.load_state_dict(kept, strict=False)
    return skipped


def _misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    lines = []
    for name, value in wanted.items():
        if name not in given:
            lines.append(f"{name} is not in the checkpoint")
        elif given[name].shape != value.shape:
            lines.append(f"{name} is {tuple(given[name].shape)} there and {tuple(value.shape)} here")
    return lines


def _read_card(text: str, path: Path) -> CheckpointCard:
    try:
        values = json.loads(text)
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: has format version {version}, this pcseg reads {FORMAT_VERSION}")
        return CheckpointCard.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from error
    except (json.JSONDecodeError, AttributeError) as error:
        raise InputError(f"{path}: its description is damaged: {error}") from error


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A nested value as JSON; its tensors go into ``tensors`` under the path that leads to them."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):  # pairs: an optimiser's state has integer keys
        return {"pairs": [[key, _flatten(item, f"{name}{key}/", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_flatten(item, f"{name}{index}/", tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__} (at {name})")


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _restore(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    return value
