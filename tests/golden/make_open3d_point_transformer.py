"""Writes open3d_point_transformer.npz: what Open3D-ML's PointTransformer computes on two small clouds, and its shapes.

Needs an environment of its own with open3d-cpu 0.20 and torch (and libgl1, libegl1, libusb-1.0-0, libx11-6):

    python tests/golden/make_open3d_point_transformer.py

The values are Open3D-ML's outputs; nothing of pcseg is involved. Its farthest point sampling exists for GPUs only, so
that one function is replaced by a plain one with the same start, the first row of a cloud.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open3d.ml.torch  # noqa: F401  registers the models
import torch
from open3d._ml3d.torch.models import point_transformer as theirs
from torch import Tensor, nn

OUT = Path(__file__).resolve().with_name("open3d_point_transformer.npz")
WIDTHS, SHARE, STRIDE, NEIGHBORS, CLASSES = (8, 8, 8, 8, 16), 4, 2, (4, 5, 5, 5, 5), 4
LENGTHS = (80, 110)


def farthest(points: Tensor, row_splits: Tensor, new_row_splits: Tensor) -> Tensor:  # (M,) int64
    chosen = []
    for start, end, count in zip(row_splits, row_splits[1:], new_row_splits.diff().tolist(), strict=False):
        cloud, rows = points[start:end], [0]
        for _ in range(count - 1):
            rows.append(int(torch.cdist(cloud, cloud[rows]).amin(1).argmax()))
        chosen.append(torch.tensor(rows) + start)
    return torch.cat(chosen)


def small_network() -> theirs.PointTransformer:
    """Open3D-ML's network, whose widths are fixed, with its own stages made anew for narrow ones."""
    net = theirs.PointTransformer(in_channels=5, num_classes=CLASSES)
    net.in_planes = 5
    strides = (1, STRIDE, STRIDE, STRIDE, STRIDE)
    net.encoders = nn.ModuleList(
        net._make_enc(theirs.Bottleneck, w, 2, SHARE, stride=s, nsample=k)
        for w, s, k in zip(WIDTHS, strides, NEIGHBORS, strict=True)
    )
    net.decoders = nn.ModuleList(
        net._make_dec(theirs.Bottleneck, WIDTHS[i], 2, SHARE, nsample=NEIGHBORS[i], is_head=i == 4)
        for i in reversed(range(5))
    )
    net.cls = nn.Sequential(
        nn.Linear(WIDTHS[0], WIDTHS[0]), nn.BatchNorm1d(WIDTHS[0]), nn.ReLU(), nn.Linear(WIDTHS[0], CLASSES)
    )
    for module in net.modules():  # statistics and weights that hide nothing; some channels fall
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        for stage in net.encoders:
            stage[0].bn.weight[::3].neg_()
    return net


def network() -> dict[str, np.ndarray]:
    net = small_network()
    coords = torch.rand(sum(LENGTHS), 3) * 4 - 2
    row_splits = torch.tensor([0, *itertools.accumulate(LENGTHS)])
    batch = SimpleNamespace(point=coords, feat=torch.randn(len(coords), 2), row_splits=row_splits)
    outputs = []
    hooks = [stage[0].register_forward_hook(lambda _m, _i, out: outputs.append(out)) for stage in net.encoders]
    case = packed("state", net.state_dict())
    with torch.no_grad():
        case["logits_eval"] = net.eval()(batch)
    for hook in hooks:
        hook.remove()
    logits = net.train()(batch)
    upstream = torch.randn_like(logits) / 100  # gradients of about 1
    logits.backward(upstream)
    case |= {"feats": batch.feat, "logits_train": logits, "upstream": upstream}
    case |= packed("grad", {name: parameter.grad for name, parameter in net.named_parameters()})
    case |= packed("after", {name: value for name, value in net.state_dict().items() if "running" in name})
    for index, (points, _, splits) in enumerate(outputs):
        case[f"coords.{index}"], case[f"offsets.{index}"] = points, splits
        case[f"neighbors.{index}"] = theirs.knn_batch(points, points, NEIGHBORS[index], splits, splits, False)
        if index < 4:
            coarse, _, coarse_splits = outputs[index + 1]
            k = NEIGHBORS[index + 1]
            case[f"pool.{index}"] = theirs.knn_batch(points, coarse, k, splits, coarse_splits, False)
            nearest, sq_dist = theirs.knn_batch(coarse, points, 3, coarse_splits, splits)
            closeness = 1.0 / (sq_dist + 1e-8)
            case[f"interpolate.{index}"] = nearest
            case[f"interpolate_weights.{index}"] = closeness / closeness.sum(1, keepdim=True)
    return {name: value.detach().numpy() if isinstance(value, Tensor) else value for name, value in case.items()}


def listed(tensors: dict[str, Tensor]) -> np.ndarray:  # (n,) of text: name, then shape
    return np.array([f"{name} {' '.join(map(str, value.shape))}".strip() for name, value in tensors.items()])


def packed(name: str, tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Hundreds of small tensors as one."""
    flat = torch.cat([value.detach().flatten().float() for value in tensors.values()])
    return {f"{name}.shapes": listed(tensors), f"{name}.values": flat.numpy()}


def shapes(blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
    net = theirs.PointTransformer(blocks=list(blocks), in_channels=6, num_classes=13)
    return {
        "blocks": np.array(blocks),
        "count": np.array(sum(p.numel() for p in net.parameters())),
        "shapes": listed(net.state_dict()),
    }


def main() -> None:
    torch.manual_seed(0)
    theirs.furthest_point_sample_v2 = farthest
    cases = {
        "network": network(),
        "shapes_default": shapes((2, 2, 2, 2, 2)),
        "shapes_paper": shapes((2, 3, 4, 6, 3)),
    }
    flat = {f"{case}/{name}": value for case, values in cases.items() for name, value in values.items()}
    flat = {k: v.astype(np.int16) if v.dtype == np.int64 and v.ndim else v for k, v in flat.items()}
    np.savez_compressed(OUT, **flat)
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
