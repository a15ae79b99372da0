"""Class prototypes: slow means of the labelled rows' features, and the pseudo-labels that they name."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcseg.batch import IGNORE
from pcseg.models.layers import RowBatchNorm
from pcseg.processes import summed

NEVER = -1e9  # logit of a class that no row has shown yet


class Projection(nn.Sequential):
    """Two linear layers, normalised and rectified between: the space in which rows and prototypes are compared.

    Source: Tang et al. 2023, ERDA, code (head of the pseudo-labels: linear without bias, norm, activation, linear).
    """

    def __init__(self, channels: int):
        super().__init__(
            nn.Linear(channels, channels, bias=False),
            RowBatchNorm(channels, momentum=0.02),
            nn.LeakyReLU(0.1),
            nn.Linear(channels, channels),
        )


class Prototypes(nn.Module):
    """A running mean of the features of each class, and cosines with it as logits.

    Args:
        num_classes: K.
        channels: C of the projected features.
        momentum: weight of the past.
        temperature: divides the cosines.
        absent: what becomes of a class without a row in the batch: "keep" leaves its prototype, "reset" sets it to 0,
            as the released code does (its logit is then 0 until the class is seen again).

    Source: Tang et al. 2023, ERDA, section 3.3 and code. Ours: sums and counts are added up over processes (the code
    adds up means), and a class that was never seen gets no probability (there, as much as a cosine of 0).
    """

    centroids: Tensor  # (K, C) float32
    seen: Tensor  # (K,) bool

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        momentum: float = 0.999,
        temperature: float = 1.0,
        absent: Literal["keep", "reset"] = "keep",
    ):
        super().__init__()
        self.momentum, self.temperature, self.absent = momentum, temperature, absent
        self.register_buffer("centroids", torch.zeros(num_classes, channels))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(
        self,
        feats: Tensor,  # (N, C) float
        labels: Tensor,  # (N,) int64 in [0, K) or IGNORE
    ) -> None:
        """Move the prototypes towards the means of a batch's labelled rows, of all processes together."""
        classes = len(self.centroids)
        rows = torch.nonzero(labels != IGNORE)[:, 0]
        member = labels[rows]
        # A product with the one-hot matrix adds rows in one order, whatever the device.
        one_hot = F.one_hot(member, classes).to(torch.float32)
        both = summed(torch.cat([one_hot.T @ feats[rows].float(), one_hot.sum(0).unsqueeze(1)], 1))
        sums, counts = both[:, :-1], both[:, -1]
        present = (counts > 0).unsqueeze(1)
        means = sums / counts.clamp(min=1).unsqueeze(1)
        moved = self.momentum * self.centroids + (1 - self.momentum) * means
        kept = self.centroids if self.absent == "keep" else torch.zeros_like(self.centroids)
        self.centroids.copy_(torch.where(present, moved, kept))
        self.seen |= present[:, 0]

    @property
    def ready(self) -> bool:
        """Two classes have been seen: with fewer a pseudo-label says nothing."""
        return int(self.seen.sum()) >= 2

    def forward(
        self,
        feats: Tensor,  # (N, C) float
    ) -> Tensor:  # (N, K) float32
        """Cosine of every row with every prototype, over the temperature; -1e9 for classes that were never seen.

        Prototypes get no gradient, features do.
        """
        cosines = F.normalize(feats.float(), dim=1) @ F.normalize(self.centroids, dim=1).T
        return (cosines / self.temperature).masked_fill(~self.seen, NEVER)
