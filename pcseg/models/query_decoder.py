"""Masks from queries: a transformer decoder over the features of any network that names rows."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from pcseg import ops
from pcseg.batch import PointBatch, offsets_of
from pcseg.config.panoptic import QueryDecoderConfig
from pcseg.models.heads import PanopticOutput, Proposals, SegOutput
from pcseg.models.position_code import PositionCode


class QueryDecoder(nn.Module):
    """Q queries a cloud; each layer looks at the rows of the query's mask so far, then at the other queries.

    Queries start at the rows that are farthest from each other, as the code of their place and (other than in
    the paper) the feature that is there, or at learnt vectors. Every layer's masks are products of
    queries and row features.

    Args:
        channels: C of ``SegOutput.feats``.
        num_classes: K.
        dim: D of the coordinates.

    Source: Cheng et al. 2022, Mask2Former (masked attention); Schult et al. 2023, Mask3D (queries at farthest points).
    Attention is on one resolution, the rows' own; both papers walk through several.
    """

    def __init__(self, config: QueryDecoderConfig, channels: int, num_classes: int, *, dim: int):
        super().__init__()
        width = config.channels
        self.config = config
        self.rows = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width))
        self.masks = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.place = PositionCode(dim, width)
        if config.start == "learned":
            self.queries = nn.Parameter(torch.randn(config.queries, width))
            self.query_places = nn.Parameter(torch.randn(config.queries, width))
        self.layers = nn.ModuleList(_Layer(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes + 1)
        self.embedding = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, batch: PointBatch, output: SegOutput) -> PanopticOutput:
        """Proposals for every cloud, after each layer and before the first.

        Args:
            output: of the network on ``batch``.
        """
        feats = output.feats.float()
        places = self.place(batch)
        rows = self.rows(feats) + places  # convolutions see two equal things alike, wherever they are
        masks = self.masks(rows)
        found: list[list[tuple[Tensor, Tensor]]] = []
        for start, end in itertools.pairwise(batch.offsets.tolist()):
            cloud = slice(start, end)
            found.append(self._decode(batch.coords[cloud], rows[cloud], masks[cloud], places[cloud]))
        layers = []
        for number in range(len(self.layers) + 1):
            classes = [cloud[number][0] for cloud in found]
            logits = [cloud[number][1] for cloud in found]
            layers.append(Proposals(torch.stack(classes), torch.cat(logits)))
        return PanopticOutput(tuple(layers))

    def _decode(self, coords: Tensor, rows: Tensor, masks: Tensor, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Class logits (Q, K + 1) and mask logits (n, Q) of one cloud, layer by layer."""
        queries, query_places = self._start(coords, rows, places)
        steps = [self._propose(queries, masks)]
        for layer in self.layers:
            queries = layer(queries, query_places, rows, blocked=_elsewhere(steps[-1][1]))
            steps.append(self._propose(queries, masks))
        return steps

    def _start(self, coords: Tensor, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.start == "learned":
            return self.queries, self.query_places
        count = self.config.queries
        if not len(coords):
            return rows.new_zeros(count, rows.shape[1]), rows.new_zeros(count, rows.shape[1])
        chosen = ops.farthest_point_sample(
            coords.detach().contiguous(), min(count, len(coords)), offsets=offsets_of([len(coords)]).to(coords.device)
        )
        chosen = chosen[torch.arange(count, device=chosen.device) % len(chosen)]  # a small cloud has its rows twice
        return rows[chosen], places[chosen]

    def _propose(self, queries: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm(queries)
        return self.classifier(normed), masks @ self.embedding(normed).T


class _Layer(nn.Module):
    """Masked attention to rows, attention among queries, a perceptron; each added and normalised."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.to_rows = nn.MultiheadAttention(width, heads, batch_first=True)
        self.to_queries = nn.MultiheadAttention(width, heads, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self,
        queries: Tensor,  # (Q, C)
        query_places: Tensor,  # (Q, C)
        rows: Tensor,  # (n, C)
        *,
        blocked: Tensor,  # (Q, n) bool, rows that a query does not look at
    ) -> Tensor:  # (Q, C)
        if len(rows):
            seen = self.to_rows(queries + query_places, rows, rows, attn_mask=blocked, need_weights=False)[0]
            queries = self.norms[0](queries + seen)
        asked = queries + query_places
        queries = self.norms[1](queries + self.to_queries(asked, asked, queries, need_weights=False)[0])
        return self.norms[2](queries + self.hidden(queries))


def _elsewhere(mask_logits: Tensor) -> Tensor:  # (n, Q) -> (Q, n) bool
    """Rows outside a query's mask; a query whose mask is empty looks everywhere."""
    outside = (mask_logits.detach() < 0).T
    return outside & ~outside.all(1, keepdim=True)
