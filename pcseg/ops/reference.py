"""The ops in plain PyTorch: any device, any float dtype, differentiable by autograd. Readable, not fast."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.ops.grid_subsample import VoxelGrid
from pcseg.ops.local_geometry import LocalGeometry
from pcseg.ops.voxel_features import VoxelFeatures


def kpconv(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
    feats: Tensor,  # (N, C)
    weights: Tensor,  # (K, C, O)
    kernel_points: Tensor,  # (K, D)
    sigma: float,
    *,
    kernel_offsets: Tensor | None = None,  # (M, K, D)
    modulations: Tensor | None = None,  # (M, K)
) -> Tensor:  # (M, O)
    """``pcseg.ops.kpconv``."""
    missing = neighbors == support.shape[0]
    relative = torch.cat([support, support.new_zeros(1, support.shape[1])])[neighbors] - query.unsqueeze(1)  # (M, H, D)
    points = kernel_points if kernel_offsets is None else (kernel_points + kernel_offsets).unsqueeze(1)
    distance = torch.linalg.vector_norm(relative.unsqueeze(2) - points, dim=-1)  # (M, H, K)
    influence = (1 - distance / sigma).clamp(min=0).masked_fill(missing.unsqueeze(-1), 0)
    gathered = torch.cat([feats, feats.new_zeros(1, feats.shape[1])])[neighbors]  # (M, H, C)
    weighted = torch.einsum("mhk,mhc->mkc", influence, gathered)
    if modulations is not None:
        weighted = weighted * modulations.unsqueeze(-1)
    return torch.einsum("mkc,kco->mo", weighted, weights)


def kpconv_fitting_distance(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
    kernel_points: Tensor,  # (K, D)
    sigma: float,
    kernel_offsets: Tensor,  # (M, K, D)
) -> Tensor:  # (M, K)
    """``pcseg.ops.kpconv_fitting_distance``."""
    missing = neighbors == support.shape[0]
    relative = torch.cat([support, support.new_zeros(1, support.shape[1])])[neighbors] - query.unsqueeze(1)  # (M, H, D)
    sq_dist = (relative.unsqueeze(2) - kernel_points - kernel_offsets.unsqueeze(1)).square().sum(-1)  # (M, H, K)
    nearest = sq_dist.masked_fill(missing.unsqueeze(-1), torch.inf).amin(1) / sigma**2
    return torch.where(missing.all(1, keepdim=True), 0, nearest)


def _attention_differences(
    query: Tensor,  # (M, C)
    key: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
) -> tuple[Tensor, Tensor]:  # (M, k, C), (M, k, 1) bool
    present = (neighbors < key.shape[0]).unsqueeze(-1)
    delta = (position @ position_weight.T + position_bias) * present
    return query.unsqueeze(1) * present - gather_neighbors(key, neighbors) + delta, present


def attention_relation(
    query: Tensor,  # (M, C)
    key: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
    scale: Tensor,  # (C,)
    shift: Tensor,  # (C,)
    weight: Tensor,  # (G, C)
    bias: Tensor,  # (G,)
) -> Tensor:  # (M, k, G)
    """``pcseg.ops.attention_relation``."""
    x, present = _attention_differences(query, key, neighbors, position, position_weight, position_bias)
    return ((x * scale + shift).relu() @ weight.T + bias) * present


def attention_statistics(
    query: Tensor,  # (M, C)
    key: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
) -> tuple[Tensor, Tensor]:  # (C,), (C,)
    """``pcseg.ops.attention_statistics``."""
    x, present = _attention_differences(query, key, neighbors, position, position_weight, position_bias)
    count = present.sum().clamp(min=1)
    mean = x.sum((0, 1)) / count
    return mean, ((x - mean) * present).square().sum((0, 1)) / count


def attention_aggregate(
    logits: Tensor,  # (M, k, G)
    value: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    position: Tensor,  # (M, k, P)
    position_weight: Tensor,  # (C, P)
    position_bias: Tensor,  # (C,)
) -> Tensor:  # (M, C)
    """``pcseg.ops.attention_aggregate``."""
    zeros = value.new_zeros(neighbors.shape[0], value.shape[1])
    x, present = _attention_differences(zeros, -value, neighbors, position, position_weight, position_bias)
    # Finite, so that a row without neighbours has finite gradients; present puts its weights to 0.
    probs = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(1) * present
    repeat = value.shape[1] // logits.shape[2]
    return (probs.repeat(1, 1, repeat) * x).sum(1)


def norm_linear(
    rows: Tensor,  # (R, C)
    norm_weight: Tensor,  # (C,)
    norm_bias: Tensor,  # (C,)
    weight: Tensor,  # (O, C)
    bias: Tensor,  # (O,)
    *,
    mean: Tensor | None = None,  # (C,)
    var: Tensor | None = None,  # (C,)
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:  # (R, O), (C,), (C,)
    """``pcseg.ops.norm_linear``."""
    if mean is None or var is None:
        mean, var = rows.mean(0), rows.var(0, correction=0)
    normed = (rows - mean) / (var + eps).sqrt() * norm_weight + norm_bias
    return normed.relu() @ weight.T + bias, mean, var


def norm_attention(
    relation: Tensor,  # (M, k, G)
    norm_weight: Tensor,  # (G,)
    norm_bias: Tensor,  # (G,)
    weight: Tensor,  # (H, G)
    bias: Tensor,  # (H,)
    *pairs: Tensor,  # of attention_aggregate, behind the logits
    mean: Tensor | None = None,  # (G,)
    var: Tensor | None = None,  # (G,)
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:  # (M, C), (G,), (G,)
    """``pcseg.ops.norm_attention``."""
    rows = relation.flatten(0, 1)
    out, mean, var = norm_linear(rows, norm_weight, norm_bias, weight, bias, mean=mean, var=var, eps=eps)
    return attention_aggregate(out.unflatten(0, relation.shape[:2]), *pairs), mean, var


def neighbor_max(
    values: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, H) int64, N where there is no neighbour
) -> Tensor:  # (M, C)
    """``pcseg.ops.neighbor_max``."""
    if neighbors.shape[1] == 0:
        return values.new_zeros(neighbors.shape[0], values.shape[1]) + 0 * values.sum()
    missing = neighbors == values.shape[0]
    gathered = torch.cat([values, values.new_zeros(1, values.shape[1])])[neighbors]  # (M, H, C)
    # torch.max along an axis sends the gradient to one index, amax splits it among equals.
    largest = gathered.masked_fill(missing.unsqueeze(-1), -torch.inf).max(1).values
    return largest.masked_fill(missing.all(1, keepdim=True), 0)


def knn(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    k: int,
    *,
    query_offsets: Tensor | None = None,  # (B + 1,) int64
    support_offsets: Tensor | None = None,  # (B + 1,) int64
) -> tuple[Tensor, Tensor]:  # (M, k) int64, (M, k)
    """``pcseg.ops.knn``."""
    query_bounds = [0, query.shape[0]] if query_offsets is None else query_offsets.tolist()
    support_bounds = [0, support.shape[0]] if support_offsets is None else support_offsets.tolist()
    index = torch.full((query.shape[0], k), support.shape[0], device=query.device)
    sq_dist = query.new_full((query.shape[0], k), torch.inf)
    clouds = zip(query_bounds, query_bounds[1:], support_bounds, support_bounds[1:])
    for first_query, end_query, first_support, end_support in clouds:
        pairs = query.new_zeros(end_query - first_query, end_support - first_support)
        for x, y in zip(query[first_query:end_query].T, support[first_support:end_support].T):
            difference = y - x.unsqueeze(1)
            pairs = pairs + difference * difference
        pairs = pairs.nan_to_num(torch.inf, posinf=torch.inf)
        nearest, row = pairs.sort(dim=1, stable=True)
        nearest, row = nearest[:, :k], row[:, :k] + first_support
        sq_dist[first_query:end_query, : nearest.shape[1]] = nearest
        index[first_query:end_query, : nearest.shape[1]] = row.where(nearest < torch.inf, support.shape[0])
    return index, sq_dist


def radius_search(
    query: Tensor,  # (M, D)
    support: Tensor,  # (N, D)
    radius: float,
    max_neighbors: int,
    *,
    query_offsets: Tensor | None = None,  # (B + 1,) int64
    support_offsets: Tensor | None = None,  # (B + 1,) int64
) -> Tensor:  # (M, max_neighbors) int64
    """``pcseg.ops.radius_search``."""
    index, sq_dist = knn(query, support, max_neighbors, query_offsets=query_offsets, support_offsets=support_offsets)
    reach = query.new_tensor(radius)
    return index.where(sq_dist <= reach * reach, support.shape[0])


def grid_subsample(
    coords: Tensor,  # (N, D)
    voxel_size: float,
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64
) -> VoxelGrid:
    """``pcseg.ops.grid_subsample``."""
    if offsets is None:
        offsets = torch.tensor([0, coords.shape[0]], device=coords.device)
    # A tensor of its own: on a GPU, division by a number becomes multiplication by its inverse.
    cells = (coords / torch.full_like(coords, voxel_size)).floor().long()
    clouds = torch.arange(offsets.shape[0] - 1, device=coords.device).repeat_interleave(offsets.diff())
    voxels, voxel_of_point = torch.unique(torch.cat([clouds[:, None], cells], 1), dim=0, return_inverse=True)
    return VoxelGrid(
        voxel_of_point,
        torch.argsort(voxel_of_point, stable=True),
        torch.searchsorted(voxel_of_point.sort()[0], torch.arange(voxels.shape[0] + 1, device=coords.device)),
        torch.searchsorted(voxels[:, 0].contiguous(), torch.arange(offsets.shape[0], device=coords.device)),
    )


def voxel_features(
    grid: VoxelGrid,
    coords: Tensor,  # (N, D)
    feats: Tensor | None = None,  # (N, C)
    labels: Tensor | None = None,  # (N,) int64 >= IGNORE
) -> VoxelFeatures:
    """``pcseg.ops.voxel_features``."""
    voxels = grid.point_offsets.shape[0] - 1
    counts = grid.point_offsets.diff().clamp(min=1).unsqueeze(1)

    def mean(rows: Tensor) -> Tensor:
        return rows.new_zeros(voxels, rows.shape[1]).index_add(0, grid.voxel_of_point, rows) / counts.to(rows.dtype)

    majority = None
    if labels is not None:
        # Column 0 counts IGNORE; it wins only where all others are empty.
        classes = int(labels.max()) + 1 if labels.numel() else 0
        votes = labels.new_zeros(voxels, classes + 1)
        votes.index_put_((grid.voxel_of_point, labels + 1), labels.new_ones(()), accumulate=True)
        majority = labels.new_full((voxels,), IGNORE)
        if classes:
            most, best = votes[:, 1:].max(1)
            majority = torch.where(most > 0, best, majority)
    return VoxelFeatures(mean(coords.double()).to(coords.dtype), None if feats is None else mean(feats), majority)


def segment_reduce(
    values: Tensor,  # (N, C)
    offsets: Tensor,  # (S + 1,) int64
    reduce: Literal["sum", "mean", "max"],
) -> Tensor:  # (S, C)
    """``pcseg.ops.segment_reduce``."""
    rows = []
    for first, last in itertools.pairwise(offsets.tolist()):
        segment = values[first:last]
        if first == last:
            rows.append(values.new_zeros(values.shape[1]))
        elif reduce == "max":
            rows.append(segment.max(0).values)
        else:
            rows.append(segment.sum(0) / (last - first if reduce == "mean" else 1))
    return torch.stack(rows) if rows else values.new_zeros(0, values.shape[1])


def gather_neighbors(
    values: Tensor,  # (N, C)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
    fill: float = 0.0,
) -> Tensor:  # (M, k, C)
    """``pcseg.ops.gather_neighbors``."""
    return torch.cat([values, values.new_full((1, values.shape[1]), fill)])[neighbors]


def local_geometry(
    coords: Tensor,  # (N, D)
    neighbors: Tensor,  # (M, k) int64, N where there is no neighbour
) -> LocalGeometry:
    """``pcseg.ops.local_geometry``."""
    dims = coords.shape[1]
    present = (neighbors < coords.shape[0]).unsqueeze(-1)
    count = present.sum(1).clamp(min=1)  # (M, 1)
    points = torch.cat([coords, coords.new_zeros(1, dims)]).double()[neighbors]  # (M, k, D)
    centred = (points - points.sum(1, keepdim=True) / count.unsqueeze(-1)) * present
    covariance = centred.mT @ centred / count.unsqueeze(-1)
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    values = values.flip(1).clamp(min=0)
    flat = values[:, :1] == 0
    up = values.new_tensor([0.0] * (dims - 1) + [1.0])
    normals = torch.where(flat, up, vectors[:, :, 0])
    normals = normals * torch.where(normals[:, -1:] < 0, -1, 1)
    largest, least = values[:, 0], values[:, -1]
    shares = values / values.sum(1, keepdim=True).where(~flat, 1)
    divisor = largest.where(~flat[:, 0], 1)
    features = (
        (largest - values[:, 1]) / divisor,
        (values[:, 1] - least) / divisor,
        least / divisor,
        values.prod(1) ** (1 / dims),
        (largest - least) / divisor,
        -torch.xlogy(shares, shares).sum(1),
        shares[:, -1],
        1 - normals[:, -1].abs(),
    )
    return LocalGeometry(*(t.to(coords.dtype) for t in (values, normals, *features)))


def height_above_minimum(
    coords: Tensor,  # (N, 3)
    cell_size: float,
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64
) -> Tensor:  # (N,)
    """``pcseg.ops.height_above_minimum``."""
    lengths = coords.new_tensor([coords.shape[0]], dtype=torch.int64) if offsets is None else offsets.diff()
    cloud = torch.arange(lengths.shape[0], device=coords.device).repeat_interleave(lengths)
    cells = (coords[:, :2] / torch.full_like(coords[:, :2], cell_size)).floor()
    near = ((cells[:, None] - cells[None]).abs() <= 1).all(-1) & (cloud[:, None] == cloud[None])  # (N, N)
    if coords.shape[0] == 0:
        return coords.new_zeros(0)
    return coords[:, 2] - coords[:, 2].where(near, torch.inf).amin(1)


def potts_energy(
    log_probs: Tensor,  # (N, K)
    neighbors: Tensor,  # (N, k) int64, N where there is no neighbour
    edge_weight: Tensor,  # (N, k)
    relaxation: Literal["bl", "q", "nq", "cce", "cd", "lq"],
) -> Tensor:  # (N,)
    """``pcseg.ops.potts_energy``, from the formulas on probabilities: "lq" loses digits near one-hot ends."""
    present = neighbors < log_probs.shape[0]
    p = log_probs.clamp(min=-30).exp()
    if relaxation in ("nq", "cd"):
        p = p / p.norm(dim=1, keepdim=True)
    row = torch.arange(log_probs.shape[0], device=p.device).unsqueeze(1)
    p, q = p.unsqueeze(1), p[neighbors.where(present, row)]  # (N, 1, K), (N, k, K)
    if relaxation in ("q", "nq"):
        pair = (p - q).square().sum(-1) / 2
    elif relaxation == "lq":
        pair = -torch.log(1 - (p - q).square().sum(-1) / 2)
    else:
        product = (p * q).sum(-1)
        pair = 1 - product if relaxation == "bl" else -torch.log(product)
    return (pair * edge_weight).where(present, 0).sum(1)


def potts_descent(
    values: Tensor,  # (N, K)
    log_probs: Tensor,  # (N, K)
    labels: Tensor,  # (N,) int64
    neighbors: Tensor,  # (N, k) int64
    edge_weight: Tensor,  # (N, k)
    relaxation: Literal["bl", "q", "nq", "cce", "cd", "lq"],
    coupling: Literal["ce", "rce", "cce"],
    *,
    unary_weight: float,
    pairwise_weight: float,
    lr: float,
    steps: int,
) -> Tensor:  # (N, K)
    """``pcseg.ops.potts_descent`` on the lists themselves, its gradient by autograd."""
    held = (labels >= 0).unsqueeze(1)
    one_hot = torch.full_like(values, -30.0).scatter(1, labels.clamp(min=0).unsqueeze(1), 0.0)
    log_q = log_probs.clamp(min=-30)
    for _ in range(steps):
        leaf = values.detach().requires_grad_()
        log_y = torch.where(held, one_hot, leaf.log_softmax(1))
        if coupling == "ce":
            coupled = -(log_y.exp() * log_q).sum(1)
        elif coupling == "rce":
            coupled = -(log_q.exp() * log_y).sum(1)
        else:
            coupled = -torch.log((log_y.exp() * log_q.exp()).sum(1))
        energy = unary_weight * coupled.where(~held[:, 0], 0).sum()
        energy = energy + pairwise_weight * potts_energy(log_y, neighbors, edge_weight, relaxation).sum()
        (slope,) = torch.autograd.grad(energy, leaf)
        values = leaf.detach() - lr * slope
    return values


def farthest_point_sample(
    coords: Tensor,  # (N, D)
    num_samples: int | Tensor,  # (B,) int64
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64
    start: int | Tensor = 0,  # (B,) int64
) -> Tensor:  # (M,) int64
    """``pcseg.ops.farthest_point_sample``."""
    bounds = [0, coords.shape[0]] if offsets is None else offsets.tolist()
    chosen: list[int] = []
    for cloud, (first, last) in enumerate(itertools.pairwise(bounds)):
        row = int(start[cloud]) if isinstance(start, Tensor) else start
        count = int(num_samples[cloud]) if isinstance(num_samples, Tensor) else num_samples
        sq_dist = coords.new_full((last - first,), torch.inf)
        for _ in range(min(count, last - first)):
            chosen.append(first + row)
            squares = (coords[first:last] - coords[first + row]).square()
            to_row = squares[:, 0]
            for axis in range(1, coords.shape[1]):
                to_row = to_row + squares[:, axis]
            sq_dist = torch.minimum(sq_dist, to_row)
            sq_dist[row] = -1  # and so it stays
            row = int((sq_dist == sq_dist.max()).nonzero()[0])
    return torch.tensor(chosen, dtype=torch.int64, device=coords.device)


def gaussian_filter(
    values: Tensor,  # (N, C)
    positions: Tensor,  # (N, D)
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64
) -> Tensor:  # (N, C)
    """``pcseg.ops.gaussian_filter``."""
    dims, device = positions.shape[1], positions.device
    lengths = torch.tensor([positions.shape[0]], device=device) if offsets is None else offsets.diff()
    cloud = torch.arange(lengths.shape[0], device=device).repeat_interleave(lengths)
    # Onto the plane sum(u) = 0, where the lattice's cells have edge 1 and the filter has unit variance.
    total, elevated = torch.zeros_like(positions[:, 0], dtype=torch.float64), []
    for j in range(dims, 0, -1):
        part = positions[:, j - 1].double() * math.sqrt(2 / 3 / (j * (j + 1)))
        elevated.insert(0, total - part * j)
        total = total + part
    elevated = torch.stack([total, *elevated], 1)  # (N, D + 1)
    cell = elevated.round()
    off, axis = elevated - cell, torch.arange(dims + 1, device=device)
    further = (off.unsqueeze(1) > off.unsqueeze(2)) | ((off.unsqueeze(1) == off.unsqueeze(2)) & (axis < axis[:, None]))
    rank = further.sum(2) + cell.sum(1, keepdim=True)
    step = (rank < 0).double() - (rank > dims).double()
    cell, off, rank = cell + step, off - step, (rank + step * (dims + 1)).long()
    off = torch.zeros_like(off).scatter(1, rank, off)  # descending
    weights = torch.cat([1 + off[:, -1:] - off[:, :1], (off[:, :-1] - off[:, 1:]).flip(1)], 1)
    scale = (4 * math.pi / 3) ** (dims / 2) * math.sqrt(dims + 1) / 2 ** (dims + 1)
    weights = (weights * math.sqrt(scale)).to(values.dtype).unsqueeze(2)  # (N, D + 1, 1)

    colour = axis.view(1, -1, 1)  # of each vertex of a simplex
    vertices = (dims + 1) * (cell.long().unsqueeze(1) - (rank.unsqueeze(1) > dims - colour).long()) + colour
    keys = torch.cat([cloud.view(-1, 1, 1).expand(-1, dims + 1, 1), vertices], 2).flatten(0, 1)
    keys, vertex = torch.unique(keys, dim=0, return_inverse=True)
    count = keys.shape[0]
    grid = values.new_zeros(count + 1, values.shape[1])  # the last row stands for lattice points that do not exist
    grid = grid.index_add(0, vertex, (weights * values.unsqueeze(1)).flatten(0, 1))
    for j in range(dims + 1):
        move = keys.new_ones(1, dims + 2)
        move[0, 0], move[0, j + 1] = 0, -dims
        _, where = torch.unique(torch.cat([keys, keys + move]), dim=0, return_inverse=True)
        row = torch.full((2 * count + 1,), count, device=device)
        row[where[:count]] = torch.arange(count, device=device)
        following = torch.cat([row[where[count:]], row[-1:]])
        previous = torch.full_like(following, count)
        previous[following] = torch.arange(count + 1, device=device)
        previous[count] = count
        grid = grid + 0.5 * (grid[following] + grid[previous])
    return (grid[vertex].unflatten(0, weights.shape[:2]) * weights).sum(1)
