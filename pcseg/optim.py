"""The optimiser of a run, its learning rate over time, and a running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pcseg.config import OptimConfig, ScheduleConfig

BRANCH = "panoptic"
"""Name of a network's panoptic branch."""
ENCODER = "encoder.net"
"""Name of an image network's encoder (:class:`pcseg.models.encoders.Encoder`)."""


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Weight decay reaches matrices and kernels, not biases and the scales of normalisation (one axis or none).

    Each group has its ``factor`` on the learning rate of the run.
    """
    groups: list[dict[str, Any]] = []
    factors = {"": 1.0, ENCODER: config.encoder_factor, BRANCH: config.branch_factor}
    trained = [(_part(name, config), p) for name, p in model.named_parameters() if p.requires_grad]
    for part, factor in factors.items():
        own = [p for place, p in trained if place == part]
        if own or not part:
            matrices, others = [p for p in own if p.ndim > 1], [p for p in own if p.ndim <= 1]
            groups.append({"params": matrices, "weight_decay": config.weight_decay, "factor": factor})
            groups.append({"params": others, "weight_decay": 0.0, "factor": factor})
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, config.beta2))


def _part(name: str, config: OptimConfig) -> str:
    """The part of the network that a parameter belongs to, of those that have a factor."""
    if BRANCH in name.split("."):
        return BRANCH
    return ENCODER if config.encoder_factor != 1.0 and f".{ENCODER}." in f".{name}" else ""


def rate_factor(config: ScheduleConfig, progress: float) -> float:
    """Factor on the learning rate where ``progress`` of the run, in [0, 1], is done.

    A pure function: the schedule has no state to resume.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return config.first + (1.0 - config.first) * progress / config.warmup
    if config.kind == "constant":
        return 1.0
    if config.kind == "steps":
        return 0.1 ** sum(progress >= drop for drop in config.drops)
    fallen = (progress - config.warmup) / (1.0 - config.warmup)
    if config.kind == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * fallen))
    elif config.kind == "polynomial":
        left = (1.0 - fallen) ** config.power
    else:
        return config.last**fallen
    return config.last + (1.0 - config.last) * left


class WeightAverage:
    """Exponential running average of a model's weights and of its floating-point buffers.

    The decay rises from 0 as (1 + n) / (10 + n), so that the start does not weigh in.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device | str | None = None):
        """``device``: where the network will be; None: where it is."""
        self.decay, self.count = decay, 0
        self.weights = {name: value.detach().clone().to(device) for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.count += 1
        keep = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1.0 - keep)
            else:
                self.weights[name].copy_(value)

    def state_dict(self) -> dict[str, object]:
        return {"count": self.count, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping) -> None:
        self.count = int(state["count"])
        loaded: Mapping[str, Tensor] = state["weights"]
        for name, value in self.weights.items():
            value.copy_(loaded[name])
