"""What models return."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Proposals:
    """What a decoder layer thinks of every cloud of a batch: Q proposals each.

    Args:
        class_logits: (B, Q, K + 1) float; the last class is "nothing".
        mask_logits: (N, Q) float, or a function that computes them: masks on a coarse grid are brought to the pixels
            when asked for.
    """

    __slots__ = ("_mask_logits", "class_logits")

    def __init__(self, class_logits: Tensor, mask_logits: Tensor | Callable[[], Tensor]):
        self.class_logits = class_logits
        self._mask_logits = mask_logits

    @property
    def mask_logits(self) -> Tensor:  # (N, Q) float
        """Whether row n belongs to proposal q of its own cloud."""
        if not isinstance(self._mask_logits, Tensor):
            self._mask_logits = self._mask_logits()
        return self._mask_logits


class FeatureMaps(NamedTuple):
    """What an encoder makes of images of one size."""

    images: tuple[int, ...]  # their numbers in the batch, ascending
    size: tuple[int, int]  # height and width, pixels
    stages: tuple[Tensor, ...]  # (b, C_s, h_s, w_s) each, fine to coarse


class MaskMaps(NamedTuple):
    """Proposals for images of one size, on a grid of their own; sample i stands in the middle of ``stride`` pixels."""

    images: tuple[int, ...]  # their numbers in the batch, ascending
    size: tuple[int, int]  # height and width, pixels
    stride: int  # pixels for each sample
    class_logits: tuple[Tensor, ...]  # (b, Q, K + 1) float for each layer
    mask_logits: tuple[Tensor, ...]  # (b, Q, h, w) float for each layer, h and w at least size / stride


class PanopticOutput(NamedTuple):
    """Panoptic segmentation of a batch; the last layer's proposals count, the others are for training."""

    layers: tuple[Proposals, ...]
    seeds: Tensor | None  # (B, Q) int64, row of the batch at which each query began, -1 for none; None: at no row
    maps: tuple[MaskMaps, ...] = ()  # the same proposals before they are brought to the pixels, where they are maps

    @property
    def last(self) -> Proposals:
        return self.layers[-1]


class SegOutput:
    """Semantic segmentation of every row of a batch.

    Args:
        logits: (N, K) float.
        feats: (N, C) float, or a function that computes them. An image network has hundreds of channels on a coarse
            grid; brought to the pixels they take more memory than all the rest, so they are made when asked for.
        maps: what the encoder of an image network made, for each size of image that occurs; other networks have none.
    """

    __slots__ = ("_feats", "logits", "maps")

    def __init__(self, logits: Tensor, feats: Tensor | Callable[[], Tensor], maps: tuple[FeatureMaps, ...] = ()):
        self.logits = logits
        self._feats = feats
        self.maps = maps

    @property
    def feats(self) -> Tensor:  # (N, C) float
        """What the last linear layer read, before dropout: prototypes and embeddings start here."""
        if not isinstance(self._feats, Tensor):
            self._feats = self._feats()
        return self._feats
