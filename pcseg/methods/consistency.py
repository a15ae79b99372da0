"""Consistency of a strong view with a weak one: FixMatch, UniMatch, mean teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.config import ConsistencyConfig
from pcseg.methods.labelled_loss import LabelledLoss
from pcseg.methods.streams import StreamLevels, Streams, ramp
from pcseg.models.modes import evaluating
from pcseg.pyramid import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPair:
    """The same rows as a teacher and as a student see them."""

    teacher_logits: Tensor  # (N, K) float32, no gradient
    student_logits: Tensor  # (N, K) float32
    offsets: Tensor  # (B + 1,) int64
    weight: float  # of this pair in the loss on unlabelled rows


class Consistency(nn.Module):
    """Partial cross-entropy plus a loss on unlabelled crops, whose weak view names what the strong one should be.

    - ``fixmatch``: cross entropy with the teacher's most likely class where that is more likely than the threshold; the
      sum over the confident rows is divided by the number of all rows.
    - ``unimatch``: the same on two strong views (a quarter each) and on the weak view with half of its feature channels
      dropped (a half). The channels are those that the classifier reads, there those of the encoder.
    - ``mean_teacher``: squared difference of the class probabilities, on all rows.

    Args:
        average: weights of the running average, by name, where that is the teacher; it looks on in evaluation mode.

    Source: Sohn et al. 2020, FixMatch; Yang et al. 2023, UniMatch (and code: the student itself teaches, in training
    mode); Tarvainen and Valpola 2017, Mean teachers.
    """

    def __init__(
        self,
        model: nn.Module,
        labelled: LabelledLoss,
        config: ConsistencyConfig,
        *,
        average: Mapping[str, Tensor] | None = None,
    ):
        super().__init__()
        self.model, self.labelled, self.config = model, labelled, config
        self._average = average

    def forward(self, streams: Streams, levels: StreamLevels, progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms by name, each ()."""
        _, terms = self.labelled.step(self.model, streams, levels)
        terms["consistency"] = self.unlabelled(self.pairs(streams, levels), progress)
        return terms

    def pairs(self, streams: Streams, levels: StreamLevels) -> list[ViewPair]:
        """What teacher and student make of the unlabelled streams."""
        weak = streams["weak_view"]
        perturbed = own = None
        if self.config.host == "unimatch":
            output = self.model(weak, levels["weak_view"])
            feats = _drop_channels(output.feats, weak, self.config.feature_dropout)
            classifier: nn.Module = self.model.classifier  # pyright: ignore[reportAssignmentType]
            perturbed = F.linear(feats, classifier.weight.flatten(1), classifier.bias).float()  # pyright: ignore
            own = output.logits.detach().float()
        taught = self._taught(weak, levels["weak_view"], own)
        found = []
        strong = [name for name in ("strong_view", "strong_view_2") if name in streams]
        share = 1.0 if perturbed is None else 0.5
        for name in strong:
            batch = streams[name]
            assert batch.rows is not None
            logits = self.model(batch, levels[name]).logits.float()
            found.append(
                ViewPair(
                    teacher_logits=taught[batch.rows],
                    student_logits=logits,
                    offsets=batch.offsets,
                    weight=share / len(strong),
                )
            )
        if perturbed is not None:
            found.append(
                ViewPair(teacher_logits=taught, student_logits=perturbed, offsets=weak.offsets, weight=1 - share)
            )
        return found

    def unlabelled(self, pairs: Sequence[ViewPair], progress: float) -> Tensor:  # ()
        """The weighted loss on the pairs."""
        config = self.config
        sums = [pair.weight * self._disagreement(pair) for pair in pairs]
        return config.weight * ramp(progress, config.warmup) * torch.stack(sums).sum()

    def confident(self, pair: ViewPair) -> Tensor:  # (N,) bool
        """Rows whose most likely class is at least as likely as the threshold."""
        return pair.teacher_logits.softmax(1).amax(1) >= self.config.threshold

    def _disagreement(self, pair: ViewPair) -> Tensor:  # ()
        if not len(pair.teacher_logits):
            return 0 * pair.student_logits.sum()
        if self.config.host == "mean_teacher":
            return (pair.student_logits.softmax(1) - pair.teacher_logits.softmax(1)).square().sum(1).mean()
        cost = F.cross_entropy(pair.student_logits, pair.teacher_logits.argmax(1), reduction="none")
        return torch.where(self.confident(pair), cost, 0.0).mean()

    @torch.no_grad()
    def _taught(self, batch: PointBatch, levels: Sequence[Level], own: Tensor | None) -> Tensor:  # (N, K)
        """The teacher's logits. ``own``: those of the network, where they are there already."""
        if not self.config.average_teaches:
            return self.model(batch, levels).logits.float() if own is None else own
        if self._average is None:
            raise ValueError("Consistency: the teacher is the running average of the weights, and none is given")
        with evaluating(self.model):
            return torch.func.functional_call(self.model, dict(self._average), (batch, levels)).logits.float()


def _drop_channels(feats: Tensor, batch: PointBatch, share: float) -> Tensor:  # (N, C)
    """Whole channels of each cloud become 0, the others grow so that the mean stays."""
    kept = F.dropout(feats.new_ones(len(batch), feats.shape[1]), share)
    return feats * kept[batch.cloud_index]
