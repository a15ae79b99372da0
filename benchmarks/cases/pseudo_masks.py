"""Pseudo-masks of 20 targets: the learnable distance, and shortest paths by rule, the peer of its own line of work."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from benchmarks.clouds import Clouds
from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.images import image_batch
from pcseg.ops import GridEdges
from pcseg.pseudo.alike import cloud_edges, neighbor_lists
from pcseg.pseudo.learnable_distance import LearnableDistance
from pcseg.pseudo.panoptic_labels import panoptic_labels
from pcseg.pseudo.rule_distance import path_cost, path_distance
from pcseg.pseudo.targets import Targets

OPS = ("pseudo_masks",)
TARGETS, CLASSES, CHANNELS = 20, 5, 64


def cases(clouds: Clouds) -> Iterator[Case]:
    if clouds.device != "cpu":
        return  # paths are SciPy's
    room = clouds.room()[:100_000].contiguous()
    cloud = PointBatch(coords=room, feats=torch.zeros(len(room), 1), offsets=offsets_of([len(room)]))
    for name, batch in (("image, 640 x 480", image_batch(torch.zeros(480, 640, 1))), ("room, 100,000", cloud)):
        generator = torch.Generator().manual_seed(0)
        feats = torch.randn(batch.num_rows, CHANNELS, generator=generator)
        probs = torch.randn(batch.num_rows, CLASSES, generator=generator).softmax(1)
        targets = clicks(batch.num_rows, generator)
        dim = batch.coords.shape[1]
        distance = LearnableDistance(CHANNELS, dim=dim, rounds=2)
        yield Case(
            op="pseudo_masks",
            variant=f"learnable distance, {TARGETS} targets, 2 rounds",
            input=name,
            rows=batch.num_rows,
            ours=lambda b=batch, f=feats, p=probs, t=targets, d=distance: panoptic_labels(
                d.nearness(b, f, p, [t])[0], p, t
            ),
            peers={"shortest paths": lambda b=batch, f=feats, p=probs, t=targets: by_paths(b, f, p, t)},
        )


def clicks(rows: int, generator: torch.Generator) -> Targets:
    """A class of stuff, and things of the others, one row each."""
    of_row = torch.full((rows,), IGNORE)
    of_row[torch.randperm(rows, generator=generator)[:TARGETS]] = torch.arange(TARGETS)
    classes = torch.arange(TARGETS) % CLASSES
    classes[1:] = classes[1:].clamp(min=1)
    return Targets(classes=classes, is_thing=classes > 0, of_row=of_row)


def by_paths(batch: PointBatch, feats: torch.Tensor, probs: torch.Tensor, targets: Targets) -> torch.Tensor:
    lists = neighbor_lists(batch, k=8, window=3, step=1, both=True)
    neighbors = cloud_edges(GridEdges(lists, lists), 0, batch.num_rows).neighbors
    cost = path_cost(neighbors, probs, torch.zeros(batch.num_rows), feats)
    return panoptic_labels(1 - path_distance(neighbors, cost, targets), probs, targets)
