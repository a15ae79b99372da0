"""Losses: pure functions; those on labels are averaged over the labelled rows, others are given row by row."""

from pcseg.losses.cross_entropy import cross_entropy
from pcseg.losses.dice import dice
from pcseg.losses.entropy import entropy
from pcseg.losses.erda import erda
from pcseg.losses.focal import focal
from pcseg.losses.labelled import masked_mean
from pcseg.losses.lovasz import lovasz_softmax
from pcseg.losses.relation import relation

__all__ = ["cross_entropy", "dice", "entropy", "erda", "focal", "lovasz_softmax", "masked_mean", "relation"]
