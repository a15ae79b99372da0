"""What the votes of a protocol look at: the same scene, changed only as training changed it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcseg.config import AugmentConfig
from pcseg.datasets.augment import Geometry
from pcseg.datasets.feature_contract import FeatureContract

_QUARTERS = (0, 2, 1, 3)  # a half turn before the quarter turns, which exchange height and width


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteViews:
    """Turned where the network learnt to see turned scenes, mirrored where it learnt to see mirrored ones.

    A network that never saw a head upside down has nothing to say about one: with turned views the shipped volumes'
    mIoU fell from 0.69 to 0.54.
    """

    rotate: bool = True
    mirror: bool = True
    contract: FeatureContract | None = None
    """Of features that say something about directions, which turn with the scene; None: none do."""

    @classmethod
    def as_trained(cls, augment: AugmentConfig, contract: FeatureContract) -> VoteViews:
        return cls(rotate=augment.rotate, mirror=augment.flip > 0, contract=contract)

    def of_cloud(
        self,
        coords: Tensor,  # (V, D) float32
        feats: Tensor,  # (V, C) float32, scaled for the network
        vote: int,
        votes: int,
    ) -> tuple[Tensor, Tensor]:  # as they came
        """The view of a vote: turned evenly around the circle, every other one mirrored; the first is the scene."""
        dim = coords.shape[1]
        turn = torch.eye(dim)
        if self.rotate:
            angle = 2.0 * math.pi * vote / votes
            cos, sin = math.cos(angle), math.sin(angle)
            turn[:2, :2] = torch.tensor([[cos, -sin], [sin, cos]])
        if self.mirror and vote % 2:
            turn[0] = -turn[0]
        if torch.equal(turn, torch.eye(dim)):
            return coords, feats
        geometry = Geometry(turn, torch.ones(dim))
        return geometry.moved(coords), feats if self.contract is None else geometry.follow(feats, self.contract)

    def of_grid(self) -> list[tuple[int, bool]]:
        """Views that need no resampling, the first the image itself: quarter turns, mirrored or not."""
        turns = _QUARTERS if self.rotate else (0,)
        return [(quarters, mirrored) for quarters in turns for mirrored in ((False, True) if self.mirror else (False,))]
