"""What a run is trained and scored on: data, crops, augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pcseg.batch import IGNORE
from pcseg.config.base import Config


class CropConfig(Config):
    """What part of a scene an item of training is. Lengths in the unit of the coordinates: metres, pixels."""

    kind: Literal["crop"] = "crop"
    shape: Literal["column", "sphere"] = "column"
    """Nearest in the plane (whole columns, for aerial scans), or nearest in space. Of networks that read points."""
    window: int = Field(default=256, ge=1)
    """Edge of the square of pixels that an image network reads."""
    max_voxels: int = Field(default=12_000, ge=1)
    """The nearest voxels around the centre, at most so many."""
    radius: float | None = Field(default=None, gt=0)
    """No further from the centre than this; None: as far as ``max_voxels`` reach."""
    balanced: float = Field(default=1.0, ge=0, le=1)
    """Share of items around a voxel of a class drawn uniformly; the rest are around any voxel."""
    off_center: float | None = Field(default=None, ge=0, lt=1)
    """How far from that voxel the centre may lie, as a share of the crop's reach. With few labels and 0 a rare class
    has its labels in the middle of crops and nowhere else, and a network learns where the middle is. None: 0.6 with
    ``weak_labels``, else 0."""


class AugmentConfig(Config):
    """Random changes of an item, made after subsampling. The defaults change nothing."""

    kind: Literal["augment"] = "augment"
    rotate: bool = False
    """By any angle about the vertical axis."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring the first axis."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor, drawn for each axis."""
    isotropic: bool = False
    """Draw one factor for all axes: shapes keep their proportions."""
    jitter: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise on coordinates, in their unit; the pixels of a window stay on their grid."""
    feature_dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability with which each feature of an item is set to 0, its mean."""
    feature_jitter: float = Field(default=0.0, ge=0)
    """Standard deviation of a shift of each feature of an item, in units of the feature's own deviation."""
    color: float = Field(default=0.0, ge=0, le=1)
    """Probability with which the four changes of colour below are made."""
    brightness: float = Field(default=0.0, ge=0, lt=1)
    """Largest relative change, up or down; so are contrast and saturation."""
    contrast: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, lt=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)
    """Largest turn of the hue, as a share of the circle."""
    gray: float = Field(default=0.0, ge=0, le=1)
    """Probability with which colour is taken away."""
    blur: float = Field(default=0.0, ge=0, le=1)
    """Probability with which an image is blurred, by 0.1 to 2 pixels; clouds are left as they are."""
    mix: float = Field(default=0.0, ge=0, le=1)
    """Probability with which a second crop is laid over a crop of a cloud, both with their labels (Mix3D, Nekrasov et
    al. 2021): what surrounds a thing then says less of its class. Windows of images and views are left as they are."""

    @field_validator("scale")
    @classmethod
    def _is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not 0 < low <= high:
            raise ValueError(f"a range of factors above 0, the lower one first, such as 0.9 1.1; got {low:g} {high:g}")
        return scale


class StripConfig(Config):
    """A strip of each training scene held out as validation part: settings are tuned there, not on the real one.

    ``--data.strip.fraction 0.22`` makes a tuning run of any config; ``val_scenes`` are then not looked at.
    """

    kind: Literal["strip"] = "strip"
    axis: Literal["x", "y"] = "x"
    fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of each scene's points, those with the largest coordinate; 0: no strip."""
    margin: float = Field(default=2.0, ge=0)
    """Width beside the strip that is neither trained on nor scored, in the unit of the coordinates."""


class DataConfig(Config):
    """Scenes, images or volumes under one root, and what is read of them. "Scene" below means any of them."""

    kind: Literal["scenes", "images", "volumes", "panoptic"] = "scenes"
    """Scene folders (``data_prep/format.md``); pictures with masks; NIfTI volumes with label volumes; pictures with
    panoptic labels in COCO's format, whose categories are the codes of ``label_map``."""
    root: Path
    train_scenes: tuple[str, ...] = Field(min_length=1)
    """Names under ``root``, of files without their ending; ``*`` and ``?`` stand for any characters."""
    val_scenes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = Field(min_length=2)
    things: tuple[str, ...] = ()
    """Classes whose instances are told apart; the others are stuff. None: there are no instances."""
    label_map: dict[int, int]
    """From the codes of the source to indices of ``class_names``, or -1: ignored."""
    features: tuple[str, ...] = ()
    """Names of columns, in the order in which the network reads them."""
    crop: CropConfig = CropConfig()
    augment: AugmentConfig = AugmentConfig()
    strip: StripConfig = StripConfig()
    weak_labels: Path | None = None
    """Mask file of ``python -m pcseg.weaken``: labels of the training scenes that it does not name are hidden."""

    @model_validator(mode="after")
    def _classes_fit(self) -> DataConfig:
        for name in ("class_names", "features", "train_scenes", "val_scenes", "things"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names something twice: {', '.join(values)}")
        unknown = [name for name in self.things if name not in self.class_names]
        if unknown:
            raise ValueError(f"things names {', '.join(unknown)}, which class_names lacks")
        allowed = range(IGNORE, len(self.class_names))
        wrong = {code: index for code, index in self.label_map.items() if index not in allowed}
        if wrong:
            raise ValueError(f"label_map leads to indices in [0, {len(self.class_names)}) or {IGNORE}, got {wrong}")
        missing = [name for index, name in enumerate(self.class_names) if index not in self.label_map.values()]
        if missing:
            raise ValueError(f"label_map leads nowhere to {', '.join(missing)}")
        return self

    def labelled_crop(self, few: bool) -> CropConfig:
        """The crops with labels, ``off_center`` filled in: where labels are few it moves them from the middle.

        Crops around any voxel are not moved.
        """
        share = self.crop.off_center
        if self.crop.balanced == 0:
            share = 0.0
        elif share is None:
            share = 0.6 if few else 0.0
        return self.crop.model_copy(update={"off_center": share})

    @property
    def is_thing(self) -> tuple[bool, ...]:
        """Of each class."""
        return tuple(name in self.things for name in self.class_names)

    @property
    def class_codes(self) -> tuple[int, ...]:
        """Code of each class in the source: the lowest one that leads to it."""
        return tuple(
            min(code for code, index in self.label_map.items() if index == wanted)
            for wanted in range(len(self.class_names))
        )
