"""Panoptic segmentation from points: distances to the labelled rows make pseudo-masks, which teach the branch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pcseg import losses, ops
from pcseg.batch import IGNORE, PointBatch
from pcseg.config import PanopticConfig, PointPanopticConfig
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.panoptic import panoptic_loss
from pcseg.methods.streams import StreamLevels, Streams, ramp
from pcseg.models.heads import SegOutput
from pcseg.ops import GridEdges
from pcseg.pseudo.alike import Looks, Surface, alike_edges, cloud_edges, collision_prior, neighbor_lists
from pcseg.pseudo.learnable_distance import LearnableDistance
from pcseg.pseudo.panoptic_labels import panoptic_labels
from pcseg.pseudo.rule_distance import path_cost, path_distance, straight_distance
from pcseg.pseudo.targets import Targets, dilated, targets_of

FIRST_STAGE = 0.5
"""Share of a run in two stages before the masks are learnt."""


class PseudoTargets(NamedTuple):
    """Pseudo-labels of one cloud."""

    targets: Targets  # of_row: pseudo-labels, IGNORE where there is none
    clicked: Targets  # as the points say


class PointPanoptic(nn.Module):
    """Learns classes from the labelled rows, distances from the same rows, and masks from what both say together.

    - Classes: the losses on labelled rows, and the prior that rows which look alike have one class.
    - Distance (``learned``): :class:`pcseg.pseudo.learnable_distance.LearnableDistance`, its loss on labelled rows in
      every round, and the same prior on its attention over the targets. The other distances are rules.
    - Masks: pseudo-labels (:func:`pcseg.pseudo.panoptic_labels.panoptic_labels`, no gradient) teach the branch, with a
      weight that rises over the first part of the run, or (``two_stage``) from the middle of it on, when the other
      terms but that of the classes' labels have ended.

    A cloud without targets teaches nothing but its classes; one target alone is everywhere, so that classes alone
    limit it. At inference nothing but network and branch is needed.

    Args:
        model: with the branch as ``model.panoptic``.
        channels: C of the network's features.
        looks: features by which rows look alike.
        surface: needed where ``max_concavity`` is given.

    Source: Li, Fan and Zhang, ECCV 2024; what is our reading stands in the parts. Rules and priors: PSPS (Fan et al.
    2022).
    """

    def __init__(
        self,
        model: nn.Module,
        labelled: LabelledLoss,
        config: PointPanopticConfig,
        branch: PanopticConfig,
        *,
        channels: int,
        dim: int,
        is_thing: Sequence[bool],
        looks: tuple[Looks, ...],
        surface: Surface | None = None,
    ):
        super().__init__()
        self.model, self.labelled, self.config, self.branch = model, labelled, config, branch
        self.is_thing, self.looks, self.surface = tuple(is_thing), looks, surface
        self.distance = None
        if config.distance == "learned":
            self.distance = LearnableDistance(
                channels,
                dim=dim,
                width=config.width,
                heads=config.heads,
                rounds=config.rounds,
                aggregate=config.aggregate,
                enhance=config.enhance,
                query_init=config.query_init,
            )

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ().

        Raises:
            ValueError: a stream without labels or instances.
        """
        batch, config = streams["labelled"], self.config
        edges = self._ties(batch)
        spread = self._spread(batch, targets_of(batch, self.is_thing), edges)
        batch = replace(batch, labels=_labels(batch, spread))
        output, terms = self.labelled.step(self.model, {"labelled": batch}, levels)
        second = config.schedule == "two_stage" and progress >= FIRST_STAGE
        nearness = None
        if not second:
            log_probs = torch.log_softmax(output.logits.float(), 1)
            terms["class_prior"] = config.prior_weight * collision_prior(log_probs, edges)
            if self.distance is not None:
                probs = log_probs.detach().exp()
                paths = self._paths(batch, output, probs, spread) if config.place == "path" else None
                rounds = self.distance(batch, output.feats, probs, spread, paths)
                nearness = [scores.detach().softmax(1) for scores in rounds[-1]]
                terms |= self._distance_terms(rounds, spread, batch, edges)
        weight = self._mask_weight(progress)
        if weight:
            pseudo = self._pseudo_targets(batch, output, spread, edges, nearness)
            proposed = self.model.panoptic(batch, output)  # pyright: ignore[reportCallIssue]
            terms["masks"] = weight * panoptic_loss(proposed, batch.offsets, pseudo, self.branch)
        return terms

    @torch.no_grad()
    def pseudo_targets(self, batch: PointBatch, output: SegOutput) -> list[PseudoTargets]:  # B
        """Pseudo-labels of each cloud from what the network makes of it; those of points stay as they are."""
        clicked = targets_of(batch, self.is_thing)
        edges = None if self.surface is None and not self.config.smoothing else self._ties(batch)
        spread = self._spread(batch, clicked, edges)
        pseudo = self._pseudo_targets(batch, output, spread, edges)
        kept = [replace(p, of_row=torch.where(c.of_row != IGNORE, c.of_row, p.of_row)) for p, c in zip(pseudo, clicked)]
        return [PseudoTargets(*pair) for pair in zip(kept, clicked, strict=True)]

    def _mask_weight(self, progress: float) -> float:
        config = self.config
        if config.schedule == "two_stage":
            return config.mask_weight if progress >= FIRST_STAGE else 0.0
        return config.mask_weight * ramp(progress, config.warmup)

    def _ties(self, batch: PointBatch) -> GridEdges:
        """Which pairs of rows are held to belong together."""
        config = self.config
        return alike_edges(
            batch,
            self.looks,
            neighbor_lists(batch, k=config.k, window=config.window, step=config.window_step),
            min_likeness=config.min_likeness,
            surface=self.surface,
            max_concavity=2.0 if config.max_concavity is None else config.max_concavity,
        )

    def _spread(self, batch: PointBatch, targets: list[Targets], edges: GridEdges | None) -> list[Targets]:
        """Labels spread, over tied pairs alone where folds part rows; what parts colours does not part labels."""
        found = []
        for (start, end), wanted in zip(itertools.pairwise(batch.offsets.tolist()), targets, strict=True):
            own = None if edges is None or self.surface is None else cloud_edges(edges, start, end)
            found.append(dilated(batch.coords[start:end], wanted, self.config.dilation, own))
        return found

    def _distance_terms(
        self, rounds: list[list[Tensor]], targets: list[Targets], batch: PointBatch, edges: GridEdges
    ) -> dict[str, Tensor]:
        """Means over the rounds and over the clouds that have two targets or more."""
        config, own, prior = self.config, [], []
        for scores_of in rounds:
            clouds = zip(itertools.pairwise(batch.offsets.tolist()), scores_of, targets, strict=True)
            for (start, end), scores, wanted in clouds:
                if len(wanted) < 2:
                    continue
                own.append(losses.distance_loss(scores, wanted.of_row, config.distance_loss))
                prior.append(collision_prior(torch.log_softmax(scores, 1), cloud_edges(edges, start, end)))
        zero = rounds[0][0].sum() * 0.0
        return {
            "distance": config.distance_weight * (torch.stack(own).mean() if own else zero),
            "distance_prior": config.distance_prior_weight * (torch.stack(prior).mean() if prior else zero),
        }

    @torch.no_grad()
    def _pseudo_targets(
        self,
        batch: PointBatch,
        output: SegOutput,
        targets: list[Targets],
        edges: GridEdges | None,
        nearness: list[Tensor] | None = None,
    ) -> list[Targets]:
        config = self.config
        probs = output.logits.float().softmax(1)
        if nearness is None:
            nearness = self._nearness(batch, output, probs, targets)
        found = []
        clouds = zip(itertools.pairwise(batch.offsets.tolist()), nearness, targets, strict=True)
        for (start, end), near, wanted in clouds:
            of_row = panoptic_labels(
                near,
                probs[start:end],
                wanted,
                min_confidence=config.min_confidence,
                presence=config.presence,
                by=config.assign_by,
                ties=cloud_edges(edges, start, end) if edges is not None and config.smoothing else None,
                smoothing=config.smoothing,
            )
            found.append(replace(wanted, of_row=of_row))
        return found

    def _nearness(
        self, batch: PointBatch, output: SegOutput, probs: Tensor, targets: list[Targets]
    ) -> list[Tensor]:  # (n, G) each
        config = self.config
        if self.distance is not None:
            paths = self._paths(batch, output, probs, targets) if config.place == "path" else None
            return self.distance.nearness(batch, output.feats, probs, targets, paths)
        if config.distance == "path":
            return [1 - away for away in self._paths(batch, output, probs, targets)]
        places = batch.coords if config.distance == "nearest" else self._signal(batch)
        clouds = zip(itertools.pairwise(batch.offsets.tolist()), targets, strict=True)
        return [1 - straight_distance(places[start:end], wanted) for (start, end), wanted in clouds]

    def _signal(self, batch: PointBatch) -> Tensor:  # (N, c)
        return torch.cat([look.signal(batch) for look in self.looks], 1) if self.looks else batch.coords * 0

    @torch.no_grad()
    def _paths(
        self, batch: PointBatch, output: SegOutput, probs: Tensor, targets: list[Targets]
    ) -> list[Tensor]:  # (n, G) each, in [0, 1]
        """What the cheapest path from each target to each row costs."""
        config = self.config
        lists = neighbor_lists(batch, k=config.k, window=3, step=1, both=True)  # paths go from pixel to pixel
        contrast = _contrast(self._signal(batch), lists)
        if self.surface is not None:
            contrast = torch.maximum(contrast, _folds(self.surface.concavity(batch, lists)))
        found = []
        for (start, end), wanted in zip(itertools.pairwise(batch.offsets.tolist()), targets, strict=True):
            cloud = slice(start, end)
            neighbors = cloud_edges(GridEdges(lists, lists), start, end).neighbors
            length = None
            if config.length_weight:
                length = config.length_weight * _relative_lengths(batch.coords[cloud], neighbors)
            cost = path_cost(
                neighbors,
                probs[cloud],
                contrast[cloud],
                output.feats[cloud],
                edge_weight=config.edge_weight,
                embedding_weight=config.embedding_weight,
                length=length,
            )
            found.append(path_distance(neighbors, cost, wanted))
        return found


