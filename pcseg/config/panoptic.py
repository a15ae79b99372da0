"""What tells things apart: the branch on top of a network that proposes a set of masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pcseg.config.base import Config


class BranchConfig(Config):
    """What all branches have: the weights of the set loss, and how proposals become segments."""

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


class QueryDecoderConfig(BranchConfig):
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

    @model_validator(mode="after")
    def _heads_fit(self) -> QueryDecoderConfig:
        if self.channels % self.heads:
            raise ValueError(f"heads must divide channels {self.channels}, got {self.heads}")
        if self.start == "learned" and self.matching == "seed":
            raise ValueError("learned queries begin at no row; set matching hungarian, or start farthest")
        return self


class Mask2FormerConfig(BranchConfig):
    """Mask2Former (Cheng et al. 2022) of ``transformers``, on the maps of an image network's encoder.

    The defaults are those of the paper and its code for panoptic segmentation of COCO with ResNet-50, inference
    included.
    """

    kind: Literal["mask2former"] = "mask2former"
    weights: str | None = None
    """Folder or hub id of a Mask2Former checkpoint in the format of ``transformers``, of which pixel decoder and
    transformer decoder are taken over (and the classifier, if its classes are those of the run); None: random ones."""
    queries: int = Field(default=100, ge=1)
    """Proposals of an image; at least as many as it has things and stuff classes."""
    channels: int = Field(default=256, ge=32, multiple_of=32)
    """Of the pixel decoder, the masks and the queries."""
    heads: int = Field(default=8, ge=1)
    pixel_layers: int = Field(default=6, ge=1)
    """Of the pixel decoder: deformable attention over three scales."""
    pixel_hidden: int = Field(default=1024, ge=1)
    """Width of the perceptrons in them."""
    layers: int = Field(default=9, ge=1)
    """Of the transformer decoder; its proposals count after each of them and before the first."""
    hidden: int = Field(default=2048, ge=1)
    """Width of the perceptrons in them."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    points: int = Field(default=12544, ge=1)
    """Places of an image at which masks are compared, drawn anew in every step."""
    oversample: float = Field(default=3.0, ge=1)
    """So many times more are drawn, of which the least decided are kept ..."""
    importance: float = Field(default=0.75, ge=0, le=1)
    """... for this share of the points; the others are drawn evenly."""
    min_score: float = Field(default=0.8, ge=0, le=1)
    min_overlap: float = Field(default=0.8, ge=0, le=1)

    @model_validator(mode="after")
    def _settings_fit(self) -> Mask2FormerConfig:
        if self.channels % self.heads:
            raise ValueError(f"heads must divide channels {self.channels}, got {self.heads}")
        if not self.class_weight + self.mask_weight + self.dice_weight:
            raise ValueError("one of class_weight, mask_weight, dice_weight must be above 0")
        return self


PanopticConfig = QueryDecoderConfig | Mask2FormerConfig
