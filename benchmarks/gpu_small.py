"""Calls every op that has a CUDA kernel once, on small inputs, for compute-sanitizer; captures the searches in a graph.

compute-sanitizer python -m benchmarks.gpu_small
"""

from __future__ import annotations

import torch

from pcseg import ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # a CPU shows that the script itself works


def searches(coords: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:  # (N, 16)
    """knn and radius_search, and both captured in a CUDA graph: they never wait for the GPU."""
    neighbors, _ = ops.knn(coords, coords, 16, query_offsets=offsets, support_offsets=offsets)
    index = ops.point_index(coords, offsets=offsets)
    assert torch.equal(ops.knn(coords, index, 16, query_offsets=offsets)[0], neighbors)
    within = ops.radius_search(coords, coords, 0.1, 20, query_offsets=offsets, support_offsets=offsets)
    if DEVICE == "cpu":
        return neighbors
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
    coords = torch.rand(points, 3, device=DEVICE)
    offsets = torch.tensor([0, 1000, 1000, points], device=DEVICE)
    feats = torch.randn(points, channels, device=DEVICE, requires_grad=True)
    neighbors = searches(coords, offsets)

    grid = ops.grid_subsample(coords, 0.1, offsets=offsets)
    labels = torch.randint(5, (points,), device=DEVICE)
    ops.voxel_features(grid, coords, feats, labels)
    ops.local_geometry(coords, neighbors)
    ops.height_above_minimum(coords, 0.2)
    ops.farthest_point_sample(coords, 100, offsets=offsets)

    results = [ops.segment_reduce(feats[grid.order], grid.point_offsets, reduce) for reduce in ("sum", "mean", "max")]
    results += [ops.neighbor_max(feats, neighbors), ops.gather_neighbors(feats, neighbors)]
    weights = torch.randn(15, channels, 32, device=DEVICE, requires_grad=True)
    kernel = torch.randn(15, 3, device=DEVICE) * 0.05
    results.append(ops.kpconv(coords, coords, neighbors, feats, weights, kernel, 0.05))

    log_probs = feats.log_softmax(1)
    results.append(ops.potts_energy(log_probs, neighbors, torch.rand(neighbors.shape, device=DEVICE), "cd"))
    results.append(ops.gaussian_filter(feats, coords / 0.1, offsets=offsets))
    position = torch.randn(points, 16, 3, device=DEVICE, requires_grad=True)
    to_channels = torch.randn(channels, 3, device=DEVICE), torch.zeros(channels, device=DEVICE)
    mean, var = ops.attention_statistics(feats, feats, neighbors, position, *to_channels)
    fold = (var + 1e-5).rsqrt(), -mean
    weight, bias = torch.randn(6, channels, device=DEVICE, requires_grad=True), torch.zeros(6, device=DEVICE)
    pairs = feats, feats, neighbors, position, *to_channels
    relation = ops.attention_relation(*pairs, *fold, weight, bias)
    results.append(ops.attention_aggregate(relation, feats, neighbors, position, *to_channels))

    sum(result.square().mean() for result in results).backward()  # pyright: ignore
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    print(f"every op ran on {DEVICE}")


if __name__ == "__main__":
    main()
