"""Pairs of rows that lie together and look alike: they are held to have one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg import ops
from pcseg.batch import PointBatch
from pcseg.datasets.color import lab, unit_colors
from pcseg.datasets.feature_contract import COLORS, Feature, FeatureContract
from pcseg.errors import InputError
from pcseg.ops import GridEdges


@dataclass(frozen=True, slots=True)
class Looks:
    """A feature by which rows are compared."""

    feature: Feature
    channels: slice
    scale: float

    def signal(self, batch: PointBatch) -> Tensor:  # (N, c) float32
        """Colours in LAB, other features in their own unit; over the scale."""
        feats = batch.feats[:, self.channels]
        if self.feature.name in COLORS and feats.shape[1] == 3:
            return lab(unit_colors(feats, self.feature)) / self.scale
        return feats * feats.new_tensor([channel.std for channel in self.feature.channels]) / self.scale


def looks_of(contract: FeatureContract, scales: Mapping[str, float]) -> tuple[Looks, ...]:
    """The named features of a contract.

    Raises:
        InputError: a feature that the run does not read, or a scale that is not positive.
    """
    found = []
    for name, scale in scales.items():
        feature = next((f for f in contract.features if f.name == name), None)
        if feature is None:
            raise InputError(f"method.alike: the run reads no feature '{name}'; it reads {', '.join(contract.names)}")
        if not scale > 0:
            raise InputError(f"method.alike: the scale of '{name}' must be positive, got {scale}")
        found.append(Looks(feature, contract.slices[name], scale))
    return tuple(found)


@torch.no_grad()
def neighbor_lists(
    batch: PointBatch, *, k: int, window: int, step: int, both: bool = False
) -> Tensor:  # (N, k) int64, N for none
    """The k nearest rows of each row of a cloud; of images the places of a window around each pixel, once a pair.

    Args:
        both: let both ends of a pair of pixels list it, as paths need it.
    """
    if batch.image_sizes is None:
        return ops.nearest_others(batch.coords, k, offsets=batch.offsets)[0]
    reach = window // 2
    shifts = [(y * step, x * step) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    later = [shift for shift in shifts if shift > (0, 0) or (both and shift < (0, 0))]
    parts, start = [], 0
    for height, width in batch.image_sizes.tolist():
        y = torch.arange(height, device=batch.coords.device)[:, None, None]
        x = torch.arange(width, device=batch.coords.device)[None, :, None]
        shift = torch.tensor(later, device=batch.coords.device)
        there_y, there_x = y + shift[:, 0], x + shift[:, 1]
        inside = (there_y >= 0) & (there_y < height) & (there_x >= 0) & (there_x < width)
        parts.append(torch.where(inside, start + there_y * width + there_x, batch.num_rows).flatten(0, 1))
        start += height * width
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class Surface:
    """The feature ``normals`` of a cloud: which way its surface folds between two rows."""

    feature: Feature
    channels: slice

    def concavity(
        self,
        batch: PointBatch,
        neighbors: Tensor,  # (N, k) int64, N for none
    ) -> Tensor:  # (N, k) float32 in [-2, 2]
        """``(n_i - n_j) . (x_j - x_i) / |x_j - x_i|``: positive where the surface folds towards its normals, as where
        a box meets the table; negative over an edge of the box; 0 on a plane, at no neighbour, at the same place.

        Source: Stein et al. 2014, Object partitioning using local convexity: things are convex, and meet in concave
        folds.
        """
        rows = batch.num_rows
        normals = F.normalize(self.feature.restored(batch.feats[:, self.channels].float()), dim=1)
        found = normals.new_zeros(neighbors.shape)
        for place in range(neighbors.shape[1]):  # never (N, k, D) at once
            there = neighbors[:, place].clamp(max=max(0, rows - 1))
            way = F.normalize(batch.coords[there] - batch.coords, dim=1)
            fold = ((normals - normals[there]) * way).sum(1)
            found[:, place] = torch.where(neighbors[:, place] < rows, fold, 0.0)
        return found


def surface_of(contract: FeatureContract) -> Surface:
    """The normals among the features of a contract.

    Raises:
        InputError: the run does not read them.
    """
    feature = next((f for f in contract.features if f.name == "normals"), None)
    if feature is None:
        raise InputError(
            f"method.max_concavity: the run reads no feature 'normals'; it reads {', '.join(contract.names)}; "
            "add it to data.features, or set max_concavity to null"
        )
    return Surface(feature, contract.slices["normals"])


@torch.no_grad()
def alike_edges(
    batch: PointBatch,
    looks: Sequence[Looks],
    neighbors: Tensor,  # (N, k) int64, N for none
    *,
    min_likeness: float,
    surface: Surface | None = None,
    max_concavity: float = 2.0,
) -> GridEdges:
    """Weight 1 for the pairs whose likeness ``exp(-|difference| / 2)`` reaches the least, 0 for the others.

    The difference is over all features together; without any every pair is alike.

    Args:
        surface: pairs across which it folds inwards by more than ``max_concavity`` are not tied; None: no matter.

    Source: BoxInst (Tian et al. 2021) and PSPS (Fan et al. 2022): pairwise loss in LAB, 0.3 the least. Folds: ours.
    """
    weight = (neighbors < batch.num_rows).float()
    if looks:
        signal = torch.cat([look.signal(batch) for look in looks], 1)
        there = neighbors.clamp(max=max(0, batch.num_rows - 1))
        for place in range(neighbors.shape[1]):  # never (N, k, c) at once
            apart = (signal - signal[there[:, place]]).norm(dim=1)
            weight[:, place] *= torch.exp(-apart / 2) >= min_likeness
    if surface is not None:
        weight *= surface.concavity(batch, neighbors) <= max_concavity
    return GridEdges(neighbors, weight)


def cloud_edges(edges: GridEdges, start: int, end: int) -> GridEdges:
    """The lists of one cloud of a batch, with its own numbers of rows."""
    rows = len(edges.neighbors)
    neighbors = edges.neighbors[start:end]
    return GridEdges(torch.where(neighbors < rows, neighbors - start, end - start), edges.edge_weight[start:end])


def collision_prior(
    log_probs: Tensor,  # (n, K) float
    edges: GridEdges,
) -> Tensor:  # ()
    """Mean over the tied pairs of ``-ln sum_k P_ik P_jk``: the collision Potts term with weights 0 and 1.

    No tied pair gives 0, connected to the graph.

    Source: PSPS, LAB pairwise loss.
    """
    total = ops.potts_energy(log_probs, edges.neighbors, edges.edge_weight, "cce").sum()
    return total / edges.edge_weight.sum().clamp(min=1)
