"""Class queries: one learnt vector a class that looks at a cloud, and names what is like it."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassQueries(nn.Module):
    """K queries, refined for each cloud by cross-attention to its rows; cosines with them are logits.

    A layer is attention to the rows (keys and values: features with a code of their place), then a perceptron, each
    added to the queries and normalised.

    A class that no label has shown is not ruled out, as prototypes do: its query is there from the start, near random.
    At temperature 1 its share is 1 / K at first, and cross-entropy on the labelled rows only lowers it; as cosines lie
    in [-1, 1] it never vanishes. Pseudo-labels then teach that share of a class that may not exist: leave out of
    ``class_names`` what no training label names.

    Args:
        num_classes: K.
        channels: C of the projected features, divisible by ``heads``.
        dim: D of the coordinates.
        temperature: divides the cosines.

    Source: ERDA's extension names query-based pseudo-labels with cross-attention (Tang et al. 2024, arXiv 2408.16520);
    its equations could not be read, and this form is ours.

    Raises:
        ValueError: channels that the heads do not divide.
    """

    def __init__(
        self, num_classes: int, channels: int, *, dim: int, layers: int = 2, heads: int = 4, temperature: float = 1.0
    ):
        super().__init__()
        if channels % heads:
            raise ValueError(f"ClassQueries: {channels} channels cannot be shared by {heads} heads; change query_heads")
        self.heads, self.temperature = heads, temperature
        self.queries = nn.Parameter(torch.randn(num_classes, channels))
        self.place = nn.Linear(dim, channels)
        self.key_value = nn.ModuleList(nn.Linear(channels, 2 * channels) for _ in range(layers))
        self.query = nn.ModuleList(nn.Linear(channels, channels) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(channels, channels) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2 * layers))
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, channels))
            for _ in range(layers)
        )

    def forward(
        self,
        feats: Tensor,  # (N, C) float
        coords: Tensor,  # (N, D)
        offsets: Tensor,  # (B + 1,) int64
    ) -> Tensor:  # (N, K) float32
        """Cosine of every row with the queries of its cloud, over the temperature."""
        bounds = offsets.tolist()
        logits = []
        for start, end in itertools.pairwise(bounds):
            rows, place = feats[start:end].float(), coords[start:end].float()
            if not len(rows):
                continue
            spread = place.std(0, unbiased=False).clamp(min=1e-6)
            keyed = rows + self.place((place - place.mean(0)) / spread)
            queries = self._refined(keyed)
            logits.append(F.normalize(rows, dim=1) @ F.normalize(queries, dim=1).T / self.temperature)
        return torch.cat(logits) if logits else feats.new_zeros(0, len(self.queries), dtype=torch.float32)

    def _refined(self, rows: Tensor) -> Tensor:  # (n, C) -> (K, C)
        queries = self.queries
        for number, key_value in enumerate(self.key_value):
            keys, values = key_value(rows).chunk(2, 1)
            asked, keys, values = (self._by_head(x) for x in (self.query[number](queries), keys, values))
            seen = F.scaled_dot_product_attention(asked, keys, values)  # (1, heads, K, C / heads)
            seen = self.out[number](seen[0].transpose(0, 1).flatten(1))
            queries = self.norms[2 * number](queries + seen)
            queries = self.norms[2 * number + 1](queries + self.hidden[number](queries))
        return queries

    def _by_head(self, x: Tensor) -> Tensor:  # (n, C) -> (1, heads, n, C / heads)
        return x.unflatten(1, (self.heads, -1)).transpose(0, 1).unsqueeze(0)
