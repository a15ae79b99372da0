"""``python -m pcseg.evaluate RUN``: scores of a network on labelled data, with the protocol they were measured by."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch

from pcseg import ops
from pcseg.config_file import leading_path, parse_command
from pcseg.datasets.scene_part import ScenePart, open_sources, validation_parts
from pcseg.datasets.voxel_scene import check_trainable
from pcseg.datasets.weak_labels import describe_summary
from pcseg.errors import InputError, run_command
from pcseg.inference import Protocol
from pcseg.io.atomic import replacing
from pcseg.metrics import Scores, confusion_matrix, matched, scores
from pcseg.panoptic_inference import PanopticEvaluation, evaluate_panoptic
from pcseg.predictor import DEFAULT_PROTOCOL, Predictor
from pcseg.progress import progress_bar

if TYPE_CHECKING:
    from rich.table import Table

PROG = "python -m pcseg.evaluate RUN"
MAX_NAMES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one network on some scenes."""

    protocol: str
    class_names: tuple[str, ...]
    confusion: np.ndarray  # (K, K) int64, truth along the first axis
    num_points: int  # rows scored: points, or voxels
    train_seconds: float
    seconds: float
    weak_labels: dict[str, Any] | None = None
    """Which labels the network saw in training; None: all."""
    panoptic: PanopticEvaluation | None = None
    """Of every row, whatever the protocol; None: the network names classes only."""

    @property
    def scores(self) -> Scores:
        return scores(self.confusion)

    def summary(self) -> dict[str, float]:
        found = self.scores
        scores = {"miou": found.miou, "macc": found.macc, "oa": found.oa}
        return scores if self.panoptic is None else scores | {"pq": self.panoptic.scores.overall.pq}

    def as_dict(self) -> dict[str, Any]:
        """What ``metrics.json`` holds; a class that does not occur has no number (null)."""
        iou = zip(self.class_names, self.scores.iou.tolist(), strict=True)
        return {
            "protocol": self.protocol,
            **{name: _number(value) for name, value in self.summary().items()},
            "iou": {name: _number(value) for name, value in iou},
            "confusion": self.confusion.tolist(),
            "num_points": self.num_points,
            "train_seconds": round(self.train_seconds, 1),
            "evaluate_seconds": round(self.seconds, 1),
            "weak_labels": self.weak_labels,
        } | ({} if self.panoptic is None else {"panoptic": self.panoptic.as_dict()})


def evaluate_scenes(
    predictor: Predictor,
    parts: Sequence[ScenePart],
    protocol: Protocol,
    *,
    projection: int = 1,
    advance: Callable[[int], None] = lambda rows: None,
) -> Evaluation:
    """Predict scenes and compare with their labels; IGNORE rows are left out.

    Clusters of a run that read no labels are given the classes that they fit best, over all the scenes together.

    Args:
        advance: called with the number of rows done since the last call.

    Raises:
        InputError: a scene without labels or with other classes, or nothing labelled at all.
    """
    check_trainable([part.scene for part in parts], predictor.class_names, purpose="score")
    start = time.perf_counter()
    num_classes = len(predictor.class_names)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for part in parts:
        labels, coords_of = part.labels, part.coords
        assert labels is not None
        for rows, probs in predictor.predict_part(part, protocol, projection=projection):
            truth = torch.from_numpy(labels[rows].astype(np.int64))
            if protocol.resolution == "voxels":
                coords = torch.from_numpy(np.asarray(coords_of[rows]))
                grid = ops.grid_subsample(coords, predictor.card.config.model.voxel_size)
                voxels = ops.voxel_features(grid, coords, probs, truth)
                assert voxels.feats is not None and voxels.labels is not None
                probs, truth = voxels.feats, voxels.labels
            confusion += confusion_matrix(probs.argmax(1), truth, num_classes)
            advance(len(rows))
    if not confusion.sum():
        raise InputError(f"{title_of(parts)}: no labelled point to score")
    panoptic = evaluate_panoptic(predictor, parts) if predictor.card.config.panoptic is not None else None
    named = predictor.card.config.reads_labels
    if not named:
        confusion = matched(confusion)
    return Evaluation(
        protocol=str(protocol) if named else f"{protocol}, clusters matched",
        class_names=predictor.class_names,
        confusion=confusion,
        num_points=int(confusion.sum()),
        train_seconds=predictor.card.train_seconds,
        seconds=time.perf_counter() - start,
        weak_labels=predictor.card.weak_labels,
        panoptic=panoptic,
    )


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(evaluation.as_dict(), indent=1) + "\n", encoding="utf-8")


