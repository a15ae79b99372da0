"""Losses on which target a labelled row is near to."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcseg.batch import IGNORE
from pcseg.losses.labelled import check_labelled, masked_mean

DistanceLoss = Literal["nll", "regression"]


def distance_loss(
    scores: Tensor,  # (N, G) float, attention logits of each row to the targets
    targets: Tensor,  # (N,) int64 in [0, G) or IGNORE
    kind: DistanceLoss = "nll",
) -> Tensor:  # ()
    """Mean over the labelled rows of how wrong their distances are; distances are ``D = 1 - softmax(scores)``.

    ``"nll"``: -ln(1 - D_own). ``"regression"``: D_own + sum over the others of max(0, 1 - D) / (G - 1), that is
    (1 - a)(1 + 1 / (G - 1)) with a = 1 - D_own. One target alone costs nothing; no labelled row gives 0, connected to
    the graph.

    Raises:
        ValueError, TypeError: shapes, dtypes, a target out of range, an unknown kind.

    Source: learnable distance (Li, Fan, Zhang, ECCV 2024) names the branch; the formulas could not be read and are
    ours: the likelihood, and the plain regression of own 0, others 1.
    """
    if kind not in ("nll", "regression"):
        raise ValueError(f"distance_loss: kind must be nll or regression, got {kind!r}")
    check_labelled("distance_loss", scores, targets)
    if scores.shape[1] < 2:
        return 0.0 * scores.sum()
    chosen = targets != IGNORE
    own = targets.clamp(min=0)
    if kind == "nll":
        return masked_mean(F.cross_entropy(scores, own, reduction="none"), chosen)
    near = torch.softmax(scores, 1).gather(1, own[:, None])[:, 0]
    return masked_mean((1 - near) * (1 + 1 / (scores.shape[1] - 1)), chosen)
