"""A whole training step beside Open3D-ML's networks: neighbour lists, forward, loss and backward on the same cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import open3d_models
from benchmarks.case import Case
from benchmarks.clouds import Clouds
from pcseg import ops
from pcseg.batch import PointBatch, offsets_of
from pcseg.config import KPConvConfig, PointTransformerConfig
from pcseg.models import build_model

OPS = ("training_step",)
Make = Callable[[], tuple[nn.Module, open3d_models.Forward]]

ROWS, CLASSES, VOXEL = 20_000, 13, 0.04


def cloud(clouds: Clouds) -> Tensor:  # (ROWS, 3)
    """A part of the room at 4 cm."""
    room = clouds.room()
    points = ops.voxel_features(ops.grid_subsample(room, VOXEL), room).coords[:ROWS]
    return (points - points.mean(0)).contiguous()


def theirs(net: nn.Module, forward: open3d_models.Forward, coords: Tensor, labels: Tensor) -> Callable[[], object]:
    net.train()

    def step() -> None:
        net.zero_grad(set_to_none=True)
        F.cross_entropy(forward(coords), labels).backward()

    return step


def ours(config: KPConvConfig | PointTransformerConfig, coords: Tensor, labels: Tensor) -> Callable[[], object]:
    net: Any = build_model(config, 0 if isinstance(config, KPConvConfig) else 3, CLASSES).train()
    feats = coords[:, :0] if isinstance(config, KPConvConfig) else coords

    def step() -> None:
        net.zero_grad(set_to_none=True)
        batch = PointBatch(coords=coords, feats=feats, offsets=offsets_of([len(coords)]), labels=labels)
        F.cross_entropy(net(batch, net.levels(batch)).logits, labels).backward()

    return step


def cases(clouds: Clouds) -> Iterator[Case]:
    torch.manual_seed(0)
    coords = cloud(clouds)
    labels = torch.randint(CLASSES, (len(coords),))
    there = open3d_models.models is not None

    def case(variant: str, config: KPConvConfig | PointTransformerConfig, peers: dict[str, Make]) -> Case:
        built = {name: theirs(*make(), coords, labels) for name, make in peers.items()} if there else {}
        step = ours(config, coords, labels)
        return Case(op="training_step", variant=variant, input="room, 20,000 voxels", rows=ROWS, ours=step, peers=built)

    for width in (64, 128):
        config = KPConvConfig(voxel_size=VOXEL, num_levels=5, width=width)
        kpfcnn = {"Open3D-ML KPFCNN": lambda w=width: open3d_models.kpfcnn(w, 5, VOXEL, CLASSES)}
        yield case(f"KPConv, 5 levels, width {width}", config, kpfcnn)
    blocks = (2, 3, 4, 6, 3)
    config = PointTransformerConfig(voxel_size=VOXEL)
    peers = {"Open3D-ML PointTransformer": lambda: open3d_models.point_transformer(blocks, CLASSES)}
    yield case("Point Transformer, paper's size", config, peers)
    # No network of ours has RandLANet's structure: the one of configs/ahn3 stands for what one would use instead.
    small = KPConvConfig(voxel_size=VOXEL, num_levels=4, width=32)
    yield case("KPConv, 4 levels, width 32", small, {"Open3D-ML RandLANet": lambda: open3d_models.randlanet(CLASSES)})
