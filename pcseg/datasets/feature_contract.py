"""What a network reads of a scene: which columns, in which order, on which scale. It travels with the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pcseg.datasets.columns import columns_of
from pcseg.datasets.row_source import RowSource
from pcseg.errors import InputError

if TYPE_CHECKING:  # preparing data needs no torch
    from torch import Tensor

ONES = "ones"
"""The feature that is 1 everywhere: a network that is told nothing but positions needs one."""
IMAGENET_COLOR = "imagenet_color"
"""The column ``color`` on the scale that encoders pretrained on ImageNet read, whatever the training scenes hold."""
OPPONENT_COLOR = "opponent_color"
"""The column ``color`` as brightness and two differences, each on its own scale: hues of natural scenes differ by a
tenth of what their brightness does, and a network that starts from random weights is slow to find them in ``color``."""
COLORS = ("color", IMAGENET_COLOR, OPPONENT_COLOR)
"""Features made of red, green and blue."""
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 0.0, -1 / 2), (-1 / 4, 1 / 2, -1 / 4))
"""Of red, green, blue; brightness, red against blue, green against both. Source: Ohta, Kanade and Sakai 1980."""
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # red, green, blue, from 0 to 1
_SAMPLE = 1_000_000  # values from which the scale of a feature is measured
_TAIL = 0.001  # share at either end that is clipped: stray echoes must not set the scale
_PARTS = {
    "color": ("red", "green", "blue"),
    OPPONENT_COLOR: ("brightness", "red_blue", "green"),
    "normals": ("x", "y", "z"),
}


class Channel(BaseModel):
    """One number of a feature: clip(value, low, high), minus ``mean``, over ``std``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    low: float
    high: float
    mean: float
    std: float = Field(gt=0)


class Feature(BaseModel):
    """A feature by name, how its values are made, and the scale of each of its channels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    transform: Literal["none", "log1p", "unit"]
    """``log1p`` of echo strengths, which spread over decades; ``unit``: integers over the largest of their type."""
    channels: tuple[Channel, ...] = Field(min_length=1)

    def scaled(self, values: Tensor) -> Tensor:  # (N, C) -> (N, C)
        """Values in the feature's own unit as a network reads them; clipped values stay as they are."""
        return (values - self._numbers("mean", values)) / self._numbers("std", values)

    def restored(self, feats: Tensor) -> Tensor:  # (N, C) -> (N, C)
        """What a network reads, in the feature's own unit."""
        return feats * self._numbers("std", feats) + self._numbers("mean", feats)

    def _numbers(self, name: Literal["mean", "std"], like: Tensor) -> Tensor:  # (C,)
        return like.new_tensor([getattr(channel, name) for channel in self.channels])


class FeatureContract(BaseModel):
    """The features of a network. Fitted on the training scenes, stored in the checkpoint, applied to every scene alike.

    Every channel but ``ones`` has mean 0 and deviation 1 on the training scenes (``imagenet_color``: on ImageNet), so
    that 0 stands for "unknown".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    features: tuple[Feature, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> FeatureContract:
        names = [feature.name for feature in self.features]
        if len(set(names)) < len(names):
            raise ValueError(f"a feature is named twice: {', '.join(names)}")
        return self

    @classmethod
    def fit(cls, names: Sequence[str], scenes: Sequence[RowSource]) -> FeatureContract:
        """Measure the scale of features on training scenes, on at most a million evenly spaced points.

        Args:
            names: of features, in the order in which the network reads them; none: ``ones``.

        Raises:
            InputError: a scene without one of the columns, or whose column has another width than before.
        """
        if not scenes:
            raise InputError("no training scenes; name at least one")
        return cls(features=tuple(_measure(name, scenes) for name in names or (ONES,)))

    @classmethod
    def unscaled(cls, names: Sequence[str], scene: RowSource) -> FeatureContract:
        """Columns as they are, integer colours from 0 to 1: what a network that scales its inputs itself reads.

        Raises:
            InputError: a column that the scene does not have.
        """
        features = []
        for name in names or (ONES,):
            transform = "none"
            if name in COLORS and scene.column("color").dtype.kind in "iu":
                transform = "unit"
            width = _values(name, lambda column: scene.column(column)[:1], 1, transform).shape[1]
            plain = {"low": -math.inf, "high": math.inf, "mean": 0.0, "std": 1.0}
            channels = tuple(Channel(name=f"{name}_{index}", **plain) for index in range(width))
            features.append(Feature(name=name, transform=transform, channels=channels))
        return cls(features=tuple(features))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, where: str) -> FeatureContract:
        """From plain values, as :meth:`model_dump` gives them.

        Raises:
            InputError: values that are no contract; ``where`` says whose.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "features"
            raise InputError(f"{where}: feature contract: {place}: {first['msg']}") from error

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(channel.name for feature in self.features for channel in feature.channels)

    @property
    def num_channels(self) -> int:
        return len(self.channel_names)

    @property
    def columns(self) -> tuple[str, ...]:
        """Scene columns that are read: what to prepare for prediction."""
        return columns_of(self.names)

    @property
    def slices(self) -> dict[str, slice]:
        """Channels of each feature."""
        result, start = {}, 0
        for feature in self.features:
            result[feature.name] = slice(start, start + len(feature.channels))
            start += len(feature.channels)
        return result

    def check(self, scene: RowSource) -> None:
        """Refuse a scene that lacks a column, by the column's name.

        Raises:
            InputError: as said.
        """
        for name in self.columns:
            scene.column(name)

    def feats(
        self,
        scene: RowSource,
        rows: np.ndarray | slice | None = None,
    ) -> np.ndarray:  # (n, C) float32
        """Features of a scene, scaled for the network; only ``rows`` of it are read.

        Raises:
            InputError: a column that the scene does not have, or of another width.
        """
        rows = slice(None) if rows is None else rows
        num_rows = len(range(*rows.indices(scene.num_points))) if isinstance(rows, slice) else len(rows)
        return self.scale(lambda name: scene.column(name)[rows], num_rows, where=str(scene.path))

    def scale(
        self,
        column: Callable[[str], np.ndarray],
        num_rows: int,
        *,
        where: str = "features",
    ) -> np.ndarray:  # (num_rows, C) float32
        """Features from columns by name. A value that is not finite becomes 0, the mean.

        Args:
            column: gives the (num_rows,) or (num_rows, k) values of a column.
            where: whose columns, for errors.

        Raises:
            InputError: a column of another width than in training.
        """
        feats = np.empty((num_rows, self.num_channels), np.float32)
        for feature, place in zip(self.features, self.slices.values(), strict=True):
            values = _values(feature.name, column, num_rows, feature.transform)
            if values.shape[1] != len(feature.channels):
                raise InputError(
                    f"{where}: column '{feature.name}' has {values.shape[1]} values a point, "
                    f"the network was trained with {len(feature.channels)}"
                )
            low, high, mean, std = (
                np.array([getattr(c, k) for c in feature.channels], np.float32) for k in ("low", "high", "mean", "std")
            )
            scaled = (values.clip(low, high) - mean) / std
            feats[:, place] = np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return feats


