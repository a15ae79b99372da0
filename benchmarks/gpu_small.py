"""Calls every op that has a CUDA kernel once, on small inputs, for compute-sanitizer; captures the searches in a graph.

compute-sanitizer python -m benchmarks.gpu_small
"""

from __future__ import annotations

import torch

from pcseg import ops


def searches(coords: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:  # (N, 16)
    """knn and radius_search, and both captured in a CUDA graph: they never wait for the GPU."""
    neighbors, _ = ops.knn(coords, coords, 16, query_offsets=offsets, support_offsets=offsets)
    index = ops.point_index(coords, offsets=offsets)
    assert torch.equal(ops.knn(coords, index, 16, query_offsets=offsets)[0], neighbors)
    within = ops.radius_search(coords, coords, 0.1, 20, query_offsets=offsets, support_offsets=offsets)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = ops.knn(coords, coords, 16, query_offsets=offsets, support_offsets=offsets)
        captured_within = ops.radius_search(coords, coords, 0.1, 20, query_offsets=offsets, support_offsets=offsets)
    graph.replay()
    assert torch.equal(captured, neighbors) and torch.equal(captured_within, within)
    return neighbors


def main() -> None:
    torch.manual_seed(0)
    points, channels = 3000, 24
    coords = torch.rand(points, 3, device="cuda")
    offsets = torch.tensor([0, 1000, 1000, points], device="cuda")
    feats = torch.randn(points, channels, device="cuda", requires_grad=True)
    neighbors = searches(coords, offsets)

    grid = ops.grid_subsample(coords, 0.1, offsets=offsets)
    labels = torch.randint(5, (points,), device="cuda")
    ops.voxel_features(grid, coords, feats, labels)
    ops.local_geometry(coords, neighbors)
    ops.height_above_minimum(coords, 0.2)
    ops.farthest_point_sample(coords, 100, offsets=offsets)

    results = [ops.segment_reduce(feats[grid.order], grid.point_offsets, reduce) for reduce in ("sum", "mean", "max")]
    results += [ops.neighbor_max(feats, neighbors), ops.gather_neighbors(feats, neighbors)]
    weights = torch.randn(15, channels, 32, device="cuda", requires_grad=True)
    kernel = torch.randn(15, 3, device="cuda") * 0.05
    results.append(ops.kpconv(coords, coords, neighbors, feats, weights, kernel, 0.05))
    sum(result.square().mean() for result in results).backward()  # pyright: ignore
    torch.cuda.synchronize()
    print("every op ran")


if __name__ == "__main__":
    main()
