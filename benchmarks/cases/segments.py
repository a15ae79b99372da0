"""segment_reduce, forward and backward, beside torch's three ways and torch-scatter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg import ops

OPS = ("segment_reduce",)

torch_scatter = optional("torch_scatter")
CHANNELS = 64
SCATTER = {"sum": "sum", "mean": "mean", "max": "amax"}


def differentiated(forward: Callable[[Tensor], Tensor], values: Tensor, upstream: Tensor) -> Callable[[], object]:
    leaf = values.clone().requires_grad_()

    def call() -> object:
        out = forward(leaf)
        return out, torch.autograd.grad(out, leaf, upstream)

    return call


def peers(values: Tensor, offsets: Tensor, reduce: str, upstream: Tensor) -> dict[str, Callable[[], object]]:
    segments, lengths = len(offsets) - 1, offsets.diff()
    segment = torch.repeat_interleave(lengths)
    wide = segment.unsqueeze(1).expand_as(values)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "torch scatter_reduce": lambda x: x.new_zeros(segments, CHANNELS).scatter_reduce(
            0, wide, x, SCATTER[reduce], include_self=False
        ),
        "torch segment_reduce": lambda x: torch.segment_reduce(x, reduce, lengths=lengths, unsafe=True),
    }
    if reduce == "sum":
        ways["torch index_add"] = lambda x: x.new_zeros(segments, CHANNELS).index_add(0, segment, x)
    if reduce == "mean":
        ways["torch index_add"] = lambda x: x.new_zeros(segments, CHANNELS).index_add(0, segment, x) / lengths[:, None]
    if torch_scatter:
        ways["torch-scatter"] = lambda x: torch_scatter.segment_csr(x, offsets, reduce=reduce)
    return {name: differentiated(way, values, upstream) for name, way in ways.items()}


def cases(clouds: Clouds) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    for name, size in (("ahn3", 1.0), ("lidar", 0.5)):
        grid = ops.grid_subsample(getattr(clouds, name)(), size)
        offsets, rows = grid.point_offsets, len(grid.order)
        values = torch.randn(rows, CHANNELS, generator=generator).to(clouds.device)
        upstream = torch.randn(len(offsets) - 1, CHANNELS, generator=generator).to(clouds.device)
        for reduce in ("sum", "mean", "max"):
            yield Case(
                op="segment_reduce",
                variant=f"{reduce}, {CHANNELS} channels",
                input=name,
                rows=rows,
                ours=differentiated(lambda x, o=offsets, r=reduce: ops.segment_reduce(x, o, r), values, upstream),
                peers=peers(values, offsets, reduce, upstream),
                bytes_moved=2 * values.nbytes + 2 * upstream.nbytes,
            )
