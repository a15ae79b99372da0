"""What a run is made of: frozen, validated classes, each tagged by its ``kind``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pcseg.batch import IGNORE


class _Config(BaseModel):
    """Refuses what it does not know, and does not change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CropConfig(_Config):
    """What part of a scene an item of training is. Lengths in metres (the unit of the coordinates)."""

    kind: Literal["crop"] = "crop"
    shape: Literal["column", "sphere"] = "column"
    """Nearest in the plane (whole columns, for aerial scans), or nearest in space."""
    max_voxels: int = Field(default=12_000, ge=1)
    """The nearest voxels around the centre, at most so many."""
    radius: float | None = Field(default=None, gt=0)
    """No further from the centre than this; None: as far as ``max_voxels`` reach."""
    balanced: float = Field(default=1.0, ge=0, le=1)
    """Share of items centred on a voxel of a class drawn uniformly; the rest are centred on any voxel."""


class AugmentConfig(_Config):
    """Random changes of an item, made after subsampling. The defaults change nothing."""

    kind: Literal["augment"] = "augment"
    rotate: bool = False
    """By any angle about the vertical axis."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring the first axis."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor, drawn for each axis."""
    jitter: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise on coordinates, metres."""
    feature_dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability with which each feature of an item is set to 0, its mean."""
    feature_jitter: float = Field(default=0.0, ge=0)
    """Standard deviation of a shift of each feature of an item, in units of the feature's own deviation."""


class StripConfig(_Config):
    """A strip of each training scene held out as validation part: settings are tuned there, not on the real one.

    ``--data.strip.fraction 0.22`` makes a tuning run of any config; ``val_scenes`` are then not looked at.
    """

    kind: Literal["strip"] = "strip"
    axis: Literal["x", "y"] = "x"
    fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the scene's points, those with the largest coordinate; 0: no strip."""
    margin: float = Field(default=2.0, ge=0)
    """Width beside the strip that is neither trained on nor scored, metres."""


