"""How near every row is to every target by rule: straight, by colour, or along the cheapest path over the surface."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg import ops
from pcseg.pseudo.targets import Targets

Rule = Literal["nearest", "color", "path"]


def straight_distance(
    places: Tensor,  # (n, D) float: coordinates, or colours
    targets: Targets,
) -> Tensor:  # (n, G) float in [0, 1]
    """Distance to the nearest labelled row of each target, over the largest there is."""
    result = places.new_zeros(len(places), len(targets))
    for number in range(len(targets)):
        own = places[targets.of_row == number].contiguous()
        result[:, number] = ops.knn(places, own, 1)[1][:, 0].sqrt()
    return result / result.max().clamp(min=torch.finfo(result.dtype).tiny) if result.numel() else result


def path_distance(
    neighbors: Tensor,  # (n, k) int64, n for none
    cost: Tensor,  # (n, k) float >= 0, of entering a neighbour from the row
    targets: Targets,
) -> Tensor:  # (n, G) float32 in [0, 1]
    """Cost of the cheapest path from any labelled row of each target to each row, over the largest finite one.

    Rows that no path reaches are at 1.

    Source: PSPS (Fan et al. 2022), step 4: pixel-to-instance distance. Shortest paths are SciPy's.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    rows = len(neighbors)
    present = (neighbors < rows).cpu().numpy()
    # SciPy takes a stored 0 for no edge.
    weights = cost.detach().double().cpu().numpy()[present] + 1e-9
    starts = np.concatenate([[0], np.cumsum(present.sum(1))])
    graph = csr_array((weights, neighbors.cpu().numpy()[present], starts), shape=(rows, rows))
    of_row = targets.of_row.cpu().numpy()
    found = np.ones((rows, len(targets)))
    for number in range(len(targets)):
        found[:, number] = dijkstra(graph, indices=np.flatnonzero(of_row == number), min_only=True)
    finite = np.isfinite(found)
    largest = max(float(found[finite].max(initial=0.0)), 1e-6)
    scaled = np.where(finite, found / largest, 1.0)
    return torch.from_numpy(scaled).float().to(neighbors.device)


@torch.no_grad()
def path_cost(
    neighbors: Tensor,  # (n, k) int64, n for none
    probs: Tensor,  # (n, K) float, class probabilities
    contrast: Tensor,  # (n,) float in [0, 1], how much a row differs from what is around it
    embedding: Tensor,  # (n, C) float
    *,
    edge_weight: float = 0.1,
    embedding_weight: float = 0.1,
    length: Tensor | None = None,  # (n, k) float, what a step costs beside
) -> Tensor:  # (n, k)
    """``|P_i - P_j|_1 + edge_weight * contrast_j + embedding_weight * max(0, 1 - <u_i, u_j>)``, u normalised.

    Entering a row of high contrast costs, leaving it does not. ``length`` is ours: without it all paths over an even
    surface are free.

    Source: PSPS (Fan et al. 2022); there u is a projection trained by a contrastive loss, here any features.
    """
    rows = len(neighbors)
    there = neighbors.clamp(max=rows - 1)
    unit = F.normalize(embedding.float(), dim=1)
    cost = torch.empty(neighbors.shape, device=neighbors.device)
    for place in range(neighbors.shape[1]):  # never (n, k, C) at once
        other = there[:, place]
        jump = (probs - probs[other]).abs().sum(1)
        unlike = (1 - (unit * unit[other]).sum(1)).clamp(min=0)
        cost[:, place] = jump + edge_weight * contrast[other] + embedding_weight * unlike
    return cost if length is None else cost + length
