"""The neighbours of every pixel of an image, as its network reads them: by the grid, by place, by place and colour."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg import ops
from pcseg.images import color_edges, image_batch, image_edges

OPS = ("pixel_graph",)

EDGE, NEIGHBORS = 512, 8
COLOR_SCALE = 1 / 9


def cases(clouds: Clouds) -> Iterator[Case]:
    if clouds.device != "cpu":
        return
    image = clouds.image().repeat(2, 1, 1)[:EDGE, :EDGE].float().contiguous()
    batch = image_batch(image)
    assert batch.image_sizes is not None
    coords, colors, sizes = batch.coords, batch.feats, batch.image_sizes
    joined = torch.cat([coords, colors * COLOR_SCALE], 1)
    shared = {"op": "pixel_graph", "input": f"image {EDGE} x {EDGE}", "rows": EDGE * EDGE}
    yield Case(
        variant=f"grid, {NEIGHBORS} neighbours, contrast weights",
        ours=lambda: image_edges(colors, sizes, NEIGHBORS),
        peers=by_grid(image),
        **shared,
    )
    yield Case(
        variant=f"k = {NEIGHBORS} nearest places",
        ours=lambda: ops.nearest_others(coords, NEIGHBORS),
        peers=by_search(coords),
        check=lambda: check(coords),
        **shared,
    )
    yield Case(
        variant=f"k = {NEIGHBORS} nearest in place and colour, weights",
        ours=lambda: color_edges(coords, colors, NEIGHBORS, color_scale=COLOR_SCALE),
        peers=by_search(joined),
        check=lambda: check(joined),
        **shared,
    )


def by_grid(image: Tensor) -> dict[str, Callable[[], object]]:
    """scikit-learn's graph of a picture: 4 neighbours, absolute gradients, one channel at a time."""
    graphs = optional("sklearn.feature_extraction.image")
    if not graphs:
        return {}
    planes = [np.ascontiguousarray(image[:, :, channel].numpy()) for channel in range(image.shape[2])]
    return {"scikit-learn, 4 neighbours": lambda: [graphs.img_to_graph(plane) for plane in planes]}


def by_search(points: Tensor) -> dict[str, Callable[[], object]]:
    """Building the tree is part of it; the pixel itself is among its neighbours."""
    found: dict[str, Callable[[], object]] = {}
    array, threads = points.numpy(), torch.get_num_threads()
    pykdtree, spatial = optional("pykdtree.kdtree"), optional("scipy.spatial")
    if pykdtree:
        found["pykdtree"] = lambda: pykdtree.KDTree(array).query(array, NEIGHBORS + 1)
    if spatial:
        found["scipy"] = lambda: spatial.cKDTree(array).query(array, NEIGHBORS + 1, workers=threads)
    return found


def check(points: Tensor) -> None:
    """Distances of some rows against all pairs."""
    some = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:200]
    expected = torch.cdist(points[some].double(), points.double()).square()
    expected[torch.arange(200), some] = torch.inf
    found = ops.nearest_others(points, NEIGHBORS)[1][some].double()
    torch.testing.assert_close(found, expected.topk(NEIGHBORS, largest=False).values, atol=1e-3, rtol=1e-4)
