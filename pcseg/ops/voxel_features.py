"""What a voxel keeps of its points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_float
from pcseg.ops.grid_subsample import MAX_DIMS, VoxelGrid


class VoxelFeatures(NamedTuple):
    """One row a voxel."""

    coords: Tensor  # (V, D) barycentre
    feats: Tensor | None  # (V, C) mean
    labels: Tensor | None  # (V,) int64, majority


def voxel_features(
    grid: VoxelGrid,
    coords: Tensor,  # (N, D) float32 or float64, D in 1..8
    feats: Tensor | None = None,  # (N, C) float32 or float64
    labels: Tensor | None = None,  # (N,) int64 >= IGNORE
) -> VoxelFeatures:
    """Barycentre, mean features and majority label of each voxel of ``grid``.

    Barycentres are summed in double, so float32 coordinates lose nothing, far from the origin either. Means are sums in
    the order of the points, in the dtype of ``feats``, over their number. A majority goes to the lower class among
    equals, and to IGNORE only where every point of the voxel is IGNORE; any number of classes. Nothing depends on the
    number of threads. A voxel without points (no grid_subsample makes one) gets 0, 0 and IGNORE.

    Differentiable in ``feats``, once. Under autocast reduced-precision ``feats`` are cast to float32.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, a label below IGNORE.
    """
    _check(grid, coords, feats, labels)
    voxel_coords, voxel_feats, voxel_labels = call(
        torch.ops.pcseg.voxel_features, coords, feats, labels, grid.voxel_of_point, grid.order, grid.point_offsets
    )
    return VoxelFeatures(voxel_coords, None if feats is None else voxel_feats, None if labels is None else voxel_labels)


def _check(grid: VoxelGrid, coords: Tensor, feats: Tensor | None, labels: Tensor | None) -> None:
    op = "voxel_features"
    check_float(op, "coords", coords, "(N, D)")
    if not 1 <= coords.shape[1] <= MAX_DIMS:
        raise ValueError(f"{op}: coords must have 1 to {MAX_DIMS} dimensions, got {coords.shape[1]}")
    rows = coords.shape[0]
    if grid.order.shape != (rows,) or grid.voxel_of_point.shape != (rows,):
        raise ValueError(f"{op}: the grid has {grid.order.shape[0]} points, coords {rows}")
    if feats is not None:
        check_float(op, "feats", feats, "(N, C)")
        if feats.shape[0] != rows:
            raise ValueError(f"{op}: feats must have N = {rows} rows, got {feats.shape[0]}")
    if labels is not None:
        if labels.shape != (rows,):
            raise ValueError(f"{op}: labels must be (N = {rows},), got {tuple(labels.shape)}")
        if labels.dtype != torch.int64:
            raise TypeError(f"{op}: labels must be int64, got {labels.dtype}")
    check_device(op, coords=coords, feats=feats, labels=labels, grid=grid.order)


@torch.library.register_fake("pcseg::voxel_features")
def _(coords, feats, labels, voxel_of_point, order, point_offsets) -> tuple[Tensor, Tensor, Tensor]:
    voxels = point_offsets.shape[0] - 1
    return (
        coords.new_empty(voxels, coords.shape[1]),
        coords.new_empty(voxels, 0) if feats is None else feats.new_empty(voxels, feats.shape[1]),
        point_offsets.new_empty(0 if labels is None else voxels),
    )


def _setup_context(ctx, inputs, output) -> None:
    _, feats, _, voxel_of_point, _, point_offsets = inputs
    ctx.has_feats = feats is not None
    ctx.save_for_backward(voxel_of_point, point_offsets)
    ctx.mark_non_differentiable(output[0], output[2])


def _backward(ctx, _grad_coords, grad_feats: Tensor, _grad_labels):
    voxel_of_point, point_offsets = ctx.saved_tensors
    grad = None
    if ctx.has_feats:
        counts = point_offsets.diff().clamp(min=1).unsqueeze(1).to(grad_feats.dtype)
        grad = (grad_feats / counts).index_select(0, voxel_of_point)
    return None, grad, None, None, None, None


torch.library.register_autograd("pcseg::voxel_features", _backward, setup_context=_setup_context)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("pcseg::voxel_features", _device, torch.float32)
