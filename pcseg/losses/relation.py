"""How the rows of a cloud relate to each other, in the eyes of a teacher and of a student."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor

from pcseg import ops
from pcseg.config.method import RelationKind

AFFINITY_ROWS = 1024
_CONSTANT = 1e-6  # norm of a class map below which it carries no relation
_EPS = 1e-8


def relation(
    teacher_logits: Tensor,  # (N, K) float
    student_logits: Tensor,  # (N, K) float
    confident: Tensor,  # (N,) bool
    *,
    offsets: Tensor | None = None,  # (B + 1,) int64; None: one cloud
    kind: RelationKind,
    on: Literal["logits", "probs"] = "logits",
    temperature: float = 1.0,
) -> Tensor:  # ()
    """Difference of the relations between confident rows of each cloud; mean over the clouds that have two of them.

    ``"kl"``: for each class the softmax over the cloud's confident rows of its map; KL(teacher || student), times
    temperature squared, mean over classes. To match these is to match every difference between two rows, in time
    linear in the rows; a constant added to a class map changes nothing.
    ``"correlation"``: 1 - Pearson's correlation of the class maps, over the rows; mean over the classes whose teacher
    map is not constant. Affine changes of a map change nothing.
    ``"affinity"``: cosines between at most 1024 evenly spaced confident rows, as seen by both; KL of their row-wise
    softmax without the diagonal.

    The teacher gets no gradient. No cloud with two confident rows: 0, connected to the graph.

    Args:
        on: the maps: logits as they are, or class probabilities. ``"correlation"`` always takes probabilities, as the
            source of its form does.
        temperature: divides the maps of ``"kl"`` and the cosines of ``"affinity"``.

    Raises:
        ValueError: shapes, or an unknown kind.

    Source: Wu et al., IPixMatch, IJCNN 2024 (the idea: relations between confident pixels, by KL or by correlation; the
    equations could not be read). The forms are those of Shu et al. 2021, Channel-wise knowledge distillation, and of
    Huang et al. 2022, Knowledge distillation from a stronger teacher (intra-class relation).
    """
    if teacher_logits.shape != student_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            f"relation: both logits must be (N, K), got {tuple(teacher_logits.shape)} and {tuple(student_logits.shape)}"
        )
    if confident.shape != student_logits.shape[:1] or confident.dtype != torch.bool:
        raise ValueError(f"relation: confident must be ({len(student_logits)},) bool, got {tuple(confident.shape)}")
    if kind not in ("kl", "correlation", "affinity"):
        raise ValueError(f"relation: kind must be one of kl, correlation, affinity, got {kind!r}")
    if not temperature > 0:
        raise ValueError(f"relation: temperature must be positive, got {temperature}")
    if offsets is None:
        offsets = torch.tensor([0, len(confident)], device=confident.device)
    teacher, student = teacher_logits.detach().float(), student_logits.float()
    if on == "probs" or kind == "correlation":
        teacher, student = teacher.softmax(1), student.softmax(1)
    seen = torch.cat([offsets.new_zeros(1), confident.long().cumsum(0)])
    kept = seen[offsets]  # boundaries of the clouds among the confident rows
    teacher, student = teacher[confident], student[confident]
    counts = kept.diff()
    usable = counts >= 2
    if not bool(usable.any()):
        return 0 * student_logits.sum()
    if kind == "kl":
        per_cloud = _class_map_kl(teacher / temperature, student / temperature, kept) * temperature**2
    elif kind == "correlation":
        per_cloud = _class_map_correlation(teacher, student, kept)
    else:
        per_cloud = _affinity_kl(teacher, student, kept, temperature)
    return per_cloud[usable].mean()


def _class_map_kl(teacher: Tensor, student: Tensor, offsets: Tensor) -> Tensor:  # (M, K) -> (B,)
    log_t, log_s = _log_softmax_over_rows(teacher, offsets), _log_softmax_over_rows(student, offsets)
    return ops.segment_reduce(log_t.exp() * (log_t - log_s), offsets, "sum").mean(1)


def _log_softmax_over_rows(values: Tensor, offsets: Tensor) -> Tensor:  # (M, K), by cloud
    lengths = offsets.diff()
    highest = ops.segment_reduce(values.detach(), offsets, "max").repeat_interleave(lengths, 0)
    values = values - highest
    total = ops.segment_reduce(values.exp(), offsets, "sum").clamp(min=torch.finfo(values.dtype).tiny)
    return values - total.log().repeat_interleave(lengths, 0)


def _class_map_correlation(teacher: Tensor, student: Tensor, offsets: Tensor) -> Tensor:  # (M, K) -> (B,)
    lengths = offsets.diff()
    teacher = teacher - ops.segment_reduce(teacher, offsets, "mean").repeat_interleave(lengths, 0)
    student = student - ops.segment_reduce(student, offsets, "mean").repeat_interleave(lengths, 0)
    products = ops.segment_reduce(
        torch.cat([teacher * student, teacher.square(), student.square()], 1), offsets, "sum"
    )  # (B, 3 K)
    both, of_teacher, of_student = products.chunk(3, 1)
    # The root's slope is infinite at 0: a map without variance is kept away from it.
    norms = (of_teacher * of_student).clamp(min=_EPS**2).sqrt()
    varies = ~(of_teacher <= _CONSTANT**2)  # so that NaN stays NaN
    missed = torch.where(varies, 1 - both / (norms + _EPS), 0.0)
    return missed.sum(1) / varies.sum(1).clamp(min=1)


def _affinity_kl(teacher: Tensor, student: Tensor, offsets: Tensor, temperature: float) -> Tensor:  # (M, K) -> (B,)
    bounds = offsets.tolist()
    values = []
    for start, end in itertools.pairwise(bounds):
        count = min(end - start, AFFINITY_ROWS)
        if count < 2:
            values.append(student.new_zeros(()))
            continue
        rows = start + torch.arange(count, device=student.device) * (end - start) // count
        apart = ~torch.eye(count, dtype=torch.bool, device=student.device)
        maps = []
        for logits in (teacher[rows], student[rows]):
            unit = torch.nn.functional.normalize(logits, dim=1)
            cosines = (unit @ unit.T / temperature)[apart].view(count, count - 1)
            maps.append(torch.log_softmax(cosines, 1))
        log_t, log_s = maps
        values.append((log_t.exp() * (log_t - log_s)).sum(1).mean())
    return torch.stack(values)
