"""How near every row is to every target, learnt from one labelled row each: attention of anchor queries."""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcseg.batch import IGNORE, PointBatch
from pcseg.models.position_code import PositionCode, places_of
from pcseg.pseudo.targets import Targets

QueryInit = Literal["points", "learned"]
_CHUNK = 65_536  # rows at once where no gradient is kept: memory goes by them, not by the cloud
_FIRST_SCALE = 0.1
_SHARPNESS = 30.0  # of the fall with the squared distance, at first; the unit is half the cloud's extent
_PATH_SHARPNESS = 10.0  # of the fall with a path's cost, at first; the unit is the largest cost


class Anchors(NamedTuple):
    """What stands for the G targets of a cloud."""

    queries: Tensor  # (G, d)
    places: Tensor  # (G, D)


class LearnableDistance(nn.Module):
    """An anchor query for each target, whose attention to the rows is their nearness; improved in rounds.

    A round: scores ``S = q(A) . k(F + e) / sqrt(d) - s |x - c|^2``, ``a = softmax over the targets``, distance
    ``1 - a``; then *aggregating*, ``A <- norm(A + sum_n w_n v(F_n))`` and ``c <- sum_n w_n x_n`` with ``w = a P / sum_n
    a P``; then *enhancing*, attention among the queries and a perceptron. All rounds share their weights. F are a
    network's features, e codes the row's place x, P is the probability of the target's class there (no gradient), s a
    learnt sharpness; stuff is everywhere and has no place c. Where paths are given their cost, from the target's
    labelled rows, stands for ``|x - c|^2``.

    Args:
        channels: C of the features.
        dim: D of the coordinates.
        width: d.
        rounds: of improvement; 0: the first scores stand.
        query_init: from the features at the target's labelled rows, or (``learned``) one learnt vector for each number
            in the list of targets, which says nothing of where the target is, and places at the middle.
        max_targets: of a cloud, for learnt vectors.

    Source: Li, Fan and Zhang, ECCV 2024 names anchor queries, the distance branch by cross-attention, aggregating and
    enhancing; the equations could not be read and are our reading. Features at the labelled rows as first queries: the
    predecessor (Li et al., AAAI 2024). Ours: the term of the place, straight or by paths, without which things that
    look alike are one, and P among the weights.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(
        self,
        channels: int,
        *,
        dim: int,
        width: int = 64,
        heads: int = 4,
        rounds: int = 2,
        aggregate: bool = True,
        enhance: bool = True,
        query_init: QueryInit = "points",
        max_targets: int = 128,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"LearnableDistance: heads must divide the width {width}, got {heads}")
        self.rounds, self.aggregate, self.enhance, self.query_init = rounds, aggregate, enhance, query_init
        self.rows = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width))
        self.place = PositionCode(dim, width)
        self.first = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        if query_init == "learned":
            self.anchors = nn.Parameter(torch.randn(max_targets, width))
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        with torch.no_grad():  # at first what is there is compared with itself, and place counts for more
            self.key.weight.copy_(self.query.weight).mul_(_FIRST_SCALE)
        self.sharpness = nn.Parameter(torch.tensor(math.log(math.expm1(1.0))))  # softplus of it is 1
        self.among = nn.MultiheadAttention(width, heads, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self,
        batch: PointBatch,
        feats: Tensor,  # (N, C) float
        probs: Tensor,  # (N, K) float, class probabilities
        targets: list[Targets],  # B
        paths: list[Tensor] | None = None,  # B of (n, G) float in [0, 1], costs from the targets; None: straight lines
    ) -> list[list[Tensor]]:  # of each round, of each cloud: (n, G) float scores
        """Scores of the first queries and after every round; with gradients, but for ``probs`` and ``paths``."""
        found = [self._cloud(cloud) for cloud in self._clouds(batch, feats, probs, targets, paths)]
        return [[scores[number] for scores in found] for number in range(self.rounds + 1)]

    @torch.no_grad()
    def nearness(
        self,
        batch: PointBatch,
        feats: Tensor,  # (N, C) float
        probs: Tensor,  # (N, K) float
        targets: list[Targets],  # B
        paths: list[Tensor] | None = None,  # as in forward
    ) -> list[Tensor]:  # of each cloud: (n, G) float, 1 - distance
        """The last round's ``1 - D``, without gradient and without more in memory than a chunk of rows needs."""
        result = []
        for cloud in self._clouds(batch, feats, probs, targets, paths):
            parts = cloud.chunks(_CHUNK)
            anchors = self._first(cloud)
            for _ in range(self.rounds):
                sums = [self._gathered(anchors, part) for part in parts]
                if sums:
                    anchors = self._improved(anchors, *(torch.stack(terms).sum(0) for terms in zip(*sums, strict=True)))
            near = [self._scores(anchors, self._rows(part)[1], part).softmax(1) for part in parts]
            result.append(torch.cat(near) if near else feats.new_zeros(0, len(cloud.targets)))
        return result

    def _clouds(
        self, batch: PointBatch, feats: Tensor, probs: Tensor, targets: list[Targets], paths: list[Tensor] | None
    ) -> list[_Cloud]:
        places = places_of(batch.coords, batch.offsets)
        codes = self.place(batch)
        parts = []
        for number, (start, end) in enumerate(itertools.pairwise(batch.offsets.tolist())):
            wanted = targets[number]
            own = probs[start:end].detach()[:, wanted.classes]
            away = None if paths is None else paths[number]
            parts.append(_Cloud(feats[start:end].float(), codes[start:end], places[start:end], own, away, wanted))
        return parts

    def _cloud(self, cloud: _Cloud) -> list[Tensor]:
        """Scores (n, G) of one cloud, round by round."""
        anchors = self._first(cloud)
        rows, keys = self._rows(cloud)
        scores = [self._scores(anchors, keys, cloud)]
        for _ in range(self.rounds):
            anchors = self._improved(anchors, *self._sums(scores[-1], rows, cloud))
            scores.append(self._scores(anchors, keys, cloud))
        return scores

    def _gathered(self, anchors: Anchors, cloud: _Cloud) -> tuple[Tensor, Tensor, Tensor]:
        rows, keys = self._rows(cloud)
        return self._sums(self._scores(anchors, keys, cloud), rows, cloud)

    def _sums(self, scores: Tensor, rows: Tensor, cloud: _Cloud) -> tuple[Tensor, Tensor, Tensor]:
        """Of each target, weighted by nearness and class: values (G, d), places (G, D), and the weights (G,)."""
        share = scores.softmax(1) * cloud.probs
        return share.T @ self.value(rows), share.T @ cloud.places, share.sum(0)

    def _rows(self, cloud: _Cloud) -> tuple[Tensor, Tensor]:  # (n, d) each
        rows = self.rows(cloud.feats)
        return rows, self.key(rows + cloud.codes)

    def _scores(self, anchors: Anchors, keys: Tensor, cloud: _Cloud) -> Tensor:  # (n, G)
        alike = keys @ self.query(anchors.queries).T / math.sqrt(keys.shape[1])
        if cloud.paths is None:
            apart = _SHARPNESS * (cloud.places[:, None] - anchors.places).square().sum(2)
        else:
            apart = _PATH_SHARPNESS * cloud.paths
        return alike - F.softplus(self.sharpness) * apart * cloud.targets.is_thing

    def _first(self, cloud: _Cloud) -> Anchors:
        """Queries before the first round."""
        targets, count = cloud.targets, len(cloud.targets)
        if self.query_init == "learned":
            number = torch.arange(count, device=cloud.feats.device) % len(self.anchors)
            return Anchors(self.anchors[number], cloud.places.new_zeros(count, cloud.places.shape[1]))
        labelled = torch.nonzero(targets.of_row != IGNORE)[:, 0]
        of_row = targets.of_row[labelled]
        counts = torch.bincount(of_row, minlength=count).clamp(min=1)[:, None]
        seen = self.rows(cloud.feats[labelled]) + cloud.codes[labelled]
        anchors = seen.new_zeros(count, seen.shape[1]).index_add(0, of_row, seen) / counts
        places = cloud.places.new_zeros(count, cloud.places.shape[1]).index_add(0, of_row, cloud.places[labelled])
        return Anchors(anchors + self.first(anchors), places / counts)

    def _improved(self, anchors: Anchors, values: Tensor, places: Tensor, weight: Tensor) -> Anchors:
        """After a round, from sums over the rows and of their weights."""
        queries, where = anchors
        if self.aggregate:
            weight = weight.clamp(min=1e-6)[:, None]
            queries, where = self.norms[0](queries + values / weight), places / weight
        if self.enhance and len(queries):
            queries = self.norms[1](queries + self.among(queries, queries, queries, need_weights=False)[0])
            queries = self.norms[2](queries + self.hidden(queries))
        return Anchors(queries, where)


class _Cloud(NamedTuple):
    """One cloud, or a chunk of its rows."""

    feats: Tensor  # (n, C)
    codes: Tensor  # (n, d)
    places: Tensor  # (n, D)
    probs: Tensor  # (n, G), of each target's class
    paths: Tensor | None  # (n, G), cost from each target
    targets: Targets

    def chunks(self, size: int) -> list[_Cloud]:
        starts = range(0, len(self.feats), size)
        return [
            _Cloud(
                self.feats[start : start + size],
                self.codes[start : start + size],
                self.places[start : start + size],
                self.probs[start : start + size],
                None if self.paths is None else self.paths[start : start + size],
                self.targets,
            )
            for start in starts
        ]
