"""A run: losses, optimiser, schedule, and all of it together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pcseg.config.base import Config
from pcseg.config.data import DataConfig
from pcseg.config.method import (
    ConsistencyConfig,
    ErdaConfig,
    MethodConfig,
    PointPanopticConfig,
    SupervisedConfig,
)
from pcseg.config.model import EncoderConfig, KPConvConfig, ModelConfig
from pcseg.config.panoptic import PanopticConfig


class LossConfig(Config):
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


class OptimConfig(Config):
    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=5e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; the first beta of AdamW."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Of AdamW."""
    branch_factor: float = Field(default=0.5, gt=0)
    """On the learning rate of the panoptic branch: attention wants less than convolutions do."""
    encoder_factor: float = Field(default=1.0, gt=0)
    """On the learning rate of an image network's encoder: a pretrained one often wants a tenth."""


class ScheduleConfig(Config):
    """Learning rate over the progress of a run, as a factor on ``optim.lr``: a linear rise, then a fall to ``last``.

    One-cycle is the cosine after a long rise (Smith 2018), here on the learning rate alone.
    """

    kind: Literal["constant", "cosine", "polynomial", "exponential", "steps"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the run."""
    first: float = Field(default=0.04, ge=0, le=1)
    """Factor at the start of the rise."""
    last: float = Field(default=1e-3, gt=0, le=1)
    """Factor at the end of the run."""
    power: float = Field(default=0.9, gt=0)
    """Of the polynomial fall."""
    drops: tuple[float, ...] = ()
    """Of ``steps``: shares of the run at which the rate falls to a tenth of what it was."""


class TrainConfig(Config):
    """A run. ``python -m pcseg.train FILE --SECTION.FIELD VALUE`` changes any field."""

    name: str = Field(min_length=1)
    data: DataConfig
    model: ModelConfig
    panoptic: PanopticConfig | None = Field(default=None, discriminator="kind")
    """What tells the things of ``data.things`` apart, on top of the network; None: classes only."""
    loss: LossConfig = LossConfig()
    """On the labelled rows, whatever the method."""
    method: MethodConfig = SupervisedConfig()
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
    best_metric: Literal["miou", "macc", "oa", "pq"] = "miou"
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
        method = self.method
        if isinstance(method, ConsistencyConfig) and method.average_teaches and not self.average:
            raise ValueError("the teacher is the running average of the weights, and there is none; set average")
        if not self.reads_labels and self.data.weak_labels is not None:
            raise ValueError("method.clusters reads no labels; leave data.weak_labels out")
        if self.panoptic is None:
            if self.best_metric == "pq":
                raise ValueError("best_metric pq needs a panoptic branch, and there is none; set panoptic")
            if isinstance(method, PointPanopticConfig):
                raise ValueError("the method point_panoptic trains a panoptic branch, and there is none; set panoptic")
            return self
        if not self.data.things:
            raise ValueError("panoptic needs classes of things; name them in data.things")
        if not isinstance(method, (SupervisedConfig, PointPanopticConfig)):
            raise ValueError(f"panoptic needs the method supervised or point_panoptic, got {method.kind}")
        return self

    @property
    def reads_labels(self) -> bool:
        """Labels of the training scenes are looked at; else the classes that are predicted are numbered clusters."""
        return not isinstance(self.method, ErdaConfig) or self.method.clusters is None

    def with_caps(self, max_neighbors: tuple[int, ...] | None) -> TrainConfig:
        """The same run with these neighbour caps, where its network has any: they follow the clouds."""
        if not isinstance(self.model, KPConvConfig):
            return self
        model = self.model.model_copy(update={"max_neighbors": max_neighbors})
        return self.model_copy(update={"model": model})

    def filled_from(self, run: TrainConfig) -> TrainConfig:
        """The same run with what it leaves for training to fill in as it is in ``run``, of a network of its kind."""
        ours, theirs = self.model, run.model
        if isinstance(ours, KPConvConfig) and isinstance(theirs, KPConvConfig) and ours.max_neighbors is None:
            return self.with_caps(theirs.max_neighbors)
        if not isinstance(ours, EncoderConfig) or not isinstance(theirs, type(ours)) or ours.encoder is not None:
            return self
        return self.model_copy(update={"model": ours.model_copy(update={"encoder": theirs.encoder})})
