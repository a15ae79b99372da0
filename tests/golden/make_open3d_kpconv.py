"""Writes open3d_kpconv.npz: what Open3D-ML's KPConv layers and KPFCNN network compute on small fixed inputs.

Needs an environment of its own with open3d-cpu 0.20 and torch (and libgl1, libegl1, libusb-1.0-0, libx11-6):

    python tests/golden/make_open3d_kpconv.py

The values are Open3D-ML's outputs; nothing of pcseg is involved. Open3D-ML's network puts a LeakyReLU on its logits.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open3d.ml.torch  # noqa: F401  registers the models
import torch
from open3d._ml3d.torch.models.kpconv import KPFCNN, KPConv, p2p_fitting_regularizer

OUT = Path(__file__).resolve().with_name("open3d_kpconv.npz")
BLOCKS = [
    "simple",
    "resnetb",
    "resnetb_strided",
    "resnetb_deformable",
    "resnetb_deformable_strided",
    "resnetb_deformable",
]


def lists(query: torch.Tensor, support: torch.Tensor, radius: float, k: int) -> torch.Tensor:  # (M, k) int64
    """Nearest first within the radius; len(support) where there are fewer."""
    distance, index = torch.cdist(query, support).sort(1)
    return torch.where(distance[:, :k] <= radius, index[:, :k], len(support))


def layer(deformable: bool, modulated: bool) -> dict[str, np.ndarray]:
    query, support, feats = torch.randn(14, 3) * 0.5, torch.randn(40, 3) * 0.5, torch.randn(40, 3)
    neighbors = lists(query, support, 0.9, 12)
    module = KPConv(15, 3, 3, 4, 0.5, 1.0, deformable=deformable, modulated=modulated)
    feats.requires_grad_()
    out = module(query, support, neighbors, feats)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    case = {
        "query": query,
        "support": support,
        "neighbors": neighbors,
        "feats": feats,
        "upstream": upstream,
        "out": out,
        "grad_feats": feats.grad,
    }
    for name, parameter in module.named_parameters():
        case[f"state.{name}"] = parameter
        if parameter.grad is not None:
            case[f"grad.{name}"] = parameter.grad
    return {name: value.detach().numpy() for name, value in case.items()}


def options(architecture: list[str], width: int, in_features: int, num_classes: int, voxel_size: float) -> dict:
    levels = sum("strided" in block for block in architecture)
    return {
        "lbl_values": list(range(num_classes)),
        "ignored_label_inds": [],
        "architecture": architecture + ["nearest_upsample", "unary"] * levels,
        "first_subsampling_dl": voxel_size,
        "KP_extent": 1.0,
        "repulse_extent": 1.0,
        "first_features_dim": width,
        "in_features_dim": in_features,
        "num_layers": levels + 1,
    }


def network() -> dict[str, np.ndarray]:
    net = KPFCNN(**options(BLOCKS, width=8, in_features=3, num_classes=4, voxel_size=0.4)).eval()
    points = [torch.rand(60, 3) * 2.0]
    points += [points[0][::3] + 0.05, points[0][::12] + 0.1]
    feats = torch.cat([torch.ones(60, 1), torch.randn(60, 2)], 1)
    batch = SimpleNamespace(
        features=feats,
        points=points,
        neighbors=[lists(p, p, r, 10) for p, r in zip(points, (0.7, 1.2, 2.0))],
        # Complete lists: Open3D-ML lets a missing neighbour take part in the maximum as a zero.
        pools=[lists(points[i + 1], points[i], 99.0, 8) for i in range(2)],
        upsamples=[lists(points[i], points[i + 1], 99.0, 1) for i in range(2)],
    )
    for module in net.modules():  # running statistics, weights and biases that do not hide anything
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(".weights"):
                parameter.mul_(3.0)
        logits = net(batch)
        penalty = p2p_fitting_regularizer(net)
    case = {"feats": feats[:, 1:], "logits": logits, "penalty": torch.as_tensor(penalty)}
    for level in range(3):
        case[f"coords.{level}"] = points[level]
        case[f"neighbors.{level}"] = batch.neighbors[level]
        if level < 2:
            case[f"pool.{level}"] = batch.pools[level]
            case[f"upsample.{level}"] = batch.upsamples[level]
    case |= {f"state.{name}": value for name, value in net.state_dict().items()}
    return {name: value.numpy() for name, value in case.items()}


def parameter_count(blocks_per_level: int) -> int:
    architecture = ["simple"] + ["resnetb"] * (blocks_per_level - 1)
    for _ in range(4):
        architecture += ["resnetb_strided"] + ["resnetb"] * (blocks_per_level - 1)
    net = KPFCNN(**options(architecture, width=64, in_features=5, num_classes=13, voxel_size=0.04))
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def main() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    cases = {
        "rigid": layer(False, False),
        "deformable": layer(True, False),
        "modulated": layer(True, True),
        "network": network(),
        "parameters": {f"blocks_{n}": np.array(parameter_count(n)) for n in (2, 3)},
    }
    flat = {f"{case}/{name}": value for case, values in cases.items() for name, value in values.items()}
    flat = {k: v.astype(np.int16) if v.dtype == np.int64 and v.ndim else v for k, v in flat.items()}
    np.savez_compressed(OUT, **flat)
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # Open3D-ML leaves its kernel dispositions in the working directory
        os.chdir(folder)
        main()
