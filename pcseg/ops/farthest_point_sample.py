"""Few points that lie as far from each other as they can."""

from __future__ import annotations

import torch
from torch import Tensor

from pcseg.ops._library import call, check_device, check_offsets

MAX_DIMS = 8


def farthest_point_sample(
    coords: Tensor,  # (N, D) float32 or float64, D in 1..8, finite
    num_samples: int | Tensor,  # of each cloud; (B,) int64: of each its own
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
    start: int | Tensor = 0,  # row within each cloud; (B,) int64: each its own
) -> Tensor:  # (M,) int64
    """Rows of ``coords`` chosen one after the other, each the farthest from those before, in each cloud by itself.

    The first is the cloud's row ``start``. Each next one is the row, of those not yet chosen, with the largest squared
    distance to its nearest sample, ties to the lower row. So a prefix of a cloud's samples is what fewer samples would
    have been, and no row comes twice, even where points coincide. Squared distances are
    ``((dx * dx + dy * dy) + dz * dz)`` in the dtype of the coordinates; the result is the same for every number of
    threads, instruction set and device. Not differentiable.

    Args:
        num_samples: at least 0. A cloud with fewer points gives all of them.
        start: in [0, size) of each cloud that is sampled; an empty cloud needs none.

    Returns:
        (M,) rows in the order in which they are chosen, cloud after cloud: cloud b gives
        ``min(num_samples, offsets[b + 1] - offsets[b])``. With ``offsets`` on a GPU their sum is waited for; a single
        cloud needs no waiting.

    Raises:
        ValueError, TypeError: shapes, dtypes (half precision: cast to float32 first), devices, a negative
            ``num_samples``; on the CPU a coordinate that is not finite, a ``start`` outside its cloud, offsets that do
            not ascend from 0 to N (a GPU does not wait to look at them: they stop its work with an assertion).

    Source: Eldar et al., The farthest point strategy for progressive image sampling, IEEE TIP 6(9), 1997; pruned by
    boxes in the manner of Han et al., QuickFPS, IEEE TCAD 42(11), 2023.
    """
    op = "farthest_point_sample"
    if coords.ndim != 2 or not 1 <= coords.shape[1] <= MAX_DIMS:
        raise ValueError(f"{op}: coords must be (N, D) with D in 1..{MAX_DIMS}, got {tuple(coords.shape)}")
    if coords.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"{op}: coords is {coords.dtype}, too coarse for coordinates; cast to float32 (coords.float())")
    if coords.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: coords must be float32 or float64, got {coords.dtype}")
    num_clouds = 1
    if offsets is not None:
        check_offsets(op, "offsets", offsets)
        num_clouds = offsets.shape[0] - 1
    for name, value in (("num_samples", num_samples), ("start", start)):
        if isinstance(value, Tensor):
            if value.shape != (num_clouds,):
                raise ValueError(f"{op}: {name} must be (B,) = ({num_clouds},), got {tuple(value.shape)}")
            if value.dtype != torch.int64:
                raise TypeError(f"{op}: {name} must be int64, got {value.dtype}")
        elif isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
            raise TypeError(f"{op}: {name} must be an int or a (B,) int64 tensor, got {type(value).__name__}")
        elif value < 0:
            raise ValueError(f"{op}: {name} must be at least 0, got {value}")
    tensors = {"offsets": offsets, "num_samples": num_samples, "start": start}
    check_device(op, coords=coords, **{name: t for name, t in tensors.items() if isinstance(t, Tensor)})

    if not isinstance(start, Tensor):
        start = torch.full((num_clouds,), start, dtype=torch.int64, device=coords.device)
    total = -1
    if offsets is None:
        num_points = coords.shape[0]
        offsets = torch.tensor([0, num_points], device=coords.device)
        if not isinstance(num_samples, Tensor):
            total = torch.sym_min(num_samples, num_points)
    counts = offsets.diff().clamp(max=num_samples)
    sample_offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return call(torch.ops.pcseg.farthest_point_sample, coords.detach(), offsets, sample_offsets, start, total)


@torch.library.register_fake("pcseg::farthest_point_sample")
def _(coords: Tensor, offsets: Tensor, sample_offsets: Tensor, start: Tensor, num_samples: int) -> Tensor:
    if num_samples == -1:
        num_samples = torch.library.get_ctx().new_dynamic_size()
    return coords.new_empty(num_samples, dtype=torch.int64)
