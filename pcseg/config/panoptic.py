"""What tells things apart: the branch on top of a network that proposes a set of masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pcseg.config.base import Config


class QueryDecoderConfig(Config):
    """Queries that look at a network's features and propose a class and a mask each; of clouds and of pixel clouds."""

    kind: Literal["query_decoder"] = "query_decoder"
    queries: int = Field(default=32, ge=1)
    """Proposals of a cloud; at least as many as it has things and stuff classes."""
    start: Literal["farthest", "learned"] = "farthest"
    """Queries begin at rows that are far from each other, or at learnt vectors."""
    matching: Literal["seed", "hungarian"] = "seed"
    """A query learns the mask of the target that holds the row at which it began, and inference drops the copies; or
    one query learns each target, the cheapest to match, and the others learn to be nothing."""
    layers: int = Field(default=3, ge=1)
    channels: int = Field(default=64, ge=8, multiple_of=8)
    heads: int = Field(default=4, ge=1)
    class_weight: float = Field(default=2.0, ge=0)
    """Of the set loss: cross entropy of the classes, of the masks, and Dice; in matching and in learning alike."""
    mask_weight: float = Field(default=5.0, ge=0)
    dice_weight: float = Field(default=5.0, ge=0)
    nothing_weight: float = Field(default=0.1, ge=0)
    """Weight of "nothing" among the classes."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Of inference: least probability of a proposal's class."""
    min_overlap: float = Field(default=0.5, ge=0, le=1)
    """Of inference: a thing of whose mask surer things leave less than this share is dropped."""
    max_copy: float = Field(default=0.5, gt=0, le=1)
    """Of average precision: a proposed thing whose IoU with a surer one is above this is a copy, and left out."""

    @model_validator(mode="after")
    def _heads_fit(self) -> QueryDecoderConfig:
        if self.channels % self.heads:
            raise ValueError(f"heads must divide channels {self.channels}, got {self.heads}")
        if self.start == "learned" and self.matching == "seed":
            raise ValueError("learned queries begin at no row; set matching hungarian, or start farthest")
        return self


PanopticConfig = QueryDecoderConfig
