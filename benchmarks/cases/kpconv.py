"""A KPConv layer, forward and backward, beside Open3D-ML's module and plain, chunked and compiled PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.utils.checkpoint
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg import ops
from pcseg.models.kernel_points import kernel_points
from pcseg.ops import reference

OPS = ("kpconv",)

KERNEL_POINTS, NEIGHBORS, CHUNK = 15, 33, 2000
open3d_ml = optional("open3d.ml.torch") and optional("open3d._ml3d.torch.models.kpconv")


def chunked(layer: Callable[..., Tensor], query: Tensor, support: Tensor, neighbors: Tensor, *rest) -> Tensor:
    """Rows in parts, each computed again in the backward pass: what users do when memory runs out."""
    parts = range(0, len(query), CHUNK)
    checkpoint = torch.utils.checkpoint.checkpoint
    return torch.cat(
        [
            checkpoint(layer, query[i : i + CHUNK], support, neighbors[i : i + CHUNK], *rest, use_reentrant=False)
            for i in parts
        ]
    )


def cases(clouds: Clouds) -> Iterator[Case]:
    grid = ops.grid_subsample(clouds.room(), 0.04)
    points = ops.voxel_features(grid, clouds.room()).coords
    points = points[:40_000].contiguous()  # a part of the room: voxels come in order of x
    neighbors = ops.radius_search(points, points, 0.1, NEIGHBORS)
    sigma = 0.04
    kernel = torch.tensor(kernel_points(KERNEL_POINTS, 3), dtype=torch.float32).to(points) * sigma
    # Pairs (point, kernel point) that some neighbour meets, and meetings: about two a neighbour.
    ones, unit = torch.ones_like(points[:, :1]), torch.eye(KERNEL_POINTS).unsqueeze(1).to(points)
    each = reference.kpconv(points, points, neighbors, ones, unit, kernel, sigma)
    rows, meetings = int((each > 0).sum()), 2 * int((neighbors < len(points)).sum())
    for channels in (64, 128):
        generator = torch.Generator().manual_seed(1)
        feats = torch.randn(len(points), channels, generator=generator).to(points).requires_grad_()
        weights = torch.randn(KERNEL_POINTS, channels, channels, generator=generator).to(points).div_(30)
        weights.requires_grad_()
        upstream = torch.randn(len(points), channels, generator=generator).to(points)

        def run(layer: Callable[..., Tensor], feats=feats, weights=weights, upstream=upstream) -> Callable[[], object]:
            def call() -> object:
                out = layer(points, points, neighbors, feats, weights, kernel, sigma)
                return out, torch.autograd.grad(out, (feats, weights), upstream)

            return call

        compiled = torch.compile(reference.kpconv)
        peers = {
            "torch": run(reference.kpconv),
            "torch, chunked": run(lambda *args: chunked(reference.kpconv, *args)),
            "torch, compiled": run(compiled),
        }
        if open3d_ml and not points.is_cuda:
            module = open3d_ml.KPConv(KERNEL_POINTS, 3, channels, channels, sigma, 1.5 * sigma)

            def theirs(module=module, feats=feats, upstream=upstream) -> object:
                out = module(points, points, neighbors, feats)
                return out, torch.autograd.grad(out, (feats, module.weights), upstream)

            peers["Open3D-ML"] = theirs

        def check(run=run) -> None:
            ours, plain = run(ops.kpconv)(), run(reference.kpconv)()
            torch.testing.assert_close(ours[0], plain[0], rtol=1e-3, atol=1e-3)  # type: ignore[index]

        yield Case(
            op="kpconv",
            variant=f"{channels} channels",
            input=f"room, {len(points):,} voxels",
            rows=len(points),
            ours=run(ops.kpconv),
            peers=peers,
            flops=3 * 2 * channels * (rows * channels + meetings),  # forward, and twice as much backward
            check=check,
        )
