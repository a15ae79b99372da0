"""Open3D-ML's networks on one cloud: what a training step of theirs does with it, lists and subsampling included."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.case import optional

models = optional("open3d.ml.torch") and optional("open3d._ml3d.torch.models")
batchers = models and optional("open3d._ml3d.torch.dataloaders.concat_batcher")

Forward = Callable[[Tensor], Tensor]  # coords (N, 3) -> logits (N, K)


def kpfcnn(width: int, levels: int, voxel_size: float, num_classes: int) -> tuple[nn.Module, Forward]:
    """KPFCNN with two blocks a level, complete neighbour lists, and the constant feature 1."""
    assert models and batchers
    stages = ["simple", "resnetb"] + ["resnetb_strided", "resnetb"] * (levels - 1)
    options: dict[str, Any] = {
        "lbl_values": list(range(num_classes)),
        "ignored_label_inds": [],
        "architecture": stages + ["nearest_upsample", "unary"] * (levels - 1),
        "first_subsampling_dl": voxel_size,
        "KP_extent": 1.0,
        "first_features_dim": width,
        "in_features_dim": 1,
        "num_layers": levels,
        "batch_limit": 10**9,
    }
    here = os.getcwd()  # noqa: PTH109
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # its kernel dispositions are written to the current folder
        try:
            net = models.KPFCNN(**options)
        finally:
            os.chdir(here)

    def forward(coords: Tensor) -> Tensor:
        points = coords.numpy()
        none = np.zeros(len(points), np.int64)
        data = {
            "cfg": net.cfg,
            "p_list": [points],
            "f_list": [points],
            "l_list": [none],
            "p0_list": [np.zeros(3, np.float32)],
            "s_list": [np.ones(3, np.float32)],
            "R_list": [np.eye(3, dtype=np.float32)],
            "r_inds_list": [none],
            "r_mask_list": [none],
            "val_labels_list": [none],
        }
        return net(batchers.KPConvBatch([{"data": data}]))

    return net, forward


def point_transformer(blocks: tuple[int, ...], num_classes: int) -> tuple[nn.Module, Forward]:
    """PointTransformer, which reads coordinates only."""
    assert models
    net = models.PointTransformer(blocks=list(blocks), in_channels=3, num_classes=num_classes)

    def forward(coords: Tensor) -> Tensor:
        return net(SimpleNamespace(point=coords, feat=coords, row_splits=torch.tensor([0, len(coords)])))

    return net, forward


def randlanet(num_classes: int) -> tuple[nn.Module, Forward]:
    """RandLANet with its standard widths, which reads coordinates only."""
    assert models
    net = models.RandLANet(num_classes=num_classes, in_channels=3)
    net.device = torch.device("cpu")
    neighbors = optional("open3d._ml3d.datasets.utils").DataProcessing.knn_search

    def forward(coords: Tensor) -> Tensor:
        points = coords.numpy()[torch.randperm(len(coords)).numpy()]
        inputs: dict[str, Any] = {"features": torch.from_numpy(points)[None]}
        lists: dict[str, list[Tensor]] = {k: [] for k in ("coords", "neighbor_indices", "sub_idx", "interp_idx")}
        for ratio in net.cfg.sub_sampling_ratio:
            near = neighbors(points, points, net.cfg.num_neighbors).astype(np.int64)
            kept = points[: len(points) // ratio]
            nearest = neighbors(kept, points, 1).astype(np.int64)
            for name, array in zip(lists, (points, near, near[: len(kept)], nearest), strict=True):
                lists[name].append(torch.from_numpy(np.ascontiguousarray(array))[None])
            points = kept
        return net(inputs | lists)[0]

    return net, forward
