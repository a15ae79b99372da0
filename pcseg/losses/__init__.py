"""Losses: pure functions, averaged over the rows that are labelled."""

from pcseg.losses.cross_entropy import cross_entropy
from pcseg.losses.dice import dice
from pcseg.losses.focal import focal
from pcseg.losses.lovasz import lovasz_softmax

__all__ = ["cross_entropy", "dice", "focal", "lovasz_softmax"]
