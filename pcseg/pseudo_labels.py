"""``python -m pcseg.pseudo_labels RUN``: what a run's points have grown into: pseudo-labels of its training scenes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
import torch

from pcseg.batch import IGNORE
from pcseg.checkpoint import find_checkpoint, load_checkpoint
from pcseg.config import DataConfig, PointPanopticConfig
from pcseg.config_file import leading_path, parse_command
from pcseg.datasets.scene_part import ScenePart, open_sources, training_parts
from pcseg.datasets.voxel_scene import VoxelScene
from pcseg.errors import InputError, run_command
from pcseg.io.atomic import replacing
from pcseg.io.digest import sha256_of
from pcseg.methods import build_method
from pcseg.methods.point_panoptic import PointPanoptic
from pcseg.metrics.panoptic import PanopticCounts, panoptic_counts
from pcseg.panoptic_inference import PanopticEvaluation, look, see_part, true_segments
from pcseg.predictor import Predictor
from pcseg.progress import progress_bar
from pcseg.segments import Segments

PROG = "python -m pcseg.pseudo_labels RUN"


@dataclass(frozen=True)
class PseudoLabelOptions:
    """Write the pseudo-labels of a run's training scenes: class and instance of every row."""

    out: Path | None = None
    """Folder for NAME.npz with `labels` and `instances`, -1 where there is none, and the checkpoint's `sha256`. Files
    of the same checkpoint are kept: a command that was stopped goes on where it was."""
    score: bool = False
    """Compare with all labels of the training scenes, those included that the run did not see."""
    device: Annotated[str, "auto, cpu, cuda"] = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    run, rest = leading_path(argv, "a run folder", PseudoLabelOptions, prog=PROG)
    options, _ = parse_command(PseudoLabelOptions, rest, prog=PROG)
    if options.out is None and not options.score:
        raise InputError("nothing to do: name a folder with --out, or ask for --score")
    predictor, method = load_method(run, options.device)
    data = predictor.card.config.data
    store = None
    if options.out is not None:
        store = _Store(options.out, sha256_of(find_checkpoint(run, ("last",))), data.is_thing)
    with progress_bar() as progress:
        parts = training_parts(data)
        found = pseudo_segments(predictor, method, parts, store)
        found = iter(progress.track(found, total=len(parts), description="pseudo-labels"))
        evaluation = score_segments(found, data) if options.score else None
        for _ in found:  # what scoring has not gone through
            pass
    if evaluation is not None:
        print(json.dumps(evaluation.as_dict(), indent=1))
        pq = evaluation.scores
        print(f"PQ {pq.overall.pq:.4f}  things {pq.things.pq:.4f}  stuff {pq.stuff.pq:.4f}")


def score_segments(found: Iterable[tuple[str, Segments]], data: DataConfig) -> PanopticEvaluation:
    """Compare segments of scenes, by name, with all labels of these, those that a mask file hides included.

    Raises:
        InputError: a scene without labels or instances.
    """
    counts = PanopticCounts.none(len(data.class_names))
    for name, segments in found:
        truth = true_segments(open_sources(data, [name])[0], data.is_thing)
        counts += panoptic_counts(segments, truth, len(data.class_names))
    return PanopticEvaluation(class_names=data.class_names, is_thing=data.is_thing, counts=counts, matches=None)


def load_method(run: Path, device: str = "auto") -> tuple[Predictor, PointPanoptic]:
    """The network of a run's last checkpoint, and its method as training left it.

    Raises:
        InputError: no such run, or one of another method.
    """
    path = find_checkpoint(run, ("last",))
    checkpoint = load_checkpoint(path)
    config = checkpoint.card.config
    if not isinstance(config.method, PointPanopticConfig) or checkpoint.training is None:
        raise InputError(f"{path}: the run has no pseudo-labels of things; its method is {config.method.kind}")
    predictor = Predictor.load(path, device)
    method = build_method(config, predictor.model, contract=predictor.contract)
    assert isinstance(method, PointPanoptic)
    method.load_state_dict(checkpoint.training["method"], strict=False)
    return predictor, method.to(predictor.device).eval()


def pseudo_segments(
    predictor: Predictor, method: PointPanoptic, parts: Iterable[ScenePart], store: _Store | None = None
) -> Iterator[tuple[str, Segments]]:
    """Name and pseudo-labels of each part, at every row; only the labels that the run saw are looked at.

    Args:
        store: where they are kept; what is there already is not made again.
    """
    for part in parts:
        name = part.scene.name
        segments = None if store is None else store.read(name)
        if segments is None:
            segments = pseudo_labels_of(predictor, method, part)
            if store is not None:
                store.write(name, segments)
        yield name, segments


def pseudo_labels_of(predictor: Predictor, method: PointPanoptic, part: ScenePart) -> Segments:
    """Pseudo-labels of a scene, at every row."""
    seen = see_part(predictor, part)
    labels, instances = _visible(predictor, part)
    batch = replace(seen.batch, labels=labels.to(predictor.device), instances=instances.to(predictor.device))
    found = method.pseudo_targets(batch, look(predictor, batch))[0].targets
    return Segments(
        ids=found.of_row.cpu().numpy()[seen.row_of],
        classes=found.classes.cpu().numpy(),
        crowd=np.zeros(len(found), bool),
    )


def _visible(predictor: Predictor, part: ScenePart) -> tuple[torch.Tensor, torch.Tensor]:  # (n,) int64 each
    """The labels and instances of the network's rows that training saw."""
    if predictor.on_grid:
        labels, instances = part.scene.labels, part.scene.instances
        return tuple(  # pyright: ignore[reportReturnType]
            torch.from_numpy(np.asarray(values, np.int64))
            if values is not None
            else torch.full((part.scene.num_points,), IGNORE)
            for values in (labels, instances)
        )
    voxels = VoxelScene.build(part.scene, predictor.contract, predictor.card.config.model.voxel_size, rows=part.chosen)
    assert voxels.labels is not None
    none = torch.full_like(voxels.labels, IGNORE)
    return voxels.labels, none if voxels.instances is None else voxels.instances


@dataclass(frozen=True)
class _Store:
    """A file for each scene's pseudo-labels, as one checkpoint makes them."""

    folder: Path
    checkpoint: str
    """Its SHA-256."""
    is_thing: Sequence[bool]

    def read(self, name: str) -> Segments | None:
        """What a whole file of the same checkpoint holds."""
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                if str(arrays["sha256"]) != self.checkpoint:
                    return None
                return Segments.from_rows(arrays["labels"], arrays["instances"], self.is_thing)
        except (OSError, KeyError, ValueError, BadZipFile):
            return None

    def write(self, name: str, segments: Segments) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                labels=segments.labels.astype(np.int16),
                instances=segments.instances(self.is_thing).astype(np.int32),
                sha256=np.array(self.checkpoint),
            )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


if __name__ == "__main__":
    run_command(main)
