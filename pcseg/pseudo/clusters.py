"""Labels where there are none: rows that a k-means clustering of the input features is sure of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcseg import ops
from pcseg.batch import IGNORE, PointBatch
from pcseg.errors import InputError

MAX_ROWS = 50_000
"""Rows that k-means is fitted to."""


class Clusters(nn.Module):
    """Cluster of each row, or IGNORE where the second nearest centre is almost as near as the nearest.

    Rows are compared by the mean of the input features over their ``neighbors`` nearest rows, themselves included.

    Args:
        centres: (K, C) float32.
        share: of the rows of a batch that get their cluster, those with the smallest quotient of both distances.

    Source: scikit-learn's k-means. That clusters of what a network reads, averaged over neighbours, start unsupervised
    training is as in GrowSP (Zhang et al., CVPR 2023), there over superpoints; the share of sure rows is ours.
    """

    centres: Tensor

    def __init__(self, centres: Tensor, *, neighbors: int, share: float):
        super().__init__()
        self.neighbors, self.share = neighbors, share
        self.register_buffer("centres", centres)

    @classmethod
    def fit(
        cls, batches: Sequence[PointBatch], num_clusters: int, *, neighbors: int, share: float, seed: int
    ) -> Clusters:
        """k-means (k-means++, the best of 10 starts) on evenly spaced rows of some batches.

        Raises:
            InputError: no features, or fewer rows than clusters.
        """
        from sklearn.cluster import KMeans

        means = torch.cat([neighborhood_means(batch, neighbors) for batch in batches])
        means = means[torch.arange(min(MAX_ROWS, len(means))) * len(means) // min(MAX_ROWS, max(len(means), 1))]
        if not means.shape[1]:
            raise InputError("clusters are told apart by features, and the run reads none; name some in data.features")
        if len(means) < num_clusters:
            raise InputError(f"{num_clusters} clusters need as many rows, there are {len(means)}")
        k_means = KMeans(num_clusters, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
        found = k_means.fit(means.numpy())
        return cls(torch.from_numpy(found.cluster_centers_).float(), neighbors=neighbors, share=share)

    @torch.no_grad()
    def forward(self, batch: PointBatch) -> Tensor:  # (N,) int64 in [0, K) or IGNORE
        distances, order = torch.cdist(neighborhood_means(batch, self.neighbors), self.centres).sort(1)
        nearest = order[:, 0]
        sure = int(self.share * batch.num_rows)
        if sure == batch.num_rows or order.shape[1] < 2:
            return nearest
        quotient = distances[:, 0] / distances[:, 1].clamp(min=torch.finfo(distances.dtype).tiny)
        unsure = torch.sort(quotient, stable=True).indices[sure:]
        return nearest.index_fill(0, unsure, IGNORE)


def neighborhood_means(batch: PointBatch, count: int) -> Tensor:  # (N, C) float32
    """Mean of the features over the nearest rows of the same cloud, at most ``count``, the row itself among them."""
    feats = batch.feats.float()
    if count == 1 or not batch.num_rows:
        return feats
    offsets = batch.offsets
    index = ops.knn(batch.coords, batch.coords, count, query_offsets=offsets, support_offsets=offsets)[0]
    there = index < batch.num_rows
    sums = (feats[index.clamp(max=batch.num_rows - 1)] * there.unsqueeze(2)).sum(1)
    return sums / there.sum(1, keepdim=True).clamp(min=1)