def _transform(name: str, dtype: np.dtype) -> Literal["none", "log1p", "unit"]:
    if name == "intensity":
        return "log1p"
    if name in COLORS and dtype.kind in "iu":
        return "unit"
    return "none"


def _values(name: str, column: Callable[[str], np.ndarray], num_rows: int, transform: str) -> np.ndarray:
    """Unscaled values of a feature, (n, k) float32."""
    if name == ONES:
        return np.ones((num_rows, 1), np.float32)
    if name == "return_ratio":
        returns = np.maximum(np.asarray(column("number_of_returns"), np.float32), 1)
        return (np.asarray(column("return_number"), np.float32) / returns)[:, None]
    raw = np.asarray(column(*columns_of([name])))
    values = raw.astype(np.float32).reshape(num_rows, int(np.prod(raw.shape[1:], dtype=np.int64)))
    if transform == "log1p":
        return np.log1p(np.maximum(values, 0))
    if transform == "unit" and raw.dtype.kind in "iu":
        values = values / np.float32(np.iinfo(raw.dtype).max)
    if name == OPPONENT_COLOR and values.shape[1] == 3:
        return values @ np.array(OPPONENT, np.float32).T
    return values


def _measure(name: str, scenes: Sequence[RowSource]) -> Feature:
    if name == ONES:
        return Feature(
            name=ONES, transform="none", channels=(Channel(name=ONES, low=1.0, high=1.0, mean=0.0, std=1.0),)
        )
    if name in (IMAGENET_COLOR, OPPONENT_COLOR):
        _check_three_colors(name, scenes)
    if name == IMAGENET_COLOR:
        return _imagenet_color()
    first = scenes[0].column(columns_of([name])[0])
    wide = max(1, math.prod(first.shape[1:]) // 8)  # fewer rows of columns with many values
    every = max(1, sum(scene.num_points for scene in scenes) * wide // _SAMPLE)
    transform = _transform(name, first.dtype)
    parts = []
    for scene in scenes:
        rows = slice(None, None, every)
        num_rows = len(range(*rows.indices(scene.num_points)))
        part = _values(name, lambda c, s=scene, r=rows: s.column(c)[r], num_rows, transform)
        if parts and part.shape[1] != parts[0].shape[1]:
            raise InputError(
                f"{scene.path}: column '{name}' has {part.shape[1]} values a point, other scenes {parts[0].shape[1]}"
            )
        parts.append(part)
    values = np.concatenate(parts).astype(np.float64)
    width = values.shape[1]
    suffixes = _PARTS[name] if name in _PARTS and width == 3 else tuple(map(str, range(width)))
    channels = []
    for index in range(width):
        finite = values[np.isfinite(values[:, index]), index]
        if finite.size == 0:
            raise InputError(f"{scenes[0].path}: column '{name}' holds no finite value; leave it out of the features")
        low, high = np.quantile(finite, [_TAIL, 1 - _TAIL])
        clipped = finite.clip(low, high)
        std = float(clipped.std())
        channels.append(
            Channel(
                name=name if width == 1 else f"{name}_{suffixes[index]}",
                low=float(low),
                high=float(high),
                mean=float(clipped.mean()),
                std=std if std > 1e-6 * max(1.0, abs(float(high))) else 1.0,
            )
        )
    return Feature(name=name, transform=transform, channels=tuple(channels))


def _check_three_colors(name: str, scenes: Sequence[RowSource]) -> None:
    for scene in scenes:
        width = math.prod(scene.column("color").shape[1:])
        if width != 3:
            raise InputError(f"{scene.path}: column 'color' has {width} values a point, {name} needs 3")


def _imagenet_color() -> Feature:
    """Nothing is measured; colours in floating point must run from 0 to 1."""
    channels = tuple(
        Channel(name=f"{IMAGENET_COLOR}_{part}", low=0.0, high=1.0, mean=mean, std=std)
        for part, mean, std in zip(_PARTS["color"], _IMAGENET["mean"], _IMAGENET["std"], strict=True)
    )
    return Feature(name=IMAGENET_COLOR, transform="unit", channels=channels)
