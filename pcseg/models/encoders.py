"""Encoders of image networks: those of ``transformers``, with random weights or with those of a folder or the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pcseg.config import DeepLabConfig, SwinConfig, ViTConfig
from pcseg.errors import InputError

EncoderUser = DeepLabConfig | ViTConfig | SwinConfig
Result = TypeVar("Result")


class Family(NamedTuple):
    """Encoders of one architecture."""

    network: str
    """Class in ``transformers``, and below that of its config."""
    config: str
    settings: tuple[str, ...]
    """What of the config makes a network another one; the rest is about heads and files."""
    new: tuple[str, ...] = ()
    """Prefixes of parameters that weights of the family's classifiers lack."""


_ATTENTION = ("image_size", "patch_size", "qkv_bias", "hidden_act", "layer_norm_eps")
_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_DEPTH = ("hidden_size", "num_hidden_layers", "num_attention_heads")

FAMILIES = {
    "resnet": Family(
        "ResNetBackbone",
        "ResNetConfig",
        ("depths", "hidden_sizes", "embedding_size", "layer_type", "hidden_act", "downsample_in_bottleneck"),
    ),
    "mobilenet_v2": Family(
        "MobileNetV2Model",
        "MobileNetV2Config",
        (
            *("depth_multiplier", "depth_divisible_by", "min_depth", "expand_ratio", "first_layer_is_expansion"),
            *("finegrained_output", "hidden_act", "tf_padding", "layer_norm_eps"),
        ),
    ),
    "vit": Family("ViTModel", "ViTConfig", (*_DEPTH, *_ATTENTION, *_DROPOUT, "intermediate_size")),
    "dinov2": Family(
        "Dinov2Backbone",
        "Dinov2Config",
        (*_DEPTH, *_ATTENTION, *_DROPOUT, "mlp_ratio", "layerscale_value", "drop_path_rate", "use_swiglu_ffn"),
    ),
    "swin": Family(
        "SwinBackbone",
        "SwinConfig",
        (
            *("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "drop_path_rate"),
            *("use_absolute_embeddings", *_ATTENTION, *_DROPOUT),
        ),
        new=("hidden_states_norms.",),
    ),
}


class Scale(NamedTuple):
    """One of an encoder's maps."""

    stride: int  # pixels for each sample
    channels: int


class Encoder(nn.Module):
    """A network of ``transformers`` that gives feature maps.

    Args:
        net: its parameters keep their names, under ``net.``.
        read: the feature maps that ``net`` makes of planes (b, C, H, W).
        freeze: no gradient reaches it, and it stays in evaluation mode: statistics of batch norms do not move.
    """

    def __init__(self, net: nn.Module, read: Callable[[nn.Module, Tensor], tuple[Tensor, ...]], freeze: bool):
        super().__init__()
        self.net, self.read, self.freeze = net.requires_grad_(not freeze), read, freeze
        self.train()

    def train(self, mode: bool = True) -> Encoder:
        return super().train(mode and not self.freeze)

    def forward(self, planes: Tensor) -> tuple[Tensor, ...]:  # (b, C, H, W)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            return self.read(self.net, planes)


def resolve_encoder(config: EncoderUser) -> EncoderUser:
    """The same config with ``encoder`` filled in from ``weights``, where these are given and it is still open.

    Raises:
        InputError: no such weights, or those of another architecture.
    """
    if config.weights is None or config.encoder is not None:
        return config
    theirs = _stored_config(config, config.weights)
    settings = {name: getattr(theirs, name) for name in FAMILIES[config.family].settings}
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    depths = config.settings.get("depths")
    if config.family == "resnet" and settings["depths"] != depths:
        raise InputError(f"{config.weights}: is a ResNet of depths {settings['depths']}, not {depths} as in the config")
    return config.model_copy(update={"encoder": settings})


def make_network(
    config: EncoderUser,
    in_channels: int,
    *,
    pretrained: bool,
    arguments: dict[str, Any] | None = None,
    **taps: Any,
) -> Any:
    """The network of ``transformers`` that a config asks for, in training mode, float32.

    Args:
        in_channels: C of the planes; that of the weights, 3, where these are loaded.
        pretrained: load ``config.weights``, if there are any; False: random weights, for a checkpoint to fill.
        arguments: of the network's constructor.
        taps: settings that are not the encoder's own but its use's, such as the output stride.

    Raises:
        InputError: a setting that the architecture does not have; no such weights, those of another architecture or
            other channels.
    """
    import transformers

    family = FAMILIES[config.family]
    settings = config.settings
    unknown = [name for name in settings if name not in family.settings]
    if unknown:
        known = ", ".join(family.settings)
        raise InputError(f"model.encoder: {config.family} has no setting {', '.join(unknown)}; it has {known}")
    try:
        ours = getattr(transformers, family.config)(num_channels=in_channels, **settings, **taps)
    except Exception as error:  # the settings are checked by transformers, by errors of its own
        raise InputError(f"model.encoder: {_first_line(error)}") from error
    network = getattr(transformers, family.network)
    weights = config.weights if pretrained else None
    if weights is None:
        return network(ours, **(arguments or {}))
    channels = _stored_config(config, weights).num_channels
    if channels != in_channels:
        raise InputError(f"{weights}: reads {channels} channels, but data.features gives {in_channels}")

    def load() -> tuple[Any, dict[str, Any]]:
        return network.from_pretrained(
            location_of(weights), config=ours, dtype=torch.float32, output_loading_info=True, **(arguments or {})
        )

    net, report = read_stored(weights, load)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(family.new))
    if missing:
        raise InputError(f"{weights}: lacks {len(missing)} tensors of a {config.family}, such as {missing[0]}")
    return net.train()


