"""knn and radius_search beside k-d trees and Open3D; every side builds its index and searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.case import Case, optional
from benchmarks.clouds import Clouds
from pcseg import ops

OPS = ("knn", "radius_search")

pykdtree, pynanoflann, scipy_spatial = map(optional, ("pykdtree.kdtree", "pynanoflann", "scipy.spatial"))
MANY = 200_000  # rows above which peers that are ten times behind on smaller inputs sit out
neighbors, open3d, torch_cluster = map(optional, ("sklearn.neighbors", "open3d", "torch_cluster"))


def morton_order(coords: Tensor) -> Tensor:  # (N,)
    """Rows along a Morton curve of 2^21 cells an axis: a sorted input is what a k-d tree likes best."""
    unit = (coords - coords.amin(0)) / (coords.amax(0) - coords.amin(0)).amax()
    cell = (unit.double() * ((1 << 21) - 1)).long()
    key = torch.zeros_like(cell[:, 0])
    for bit in range(21):
        for axis in range(3):
            key |= (cell[:, axis] >> bit & 1) << (3 * bit + axis)
    return key.argsort()


def brute_force(query: Tensor, support: Tensor, k: int) -> Tensor:
    """What a GPU does without an index: all distances, in chunks, and the smallest of each row."""
    rows = max(1, (1 << 28) // len(support))
    return torch.cat([torch.cdist(part, support).topk(k, largest=False).indices for part in query.split(rows)])


def knn_peers(query: Tensor, support: Tensor, k: int) -> dict[str, Callable[[], object]]:
    peers: dict[str, Callable[[], object]] = {}
    if torch_cluster and len(query) < MANY:
        peers["torch-cluster"] = lambda: torch_cluster.knn(support, query, k)
    if query.is_cuda:
        few = len(query) * len(support) < 2e11  # beyond, all pairs take minutes
        return peers | ({"torch cdist + topk": lambda: brute_force(query, support, k)} if few else {})
    q, s = query.numpy(), support.numpy()
    threads = torch.get_num_threads()
    if pykdtree:
        peers["pykdtree"] = lambda: pykdtree.KDTree(s).query(q, k=k)
    if pynanoflann:

        def nanoflann() -> object:
            tree = pynanoflann.KDTree(n_neighbors=k, metric="L2")
            tree.fit(s)
            return tree.kneighbors(q, n_jobs=threads)

        peers["pynanoflann"] = nanoflann
    if scipy_spatial:
        peers["scipy"] = lambda: scipy_spatial.cKDTree(s).query(q, k=k, workers=threads)
    if neighbors and len(query) < MANY:
        peers["scikit-learn"] = lambda: neighbors.KDTree(s).query(q, k=k)
    if open3d:
        x, y = open3d.core.Tensor.from_numpy(q), open3d.core.Tensor.from_numpy(s)

        def open3d_knn() -> object:
            search = open3d.core.nns.NearestNeighborSearch(y)
            search.knn_index()
            return search.knn_search(x, k)

        peers["open3d"] = open3d_knn
    return peers


def radius_peers(coords: Tensor, radius: float, most: int) -> dict[str, Callable[[], object]]:
    peers: dict[str, Callable[[], object]] = {}
    if coords.is_cuda:
        return peers
    points = coords.numpy()
    if open3d:
        x = open3d.core.Tensor.from_numpy(points)

        def hybrid() -> object:
            search = open3d.core.nns.NearestNeighborSearch(x)
            search.hybrid_index(radius)
            return search.hybrid_search(x, radius, most)

        def fixed() -> object:
            search = open3d.core.nns.NearestNeighborSearch(x)
            search.fixed_radius_index(radius)
            return search.fixed_radius_search(x, radius, sort=True)

        peers |= {"open3d hybrid": hybrid, "open3d fixed radius": fixed}
    if scipy_spatial:
        threads = torch.get_num_threads()
        peers["scipy"] = lambda: scipy_spatial.cKDTree(points).query(
            points, k=most, distance_upper_bound=radius, workers=threads
        )
    if pykdtree:
        peers["pykdtree, bound"] = lambda: pykdtree.KDTree(points).query(points, k=most, distance_upper_bound=radius)
    return peers


def agrees_with_scipy(query: Tensor, support: Tensor, k: int) -> None:
    sample = torch.randperm(len(query), generator=torch.Generator().manual_seed(0))[:2000]
    found = ops.knn(query, support, k)[1].cpu()[sample].double().sqrt().numpy()
    tree = scipy_spatial.cKDTree(support.double().cpu().numpy())
    wanted = tree.query(query.cpu()[sample].double().numpy(), k=k)[0]
    np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=1e-4, atol=1e-6)


def knn_case(variant: str, name: str, query: Tensor, support: Tensor, k: int, with_peers: bool = True) -> Case:
    return Case(
        op="knn",
        variant=f"{variant} k={k}",
        input=name,
        rows=len(query),
        ours=lambda: ops.knn(query, support, k),
        peers=knn_peers(query, support, k) if with_peers else {},
        bytes_moved=query.nbytes + support.nbytes + len(query) * k * 12,
        check=partial(agrees_with_scipy, query, support, k) if scipy_spatial else None,
    )


def kept_case(name: str, query: Tensor, support: Tensor, k: int) -> Case:
    """The index, and the tree of the fastest peer, built before."""
    index = ops.point_index(support)
    peers: dict[str, Callable[[], object]] = {}
    if pykdtree and not query.is_cuda:
        tree, rows = pykdtree.KDTree(support.numpy()), query.numpy()
        peers["pykdtree, tree kept"] = lambda: tree.query(rows, k=k)
    return Case(
        op="knn",
        variant=f"cross k={k}, index kept",
        input=name,
        rows=len(query),
        ours=lambda: ops.knn(query, index, k),
        peers=peers,
        bytes_moved=query.nbytes + support.nbytes + len(query) * k * 12,
    )


def cases(clouds: Clouds) -> Iterator[Case]:
    room = clouds.room()
    inputs = {
        "ahn3": (clouds.ahn3(), 1.5),
        "ahn3 voxels": (clouds.ahn3_voxels(), 1.5),
        "room": (room, 0.1),
        "room, sorted": (room[morton_order(room)], 0.1),
        "lidar": (clouds.lidar(), 0.5),
    }
    for name, (coords, _) in inputs.items():
        for k in (16, 32):
            yield knn_case("self", name, coords, coords, k)
        generator = torch.Generator().manual_seed(0)
        near = coords + 0.05 * torch.randn(coords.shape, generator=generator).to(coords)
        if "sorted" not in name:
            near = near[torch.randperm(len(coords), generator=generator).to(coords.device)]
        for k in (1, 3, 16):
            yield knn_case("cross", name, near, coords, k)
        if name in ("room", "lidar"):
            yield kept_case(name, near, coords, 1)
    for name, (coords, radius) in inputs.items():
        for most in (34, 64):
            yield Case(
                op="radius_search",
                variant=f"self {radius} m, most {most}",
                input=name,
                rows=len(coords),
                ours=lambda coords=coords, radius=radius, most=most: ops.radius_search(coords, coords, radius, most),
                peers=radius_peers(coords, radius, most),
                bytes_moved=2 * coords.nbytes + len(coords) * most * 8,
            )
    for count in (10_000, 100_000, 1_000_000, 10_000_000):
        cube = clouds.cube(count)
        yield knn_case("self", f"cube {count:,}", cube, cube, 16, with_peers=count <= 1_000_000)
