"""Masks from queries: a transformer decoder over the features of any network that names rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcseg import ops
from pcseg.batch import PointBatch, offsets_of
from pcseg.config.panoptic import QueryDecoderConfig
from pcseg.models.heads import PanopticOutput, Proposals, SegOutput
from pcseg.models.position_code import PositionCode, places_of

_ANYWHERE = 4  # one query in so many begins at any row, the others where the network sees things
_SHARPNESS = 100.0  # of the fall with the squared distance, at first; the unit is half the cloud's extent
_TAIL = 2.0
_SOFTEST, _SHARPEST = -10.0, 3.0  # logarithms of what the sharpness is multiplied by


class QueryDecoder(nn.Module):
    """Q queries a cloud; each layer looks at the rows of the query's mask so far, then at the other queries.

    Mask logits are products of queries and row features, less ``t ln(1 + s |x - c|^2 / t)``: each query says how
    sharply (s) its mask falls with the distance from a centre, which is where it began and an offset. Equal things have
    equal features, so that something must say which of them is meant. Far away it falls slowly (t = 2), which leaves
    masks of a whole floor possible from the start.

    Queries start at rows that are far from each other, three of four among those that the network takes for things, as
    the code of their place and (other than in the paper) the feature that is there; or at learnt vectors.
    Args:
        channels: C of ``SegOutput.feats``.
        is_thing: (K,).
        dim: D of the coordinates.

    Source: Cheng et al. 2022, Mask2Former (masked attention); Schult et al. 2023, Mask3D (queries at farthest points).
    Attention is on one resolution, the rows' own; both papers walk through several.
    """

    def __init__(self, config: QueryDecoderConfig, channels: int, is_thing: Sequence[bool], *, dim: int):
        super().__init__()
        width, num_classes = config.channels, len(is_thing)
        self.register_buffer("is_thing", torch.tensor(is_thing), persistent=False)
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
        self.geometry = nn.Linear(width, dim + 1)  # offset of the centre, logarithm of the sharpness
        nn.init.zeros_(self.geometry.weight)
        nn.init.zeros_(self.geometry.bias)

    is_thing: Tensor

    def forward(self, batch: PointBatch, output: SegOutput) -> PanopticOutput:
        """Proposals for every cloud, after each layer and before the first.

        Args:
            output: of the network on ``batch``.
        """
        feats = output.feats.float()
        places, where = self.place(batch), places_of(batch.coords, batch.offsets)
        rows = self.rows(feats) + places  # convolutions see two equal things alike, wherever they are
        masks = self.masks(rows)
        things = self.is_thing[output.logits.detach().argmax(1)]
        found: list[list[tuple[Tensor, Tensor]]] = []
        seeds: list[Tensor] = []
        for start, end in itertools.pairwise(batch.offsets.tolist()):
            cloud = slice(start, end)
            chosen = self._seeds(batch.coords[cloud], things[cloud])
            found.append(self._decode(chosen, rows[cloud], masks[cloud], places[cloud], where[cloud]))
            if chosen is not None:
                seeds.append(torch.where(chosen >= 0, chosen + start, -1))
        layers = []
        for number in range(len(self.layers) + 1):
            classes = [cloud[number][0] for cloud in found]
            logits = [cloud[number][1] for cloud in found]
            layers.append(Proposals(torch.stack(classes), torch.cat(logits)))
        return PanopticOutput(tuple(layers), torch.stack(seeds) if seeds else None)

    def _seeds(self, coords: Tensor, things: Tensor) -> Tensor | None:  # (Q,) rows of the cloud, -1 where it has none
        """Rows at which the queries begin."""
        count = self.config.queries
        if self.config.start == "learned":
            return None
        if not len(coords):
            return torch.full((count,), -1, device=coords.device)
        inside = torch.nonzero(things)[:, 0]
        on_things = count - count // _ANYWHERE if len(inside) else 0
        return torch.cat([inside[_spread(coords[inside], on_things)], _spread(coords, count - on_things)])

    def _decode(
        self, seeds: Tensor | None, rows: Tensor, masks: Tensor, places: Tensor, where: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Class logits (Q, K + 1) and mask logits (n, Q) of one cloud, layer by layer."""
        if seeds is None:
            queries, query_places = self.queries, self.query_places
            begins = where.new_zeros(len(queries), where.shape[1])
        elif not len(rows):
            queries = query_places = rows.new_zeros(len(seeds), rows.shape[1])
            begins = where.new_zeros(len(seeds), where.shape[1])
        else:
            queries, query_places, begins = rows[seeds], places[seeds], where[seeds]
        steps = [self._propose(queries, begins, masks, where)]
        for layer in self.layers:
            queries = layer(queries, query_places, rows, blocked=_elsewhere(steps[-1][1]))
            steps.append(self._propose(queries, begins, masks, where))
        return steps

    def _propose(self, queries: Tensor, begins: Tensor, masks: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm(queries)
        offset, sharpness = self.geometry(normed).split([where.shape[1], 1], 1)
        apart = (where[:, None] - begins - offset).square().sum(2)
        alike = masks @ self.embedding(normed).T
        fall = _SHARPNESS * sharpness[:, 0].clamp(_SOFTEST, _SHARPEST).exp()
        return self.classifier(normed), alike - _TAIL * torch.log1p(fall * apart / _TAIL)


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


def _spread(coords: Tensor, count: int) -> Tensor:  # (n, D) -> (count,)
    """Rows far from each other; a small cloud has its rows several times."""
    if not count:
        return torch.zeros(0, dtype=torch.int64, device=coords.device)
    offsets = offsets_of([len(coords)]).to(coords.device)
    chosen = ops.farthest_point_sample(coords.detach().contiguous(), min(count, len(coords)), offsets=offsets)
    return chosen[torch.arange(count, device=chosen.device) % len(chosen)]


def _elsewhere(mask_logits: Tensor) -> Tensor:  # (n, Q) -> (Q, n) bool
    """Rows outside a query's mask; a query whose mask is empty looks everywhere."""
    outside = (mask_logits.detach() < 0).T
    return outside & ~outside.all(1, keepdim=True)
