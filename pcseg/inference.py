"""A network over a whole scene: overlapping tiles, averaged probabilities, every point, memory bounded by the tile.

Scans, images as clouds of pixels, and volumes alike: tiles lie in the plane of the first two axes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor, nn

from pcseg import ops
from pcseg.batch import PointBatch, offsets_of
from pcseg.errors import InputError
from pcseg.models import SegOutput
from pcseg.models.modes import evaluating
from pcseg.tiles import Place, TileIndex, index_tiles
from pcseg.vote_views import VoteViews

ANY_VIEW = VoteViews()
PROTOCOLS = "{full, voxels}/votes=V/{scene, tile}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a scene is predicted and scored; a number without it says nothing."""

    resolution: str = "full"  # full: every point of the scene; voxels: one vote a voxel, with its majority label
    votes: int = 1  # views averaged: rotated, mirrored (VoteViews), on shifted grids
    unit: str = "scene"  # scene: overlapping tiles, probabilities averaged; tile: each tile by itself

    @classmethod
    def parse(cls, text: str) -> Protocol:
        """From its name, such as ``full/votes=1/scene``.

        Raises:
            InputError: another form.
        """
        found = re.fullmatch(r"(full|voxels)/votes=([1-9]\d{0,2})/(scene|tile)", text)
        if found is None:
            raise InputError(f"protocol '{text}': expected {PROTOCOLS}, such as full/votes=1/scene")
        return cls(resolution=found[1], votes=int(found[2]), unit=found[3])

    def __str__(self) -> str:
        return f"{self.resolution}/votes={self.votes}/{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSettings:
    """How prediction walks over a scene. Lengths in the unit of the coordinates."""

    size: float
    """Edge of what the network sees at once."""
    overlap: float = 0.5
    """Share of ``size`` by which neighbours overlap, in [0, 0.66]."""
    max_voxels: int = 60_000
    """A tile with more is seen in quarters."""
    projection: int = 1
    """1: a point has the probabilities of its voxel; k > 1: of the k nearest voxels, weighted by distance."""

    def __post_init__(self) -> None:
        if self.projection < 1:
            raise InputError(f"projection: at least 1 voxel, got {self.projection}")
        if not 0 <= self.overlap <= 0.66:
            raise InputError(f"overlap: a share in [0, 0.66], got {self.overlap}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What of a network's output is averaged over tiles and views."""

    width: int  # values a row
    read: Callable[[SegOutput], Tensor]  # -> (N, width) float32


def probabilities(num_classes: int) -> Answer:
    return Answer(num_classes, lambda output: torch.softmax(output.logits.float(), 1))


def features(width: int) -> Answer:
    """What the network's last layer reads."""
    return Answer(width, lambda output: output.feats.float())


class Source(Interface):
    """What is predicted: coordinates, and features on demand."""

    @property
    def coords(self) -> np.ndarray: ...  # (N, D) float32, D 2 or 3

    def feats(self, rows: np.ndarray) -> np.ndarray: ...  # (n,) int64 -> (n, C) float32, scaled for the network


def predict_source(
    model: nn.Module,
    source: Source,
    *,
    voxel_size: float,
    answer: Answer,
    tiles: TileSettings,
    protocol: Protocol,
    device: torch.device,
    views: VoteViews = ANY_VIEW,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The answer for every row, part by part: (rows (n,) int64, values (n, K) float32 on the CPU), K = answer.width.

    Parts are disjoint, together they are all rows, and no voxel lies in two of them. A part comes as soon as no further
    tile reaches it, so that only two bands of tiles are held.
    """
    overlap = 0.0 if protocol.unit == "tile" else tiles.overlap
    index = index_tiles(source.coords, voxel_size, tiles.size * (1.0 - overlap))
    walker = _Walker(model, source, index, voxel_size, answer, tiles, overlap, protocol.votes, views, device)
    with evaluating(model):
        held: dict[int, list[Place]] = {}
        for band, places in index.bands():
            for done in [b for b in held if b < band - 1]:
                yield from walker.finish(held.pop(done))
            held[band] = places
            for place in places:
                walker.visit(place)
        for places in held.values():
            yield from walker.finish(places)


class _Walker:
    """Visits tiles and gathers, for the rows of those not yet finished, weighted sums of their values."""

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        index: TileIndex,
        voxel_size: float,
        answer: Answer,
        tiles: TileSettings,
        overlap: float,
        votes: int,
        views: VoteViews,
        device: torch.device,
    ):
        self.model, self.source, self.index = model, source, index
        self.voxel_size, self.answer, self.tiles = voxel_size, answer, tiles
        # Tiles reach into their neighbours by at most one tile.
        self.margin = index.edge * min(1.0, 0.5 * overlap / (1.0 - overlap))
        self.votes, self.views, self.device = votes, views, device
        self.sums: dict[Place, Tensor] = {}  # (n, K + 1): weighted values and the sum of weights

    @torch.no_grad()
    def visit(self, place: Place) -> None:
        low, high = self.index.bounds(place)
        around = [(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)] if self.margin else [place]
        around = [near for near in around if near in self.index.ranges]
        parts, inside = [], []
        for near in around:
            rows = self.index.rows(near)
            coords = np.asarray(self.source.coords[rows], np.float32)
            kept = np.arange(len(rows))
            if near != place:
                plane = coords[:, :2]
                kept = np.flatnonzero(((plane >= low - self.margin) & (plane < high + self.margin)).all(1))
            parts.append((rows[kept], coords[kept]))
            inside.append(kept)
        rows = np.concatenate([part[0] for part in parts])
        coords = torch.from_numpy(np.concatenate([part[1] for part in parts]))
        feats = torch.from_numpy(np.ascontiguousarray(self.source.feats(rows), np.float32))
        total = torch.zeros(len(rows), self.answer.width + 1)
        for vote in range(self.votes):
            self._predict(coords, feats, np.asarray(low), np.asarray(high), self.margin, vote, total)
        start = 0
        for near, kept in zip(around, inside, strict=True):
            if near not in self.sums:
                first, end = self.index.ranges[near]
                self.sums[near] = torch.zeros(end - first, self.answer.width + 1)
            self.sums[near][torch.from_numpy(kept)] += total[start : start + len(kept)]
            start += len(kept)

    def finish(self, places: list[Place]) -> Iterator[tuple[np.ndarray, Tensor]]:
        for place in places:
            total = self.sums.pop(place)
            yield self.index.rows(place), total[:, :-1] / total[:, -1:]

    def _predict(
        self,
        coords: Tensor,  # (n, D)
        feats: Tensor,  # (n, C)
        low: np.ndarray,  # (2,) of the tile proper, margins not included
        high: np.ndarray,
        margin: float,
        vote: int,
        total: Tensor,  # (n, K + 1), added to
    ) -> None:
        """One view of one tile; a tile with too many voxels is taken in quarters, each with a margin of its own."""
        centre = torch.zeros(coords.shape[1])
        centre[:2] = torch.from_numpy((low + high) / 2)
        # Whole voxels: the grid of the first vote is the scene's own.
        centre = torch.floor(centre / self.voxel_size) * self.voxel_size
        shift = self.voxel_size * vote / self.votes
        local = coords - centre
        grid = ops.grid_subsample(coords + shift, self.voxel_size)
        if len(grid.point_offsets) - 1 > self.tiles.max_voxels and (high - low).min() > 4 * self.voxel_size:
            middle = (low + high) / 2
            for right, upper in ((0, 0), (0, 1), (1, 0), (1, 1)):
                side = np.array([right, upper])
                inner_low, inner_high = np.where(side, middle, low), np.where(side, high, middle)
                reach = min(margin, float((inner_high - inner_low).min()))
                # The outermost quarters keep the rows up to the tile's own margin: every row is seen once at least.
                plane = coords[:, :2].numpy()
                lower = np.where(side, inner_low - reach, low - margin)
                higher = np.where(side, high + margin, inner_high + reach)
                near = torch.from_numpy(np.flatnonzero(((plane >= lower) & (plane < higher)).all(1)))
                if near.numel():
                    part = torch.zeros(near.numel(), total.shape[1])
                    self._predict(coords[near], feats[near], inner_low, inner_high, reach, vote, part)
                    total[near] += part
            return
        values = self._forward(local, feats, grid, vote)
        weight = _ramp(coords[:, :2], low, high, margin)
        total[:, :-1] += weight[:, None] * values
        total[:, -1] += weight

    def _forward(self, coords: Tensor, feats: Tensor, grid: ops.VoxelGrid, vote: int) -> Tensor:  # (n, K)
        voxels = ops.voxel_features(grid, coords, feats)
        assert voxels.feats is not None
        places, values = self.views.of_cloud(voxels.coords, voxels.feats, vote, self.votes)
        seen = PointBatch(
            coords=places,
            feats=values,
            offsets=offsets_of([voxels.coords.shape[0]]),
        ).to(self.device)
        output = self.model(seen, self.model.levels(seen))  # pyright: ignore[reportCallIssue]
        values = self.answer.read(output).cpu()
        if self.tiles.projection == 1:
            return values[grid.voxel_of_point]
        count = min(self.tiles.projection, values.shape[0])
        index, sq_dist = ops.knn(coords, voxels.coords, count)
        weight = 1.0 / (sq_dist + (0.1 * self.voxel_size) ** 2)
        weight /= weight.sum(1, keepdim=True)
        return torch.einsum("nk,nkc->nc", weight.to(values), values[index])


def _ramp(plane: Tensor, low: np.ndarray, high: np.ndarray, margin: float) -> Tensor:  # (n, 2) -> (n,)
    """1 in the middle, falling to almost 0 at the rim: what the network sees least of counts least."""
    if margin == 0:
        return torch.ones(plane.shape[0])
    centre = torch.from_numpy((low + high) / 2).float()
    half = torch.from_numpy((high - low) / 2).float()
    inset = half + margin - (plane - centre).abs()
    return (inset / (2 * margin)).clamp(1e-3, 1.0).prod(1)