def title_of(parts: Sequence[ScenePart]) -> str:
    """Their names, the first and the number of the others where there are many."""
    names = [part.name for part in parts]
    return ", ".join(names) if len(names) <= MAX_NAMES else f"{names[0]} and {len(names) - 1} others"


def print_table(evaluation: Evaluation, title: str) -> None:
    """The scores, with the protocol beside them."""
    from rich.console import Console
    from rich.table import Table

    seen = None if evaluation.weak_labels is None else f"trained on {describe_summary(evaluation.weak_labels)}"
    table = Table(title=f"{title}: {evaluation.protocol}", title_justify="left", title_style="bold", caption=seen)
    table.add_column("")
    for name in ("IoU", "recall"):
        table.add_column(name, justify="right")
    table.add_column("points", justify="right")
    found, counts = evaluation.scores, evaluation.confusion.sum(1)
    for index, name in enumerate(evaluation.class_names):
        table.add_row(name, _shown(found.iou[index]), _shown(found.acc[index]), f"{counts[index]:,}")
    table.add_section()
    table.add_row("mIoU", _shown(found.miou), "", f"{evaluation.num_points:,}", style="bold")
    table.add_row("mAcc", "", _shown(found.macc), "")
    table.add_row("OA", "", _shown(found.oa), "")
    Console().print(table)
    if evaluation.panoptic is not None:
        Console().print(_panoptic_table(evaluation.panoptic))


def _panoptic_table(evaluation: PanopticEvaluation) -> Table:
    from rich.table import Table

    table = Table(title="segments, every row", title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("PQ", "SQ", "RQ"):
        table.add_column(name, justify="right")
    found, things = evaluation.scores, evaluation.instances
    for index, name in enumerate(evaluation.class_names):
        table.add_row(name, _shown(found.pq[index]), _shown(found.sq[index]), _shown(found.rq[index]))
    table.add_section()
    for name, part in (("things", found.things), ("stuff", found.stuff), ("all", found.overall)):
        table.add_row(name, _shown(part.pq), _shown(part.sq), _shown(part.rq), style="bold" if name == "all" else None)
    if things is not None:
        table.caption = f"AP {_shown(things.ap)}, AP50 {_shown(things.ap50)}, AP75 {_shown(things.ap75)}"
    return table


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a trained network on labelled scenes."""

    protocol: str = DEFAULT_PROTOCOL
    """{full, voxels}/votes=V/{scene, tile}: what is scored, how many views are averaged, whether tiles overlap."""
    data: Path | None = None
    """Folder of the scenes; else the one of the run."""
    scenes: tuple[str, ...] = ()
    """Names or patterns; else the validation scenes of the run."""
    projection: int = 1
    """Voxels whose probabilities a point averages, by distance; 1: its own."""
    out: Path | None = None
    """Where the figures go; else metrics.json in the run folder, where one is given."""
    device: Annotated[str, "auto, cpu, cuda"] = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    model, rest = leading_path(argv, "a run folder or a checkpoint", EvaluateOptions, prog=PROG)
    options, _ = parse_command(EvaluateOptions, rest, prog=PROG)
    protocol = Protocol.parse(options.protocol)
    predictor = Predictor.load(model, options.device)
    data = predictor.card.config.data
    if options.data is None and not options.scenes:
        parts = validation_parts(data)
    else:
        data = data.model_copy(update={"root": options.data or data.root})
        found = open_sources(data, options.scenes or data.val_scenes or ("*",))
        parts = [ScenePart(scene) for scene in found]
    if not parts:
        raise InputError(f"{model}: its config names no val_scenes; name some with --scenes")
    evaluation = _with_bar(predictor, parts, protocol, options.projection)
    target = options.out or (model / "metrics.json" if model.is_dir() else None)
    if target is not None:
        write_metrics(evaluation, target)
    print_table(evaluation, title_of(parts))
    print(f"{evaluation.protocol}: mIoU {evaluation.scores.miou:.4f}" + (f"; {target}" if target else ""))


def _with_bar(predictor: Predictor, parts: Sequence[ScenePart], protocol: Protocol, projection: int) -> Evaluation:
    with progress_bar() as progress:
        task = progress.add_task("evaluate", total=sum(part.num_points for part in parts))
        return evaluate_scenes(
            predictor, parts, protocol, projection=projection, advance=lambda rows: progress.advance(task, rows)
        )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


if __name__ == "__main__":
    run_command(main)
