"""Random changes of an item, the same for clouds and images: geometry, colour, hidden features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcseg.batch import PointBatch
from pcseg.config import AugmentConfig
from pcseg.datasets.color import blurred, recolored
from pcseg.datasets.feature_contract import ONES, FeatureContract


@dataclass(frozen=True, slots=True)
class Geometry:
    """A turn (and mirroring), then a stretch: a point at p from the centre goes to ``(p @ turn.T) * scale``.

    A cloud's coordinates are moved so; a window of an image looks up, for each of its cells, where in the image the
    cell comes from (:func:`pcseg.datasets.resample.look_up`). The same draw does the same to both.
    """

    turn: Tensor  # (D, D) float32, orthogonal
    scale: Tensor  # (D,) float32

    @classmethod
    def none(cls, dim: int) -> Geometry:
        return cls(torch.eye(dim), torch.ones(dim))

    @classmethod
    def draw(cls, config: AugmentConfig, dim: int, generator: torch.Generator) -> Geometry:
        """A turn about the vertical axis (in the plane, if D is 2), mirrored or not, and a factor for each axis."""
        turn = torch.eye(dim)
        if config.rotate:
            angle = float(torch.rand((), generator=generator)) * 2 * math.pi
            cos, sin = math.cos(angle), math.sin(angle)
            turn[:2, :2] = torch.tensor([[cos, -sin], [sin, cos]])
        if float(torch.rand((), generator=generator)) < config.flip:
            turn[0] = -turn[0]
        low, high = config.scale
        factors = torch.rand(1 if config.isotropic else dim, generator=generator).expand(dim)
        return cls(turn, low + (high - low) * factors)

    def moved(self, coords: Tensor) -> Tensor:  # (N, D) -> (N, D)
        """Where places relative to the centre go."""
        return (coords @ self.turn.T) * self.scale

    def origin(self, coords: Tensor) -> Tensor:  # (N, D) -> (N, D)
        """Where places relative to the centre come from; the inverse of :meth:`moved`."""
        return (coords / self.scale) @ self.turn

    def follow(self, feats: Tensor, contract: FeatureContract) -> Tensor:  # (N, C) -> (N, C)
        """What features say about directions and lengths, after the change: normals turn, heights stretch."""
        feats = feats.clone()
        dim = self.turn.shape[0]
        for feature, place in zip(contract.features, contract.slices.values(), strict=True):
            if feature.name == "height_above_ground" and dim == 3:
                feats[:, place] = feature.scaled(feature.restored(feats[:, place]) * self.scale[2])
            elif feature.name == "normals" and len(feature.channels) == dim:
                # A plane's normal stretches inversely to the plane.
                normals = (feature.restored(feats[:, place]) @ self.turn.T) / self.scale
                length = normals.norm(dim=1, keepdim=True).clamp_min(1e-12)
                feats[:, place] = feature.scaled(normals / length)
        return feats


def augmented(
    item: PointBatch,
    config: AugmentConfig,
    contract: FeatureContract,
    generator: torch.Generator,
) -> PointBatch:
    """All changes of a cloud: turn, mirror, stretch and jitter its coordinates, then :func:`disturbed`.

    What features say about directions and lengths follows: normals turn, heights stretch. Labels and rows stay. Of a
    window of an image (``image_sizes`` is there) the grid stays too: its geometry was drawn when it was cut.
    """
    if item.image_sizes is None:
        geometry = Geometry.draw(config, item.coords.shape[1], generator)
        coords = geometry.moved(item.coords)
        if config.jitter > 0:
            coords = coords + config.jitter * torch.randn(coords.shape, generator=generator)
        item = replace(item, coords=coords, feats=geometry.follow(item.feats, contract))
    return disturbed(item, config, contract, generator)


def disturbed(
    item: PointBatch,
    config: AugmentConfig,
    contract: FeatureContract,
    generator: torch.Generator,
) -> PointBatch:
    """Change colours, blur images, hide whole features (0, their mean) and shift others; ``ones`` stays."""
    feats = recolored(item.feats, config, contract, generator)
    if item.image_sizes is not None and float(torch.rand((), generator=generator)) < config.blur:
        sigma = 0.1 + 1.9 * float(torch.rand((), generator=generator))
        feats = blurred(feats, item.image_sizes, sigma, contract)
    if feats is item.feats:
        feats = feats.clone()
    for name, place in contract.slices.items():
        width = place.stop - place.start
        hidden = float(torch.rand((), generator=generator)) < config.feature_dropout
        shift = torch.randn(width, generator=generator) * config.feature_jitter
        if name == ONES:
            continue
        feats[:, place] = 0.0 if hidden else feats[:, place] + shift
    return replace(item, feats=feats)


def geometry_of(config: AugmentConfig) -> AugmentConfig:
    """Only what moves coordinates: of windows whose two views are to share their pixels."""
    kept = {name: getattr(config, name) for name in ("rotate", "flip", "scale", "isotropic", "jitter")}
    return AugmentConfig(**kept)


def two_views(
    item: PointBatch,
    weak: AugmentConfig,
    strong: AugmentConfig,
    contract: FeatureContract,
    generator: torch.Generator,
) -> tuple[PointBatch, PointBatch]:
    """A weakly and a strongly changed view of the same rows in the same order: row i of one is row i of the other.

    Clouds get a geometry for each view. The windows of images share theirs, drawn when they were cut
    (``WindowDataset`` with :func:`geometry_of` the weak settings): only the features of the views differ, as in
    FixMatch and UniMatch, and what ``weak`` and ``strong`` say about geometry is not looked at.

    Args:
        item: not yet changed, or a window with nothing but its geometry changed.
    """
    return augmented(item, weak, contract, generator), augmented(item, strong, contract, generator)