def _labels(batch: PointBatch, targets: list[Targets]) -> Tensor:  # (N,) int64
    """Labels, and those of rows to which targets have spread."""
    assert batch.labels is not None
    found = [torch.cat([t.classes, t.classes.new_tensor([IGNORE])])[t.of_row] for t in targets]
    spread = torch.cat(found) if found else batch.labels
    return torch.where(batch.labels != IGNORE, batch.labels, spread)


def _contrast(signal: Tensor, lists: Tensor) -> Tensor:  # (N, c), (N, k) -> (N,) in [0, 1]
    """Mean difference of a row from its neighbours, over the largest."""
    rows = len(signal)
    total, count = signal.new_zeros(rows), signal.new_zeros(rows)
    for place in range(lists.shape[1]):
        there = lists[:, place]
        present = there < rows
        apart = (signal - signal[there.clamp(max=max(0, rows - 1))]).norm(dim=1)
        total += torch.where(present, apart, 0.0)
        count += present
    mean = total / count.clamp(min=1)
    return mean / mean.amax().clamp(min=1e-12) if rows else mean


def _folds(concavity: Tensor) -> Tensor:  # (N, k) -> (N,) in [0, 1]
    """How far the surface around a row folds inwards, over the largest."""
    mean = concavity.clamp(min=0).mean(1)
    return mean / mean.amax().clamp(min=1e-12) if len(mean) else mean


def _relative_lengths(coords: Tensor, neighbors: Tensor) -> Tensor:  # (n, k)
    """Length of each step over the cloud's largest extent."""
    there = ops.gather_neighbors(coords, neighbors)
    extent = (coords.amax(0) - coords.amin(0)).amax().clamp(min=1e-12)
    return (there - coords[:, None]).norm(dim=2) / extent
