"""What each method adds to a training step: the same network on the same clouds beside plain supervision.

A step is neighbour lists, forward, loss and backward, on 100,000 voxels of the AHN3 sample of which one in a thousand
is labelled. ``ours`` is the method's step and the peer is the plain one, so "times faster" is plain over method: at
least 0.91 where a method adds 10 %, 0.5 where it doubles the step. Relation losses are timed by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.case import Case
from benchmarks.clouds import Clouds
from pcseg import losses
from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.config import (
    ConsistencyConfig,
    DataConfig,
    EntropyMinimizationConfig,
    ErdaConfig,
    IPixMatchConfig,
    KPConvConfig,
    MethodConfig,
    PseudoLabelConfig,
    SoftSelfLabelConfig,
    SupervisedConfig,
    TrainConfig,
)
from pcseg.config.method import RelationKind
from pcseg.datasets.feature_contract import Channel, Feature, FeatureContract
from pcseg.methods import build_method
from pcseg.models import build_model

OPS = ("method_step", "relation")

ROWS, VOXEL, LABELLED = 100_000, 0.5, 1000
STEPS = 200
_HEIGHT = Channel(name="height", low=-100, high=100, mean=0, std=1)
CONTRACT = FeatureContract(features=(Feature(name="height", transform="none", channels=(_HEIGHT,)),))
METHODS: dict[str, MethodConfig] = {
    "entropy minimisation": EntropyMinimizationConfig(),
    "pseudo-labels": PseudoLabelConfig(),
    "ERDA, prototypes": ErdaConfig(),
    f"soft self-labelling, {STEPS} steps": SoftSelfLabelConfig(solver_steps=STEPS),
    "soft self-labelling, 60 steps": SoftSelfLabelConfig(solver_steps=60),
    "FixMatch": ConsistencyConfig(),
    "IPixMatch": IPixMatchConfig(),
}


def cloud(clouds: Clouds) -> Tensor:  # (ROWS, 3)
    """Whole columns around the middle of the scan."""
    voxels = clouds.ahn3_voxels()
    rows = voxels[:, :2].square().sum(1).argsort()[:ROWS].sort().values
    return voxels[rows].contiguous()


def batch_of(coords: Tensor, classes: int) -> PointBatch:
    """Heights as the only feature, few labels."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (len(coords),), generator=g)
    labels[torch.arange(len(coords)) % LABELLED > 0] = IGNORE
    heights = coords[:, 2:] - coords[:, 2].mean()
    return PointBatch(coords=coords, feats=heights, offsets=offsets_of([len(coords)]), labels=labels.to(coords.device))


def step_of(method: MethodConfig, batch: PointBatch, classes: int) -> Callable[[], object]:
    """A step at the end of a run, when every term is there."""
    config = TrainConfig(
        name="step",
        data=DataConfig(
            root=Path(),
            train_scenes=("*",),
            class_names=tuple(map(str, range(classes))),
            label_map={index: index for index in range(classes)},
        ),
        model=KPConvConfig(voxel_size=VOXEL, num_levels=4, width=32),
        method=method,
        steps=1,
    )
    torch.manual_seed(0)
    net: nn.Module = build_model(config.model, 1, classes).to(batch.coords.device)
    recipe = build_method(config, net, contract=CONTRACT).to(batch.coords.device).train()
    streams = {"labelled": batch}
    if isinstance(method, ConsistencyConfig):
        bare = {"coords": batch.coords, "feats": batch.feats, "offsets": batch.offsets}
        every = torch.arange(batch.num_rows, device=batch.coords.device)
        streams |= {"weak_view": PointBatch(**bare), "strong_view": PointBatch(**bare, rows=every)}

    def step() -> None:
        recipe.zero_grad(set_to_none=True)
        levels = {name: net.levels(part) for name, part in streams.items()}  # pyright: ignore[reportCallIssue]
        torch.stack(list(recipe(streams, levels, 1.0).values())).sum().backward()

    return step


def relation_case(rows: int, kind: RelationKind, classes: int = 13) -> Case:
    """The loss alone, forward and backward, half of the rows confident."""
    g = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, rows, classes, generator=g)
    confident = torch.arange(rows) % 2 == 0

    def run() -> None:
        leaf = student.detach().requires_grad_()
        losses.relation(teacher, leaf, confident, kind=kind).backward()

    return Case(op="relation", variant=f"{kind}, K = {classes}", input=f"{rows:,} rows", rows=rows, ours=run)


def cases(clouds: Clouds) -> Iterator[Case]:
    coords = cloud(clouds)
    for classes in (3, 13):
        batch = batch_of(coords, classes)
        plain = step_of(SupervisedConfig(), batch, classes)
        for name, method in METHODS.items():
            if classes == 3 or not isinstance(method, ConsistencyConfig):
                yield Case(
                    op="method_step",
                    variant=f"{name}, K = {classes}",
                    input=f"ahn3, {ROWS:,} voxels",
                    rows=ROWS,
                    ours=step_of(method, batch, classes),
                    peers={"plain supervision": plain},
                )
    for kind in ("kl", "correlation"):
        for rows in (10_000, 40_000, 160_000):
            yield relation_case(rows, kind)
