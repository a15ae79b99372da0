"""Learning rates: who has which factor, and how the rate falls."""

import pytest
from torch import nn

from pcseg.config import DeepLabConfig, OptimConfig, ScheduleConfig
from pcseg.models import build_model
from pcseg.optim import make_optimizer, rate_factor
from tests.models.images import NARROW, TINY_RESNET


def test_encoder_and_branch_have_factors_of_their_own():
    holder = nn.Module()
    holder.model = build_model(DeepLabConfig(backbone="resnet50", encoder=TINY_RESNET, **NARROW), 3, 4)
    holder.model.panoptic = nn.ModuleDict({"encoder": nn.Linear(3, 3)})  # a branch may have an encoder too
    found = {}
    for group in make_optimizer(holder, OptimConfig(encoder_factor=0.1, branch_factor=0.7)).param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = group["factor"]
    for name, parameter in holder.named_parameters():
        expected = 0.7 if "panoptic" in name else 0.1 if name.startswith("model.encoder.net.") else 1.0
        assert found.pop(id(parameter)) == expected, name
    assert not found
    assert len(make_optimizer(holder, OptimConfig()).param_groups) == 4, "a factor of 1 makes no group of its own"


def test_a_rate_may_fall_in_steps():
    steps = ScheduleConfig(kind="steps", warmup=0.1, first=0.5, drops=(0.5, 0.9))
    found = [rate_factor(steps, progress) for progress in (0.0, 0.05, 0.1, 0.49, 0.5, 0.89, 0.9, 1.0)]
    assert found == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.1, 0.01, 0.01])
