"""farthest_point_sample against fpsample's bucket samplers: 100,000 points (or the frame) to 10,000; and Open3D.

Open3D compares every point with every sample (100,000 to 10,000: 82 s), so it takes part in a small case only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg.ops import farthest_point_sample

OPS = ("farthest_point_sample",)

POINTS, SAMPLES = 100_000, 10_000
OPEN3D_PAIRS = 2_000_000
HEIGHTS = (5, 6, 7, 8, 9)  # of fpsample's tree: the best of them is its figure


def cases(clouds: Clouds) -> Iterator[Case]:
    inputs = {"ahn3": clouds.ahn3(), "room": clouds.room(), "lidar": clouds.lidar()}
    for name, coords in inputs.items():
        coords = some(coords)
        yield case(name, coords, SAMPLES)
        yield case(name, coords, SAMPLES // 10)
    yield case("ahn3_10k", some(inputs["ahn3"], POINTS // 10), 200)
    yield case("ahn3_whole", inputs["ahn3"], inputs["ahn3"].shape[0] // 10)


def some(coords: Tensor, count: int = POINTS) -> Tensor:
    """Random rows in ascending order, all where there are fewer."""
    order = torch.randperm(coords.shape[0], generator=torch.Generator().manual_seed(0))
    return coords[order[:count].sort()[0].to(coords.device)].contiguous()


def case(name: str, coords: Tensor, samples: int) -> Case:
    points = coords.cpu().numpy()
    return Case(
        op="farthest_point_sample",
        variant=f"{samples} samples",
        input=name,
        rows=coords.shape[0],
        ours=lambda: farthest_point_sample(coords, samples),
        peers={} if coords.is_cuda else peers(points, samples),
        bytes_moved=points.nbytes + 8 * samples,
        check=lambda: check(coords, samples),
    )


def peers(points: np.ndarray, samples: int) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    fpsample, open3d = optional("fpsample"), optional("open3d")
    if fpsample:
        for h in HEIGHTS:
            found[f"fpsample kd-line, h = {h}"] = lambda h=h: fpsample.bucket_fps_kdline_sampling(points, samples, h=h)
        found["fpsample kd-tree"] = lambda: fpsample.bucket_fps_kdtree_sampling(points, samples)
    if open3d and len(points) * samples <= OPEN3D_PAIRS:
        cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(points))
        found["Open3D"] = lambda: cloud.farthest_point_down_sample(samples)
    return found


def check(coords: Tensor, samples: int) -> None:
    """fpsample finds the same rows from its start, which is drawn at random; where distances tie, equally good ones."""
    fpsample = optional("fpsample")
    if not fpsample:
        return
    theirs = torch.from_numpy(fpsample.bucket_fps_kdline_sampling(coords.cpu().numpy(), samples, h=7).astype(np.int64))
    ours = farthest_point_sample(coords, samples, start=int(theirs[0])).cpu()
    differ = (ours != theirs).nonzero()
    same = int(differ[0]) if len(differ) else samples
    assert same >= min(samples, 100), f"rows differ from fpsample's from place {same} on"
