"""Losses: pure functions; those on labels are averaged over the labelled rows, others are given row by row."""

from pcseg.losses.cross_entropy import cross_entropy
from pcseg.losses.dice import dice
from pcseg.losses.distance import distance_loss
from pcseg.losses.entropy import entropy
from pcseg.losses.erda import erda
from pcseg.losses.focal import focal
from pcseg.losses.labelled import masked_mean
from pcseg.losses.lovasz import lovasz_softmax
from pcseg.losses.mask_set import mask_set_loss, seeded_mask_loss
from pcseg.losses.relation import relation

__all__ = [
    "cross_entropy",
    "dice",
    "distance_loss",
    "entropy",
    "erda",
    "focal",
    "lovasz_softmax",
    "mask_set_loss",
    "masked_mean",
    "relation",
    "seeded_mask_loss",
]
