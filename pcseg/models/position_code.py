"""Where a row is, as a vector: sines and cosines of its place in the cloud."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from pcseg.batch import PointBatch

_OCTAVES = 4  # the finest wave is a quarter of the cloud's largest extent; finer ones weigh less


class PositionCode(nn.Module):
    """Sines and cosines of coordinates relative to the cloud's middle, over its largest extent, through a linear layer
    and a layer norm: as long as normalised features are, and products of two codes fall with the distance.

    Args:
        dim: D of the coordinates.
        channels: of the code.
    """

    def __init__(self, dim: int, channels: int):
        super().__init__()
        self.linear = nn.Linear(dim * (2 * _OCTAVES + 1), channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, batch: PointBatch) -> Tensor:  # (N, channels) float32
        return self.norm(self.linear(waves(batch.coords, batch.offsets)))


@torch.no_grad()
def waves(
    coords: Tensor,  # (N, D) float
    offsets: Tensor,  # (B + 1,) int64
) -> Tensor:  # (N, D * 9) float32
    """Places in [-1, 1], and four octaves of their waves; proportions of the cloud stay."""
    places = places_of(coords, offsets)
    octaves = 2.0 ** torch.arange(_OCTAVES, device=coords.device)
    angles = places[:, :, None] * (math.pi / 2 * octaves)
    return torch.cat([places, (angles.sin() / octaves).flatten(1), (angles.cos() / octaves).flatten(1)], 1)


@torch.no_grad()
def places_of(
    coords: Tensor,  # (N, D) float
    offsets: Tensor,  # (B + 1,) int64
) -> Tensor:  # (N, D) float32
    """Coordinates relative to the middle of their cloud, over half its largest extent: in [-1, 1]."""
    places = torch.zeros_like(coords, dtype=torch.float32)
    bounds = offsets.tolist()
    for start, end in itertools.pairwise(bounds):
        if end > start:
            part = coords[start:end].float()
            low, high = part.amin(0), part.amax(0)
            reach = ((high - low).amax() / 2).clamp(min=1e-6)
            places[start:end] = (part - (low + high) / 2) / reach
    return places