class DataConfig(_Config):
    """Scene folders under one root, and what is read of them."""

    kind: Literal["scenes"] = "scenes"
    root: Path
    train_scenes: tuple[str, ...] = Field(min_length=1)
    """Names of folders under ``root``; ``*`` and ``?`` stand for any characters."""
    val_scenes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = Field(min_length=2)
    label_map: dict[int, int]
    """From the codes of the source to indices of ``class_names``, or -1: ignored."""
    features: tuple[str, ...] = ()
    """Names of columns, in the order in which the network reads them."""
    crop: CropConfig = CropConfig()
    augment: AugmentConfig = AugmentConfig()
    strip: StripConfig = StripConfig()

    @model_validator(mode="after")
    def _classes_fit(self) -> DataConfig:
        for name in ("class_names", "features", "train_scenes", "val_scenes"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names something twice: {', '.join(values)}")
        allowed = range(IGNORE, len(self.class_names))
        wrong = {code: index for code, index in self.label_map.items() if index not in allowed}
        if wrong:
            raise ValueError(f"label_map leads to indices in [0, {len(self.class_names)}) or {IGNORE}, got {wrong}")
        missing = [name for index, name in enumerate(self.class_names) if index not in self.label_map.values()]
        if missing:
            raise ValueError(f"label_map leads nowhere to {', '.join(missing)}")
        return self

    @property
    def class_codes(self) -> tuple[int, ...]:
        """Code of each class in the source: the lowest one that leads to it."""
        return tuple(
            min(code for code, index in self.label_map.items() if index == wanted)
            for wanted in range(len(self.class_names))
        )


class KPConvConfig(_Config):
    """The KPConv encoder-decoder (Thomas et al. 2019). Lengths are in voxels of the level they apply to.

    Sources of the defaults: paper section 4 and supplementary material for ``sigma`` 1.0, ``radius`` 2.5 (= 2.5 sigma),
    15 kernel points, two blocks a level, batch norm momentum 0.02 (the weight of the new value). The authors' PyTorch
    code uses sigma 1.2 and ``deform_radius`` 6.0 (the paper 5.0).
    """

    kind: Literal["kpconv"] = "kpconv"
    dim: Literal[2, 3] = 3
    voxel_size: float = Field(gt=0)
    """Edge of a voxel of level 0, in the unit of the coordinates; it doubles from level to level."""
    num_levels: int = Field(default=5, ge=1)
    width: int = Field(default=64, ge=8, multiple_of=8)
    """Channels of level 0; they double from level to level."""
    blocks_per_level: int = Field(default=2, ge=2)
    """Convolutions on each level: the stem or the strided block, then bottleneck blocks."""
    kernel_points: int = Field(default=15, ge=1)
    kernel_layout: Literal["centre", "vertical"] = "centre"
    radius: float = Field(default=2.5, gt=0)
    deform_radius: float = Field(default=6.0, gt=0)
    sigma: float = Field(default=1.0, gt=0)
    """Distance at which the influence of a kernel point ends."""
    max_neighbors: tuple[int, ...] | None = None
    """Length of the neighbour lists of each level; None: complete lists, however long. Training fills it in."""
    deformable_levels: tuple[int, ...] = ()
    modulated: bool = False
    """Deformable kernels also weigh each kernel point by 2 sigmoid(...) in (0, 2)."""
    norm: Literal["batch", "group"] = "batch"
    norm_momentum: float = Field(default=0.02, gt=0, le=1)

    @model_validator(mode="after")
    def _levels_fit(self) -> KPConvConfig:
        if self.max_neighbors is not None:
            if len(self.max_neighbors) != self.num_levels:
                raise ValueError(f"max_neighbors needs {self.num_levels} values, one a level, got {self.max_neighbors}")
            if min(self.max_neighbors) < 1:
                raise ValueError(f"max_neighbors must be at least 1, got {self.max_neighbors}")
        if any(not 0 <= level < self.num_levels for level in self.deformable_levels):
            raise ValueError(f"deformable_levels must lie in [0, {self.num_levels}), got {self.deformable_levels}")
        return self

    @property
    def radii(self) -> tuple[float, ...]:
        """Neighbourhood radius of each level, in that level's voxels: deformable kernels need room to spread."""
        return tuple(
            self.deform_radius if level in self.deformable_levels else self.radius for level in range(self.num_levels)
        )


ModelConfig = KPConvConfig
"""One class now; a union tagged by ``kind`` once there are more."""


class LossConfig(_Config):
    """Weight of each term on the labelled rows, and the terms' own settings; a weight of 0 leaves a term out."""

    kind: Literal["loss"] = "loss"
    cross_entropy: float = Field(default=1.0, ge=0)
    focal: float = Field(default=0.0, ge=0)
    lovasz: float = Field(default=0.0, ge=0)
    dice: float = Field(default=0.0, ge=0)
    deform_fitting: float = Field(default=2.0, ge=0)
    deform_repulsion: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of cross entropy."""
    gamma: float = Field(default=2.0, ge=0)
    """Of the focal loss."""
    class_weights: Literal["none", "inverse", "inverse_sqrt"] | tuple[float, ...] = "none"
    """Of cross entropy and focal loss: from the class frequencies of the training scenes, or as given."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossConfig:
        if self.cross_entropy + self.focal + self.lovasz + self.dice == 0:
            raise ValueError("one of cross_entropy, focal, lovasz, dice needs a weight above 0")
        return self


class OptimConfig(_Config):
    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=5e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; the first beta of AdamW."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Of AdamW."""


class ScheduleConfig(_Config):
    """Learning rate over the progress of a run, as a factor on ``optim.lr``: a linear rise, then a fall to ``last``.

    One-cycle is the cosine after a long rise (Smith 2018), here on the learning rate alone.
    """

    kind: Literal["constant", "cosine", "polynomial", "exponential"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the run."""
    first: float = Field(default=0.04, ge=0, le=1)
    """Factor at the start of the rise."""
    last: float = Field(default=1e-3, gt=0, le=1)
    """Factor at the end of the run."""
    power: float = Field(default=0.9, gt=0)
    """Of the polynomial fall."""


class TrainConfig(_Config):
    """A run. ``python -m pcseg.train FILE --SECTION.FIELD VALUE`` changes any field."""

    name: str = Field(min_length=1)
    data: DataConfig
    model: ModelConfig
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    steps: int = Field(ge=1)
    time_limit: float | None = Field(default=None, gt=0)
    """Seconds of training after which the run ends early; the schedule then follows the clock, whichever is further."""
    batch_size: int = Field(default=1, ge=1)
    """Crops in one optimiser step on each process."""
    accumulate: int = Field(default=1, ge=1)
    """Forward and backward passes into which a step's crops are divided."""
    clip_norm: float | None = Field(default=10.0, gt=0)
    """Largest norm of the gradient of all weights."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a running average of the weights, which is then what is scored and kept; 0: none."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    eval_every: int = Field(default=0, ge=0)
    """Steps between validations; 0: only at the end."""
    eval_protocol: str = "voxels/votes=1/scene"
    best_metric: Literal["miou", "macc", "oa"] = "miou"
    save_every: int = Field(default=100, ge=1)
    """Steps between checkpoints ``last``."""
    neighbor_percentile: float = Field(default=0.9, gt=0, le=1)
    """Neighbour caps, where the model names none: this percentile of the counts over sampled crops."""
    prefetch: int = Field(default=2, ge=0)
    """Batches prepared ahead by a background thread; 0: none."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}, got {self.accumulate}")
        weights = self.loss.class_weights
        if isinstance(weights, tuple) and len(weights) != len(self.data.class_names):
            raise ValueError(f"loss.class_weights needs {len(self.data.class_names)} values, got {len(weights)}")
        return self