def stored_values(weights: str, *, field: str = "model.weights") -> dict[str, Any]:
    """The ``config.json`` beside weights.

    Raises:
        InputError: no such weights.
    """
    import transformers

    def read() -> dict[str, Any]:
        return transformers.PretrainedConfig.get_config_dict(location_of(weights))[0]

    return read_stored(weights, read, field=field)


def _stored_config(config: EncoderUser, weights: str) -> Any:
    """The config beside weights, as a config of ``transformers``."""
    import transformers

    kind = getattr(transformers, FAMILIES[config.family].config)
    values, _ = read_stored(weights, lambda: kind.get_config_dict(location_of(weights)))
    theirs = values.get("model_type")
    if theirs != config.family:
        raise InputError(f"{weights}: is of model_type {theirs}, but the config asks for {config.family}")
    return read_stored(weights, lambda: kind.from_dict(values))


def location_of(weights: str) -> str:
    """What ``transformers`` is to be given for a folder or a hub id."""
    return str(Path(weights).expanduser()) if _is_path(weights) else weights


def _is_path(weights: str) -> bool:
    """Whether it can be no hub id, which is OWNER/NAME."""
    return Path(weights).expanduser().exists() or weights.startswith((".", "/", "~")) or weights.count("/") > 1


def read_stored(
    weights: str, action: Callable[[], Result], *, field: str = "model.weights", what: str = "an encoder"
) -> Result:
    """What ``action`` reads of weights in the format of ``transformers``.

    Raises:
        InputError: it fails, which it may in whatever way; ``field`` and ``what`` say what was asked for.
    """
    try:
        return action()
    except Exception as error:  # of transformers, of the hub's client or of safetensors
        why = _first_line(error)
        if not _is_path(weights):
            text = (
                f"{field} {weights}: is no folder here, and not to be had from the hub ({why}); where there is "
                f"a network: `hf download {weights} --local-dir FOLDER`, then --{field} FOLDER"
            )
        elif not Path(weights).expanduser().is_dir():
            text = f"{field} {weights}: no such folder; give the one that holds config.json and model.safetensors"
        else:
            text = f"{field} {weights}: cannot be read as {what} of transformers: {why}"
        raise InputError(text) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
