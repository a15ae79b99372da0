"""``python -m pcseg.predict MODEL IN... -o OUT``: scans, pictures or volumes in, segmented ones out."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from pcseg import predict_image, predict_scan, predict_volume
from pcseg.config_file import leading_path, parse_command
from pcseg.errors import InputError, describe, run_command
from pcseg.inference import TileSettings
from pcseg.io.atomic import check_folder
from pcseg.io.coco_panoptic import Category, PanopticResult, write_panoptic
from pcseg.predict_image import ImageTargets
from pcseg.predict_scan import ScanTargets
from pcseg.predict_volume import VolumeTargets
from pcseg.predictor import Predictor
from pcseg.progress import progress_bar

PROG = "python -m pcseg.predict MODEL IN..."
SUFFIXES = {
    "scenes": predict_scan.SUFFIXES,
    "images": predict_image.SUFFIXES,
    "volumes": predict_volume.SUFFIXES,
}
"""Of what a network is given, by the kind of data that it was trained on."""
_ONE = {"scenes": "scan", "images": "image", "volumes": "volume"}
_ROWS = {"scenes": "points", "images": "pixels", "volumes": "voxels"}

Targets = ScanTargets | ImageTargets | VolumeTargets


@dataclass(frozen=True)
class PredictOptions:
    """Segment scans, pictures or volumes: classes, confidences, and pictures to look at.

    A network that tells things apart numbers those of scans, and leaves the segments of pictures in COCO's panoptic
    format: panoptic.json and the folder panoptic.
    """

    out: Path
    """Folder for the results, or, for a single input, the file to write."""
    overwrite_classification: bool = False
    """Of scans: write the codes of the classes into the file's own classification; the old ones become orig_class."""
    votes: int = 1
    """Views averaged: rotated, mirrored, on shifted grids."""
    projection: int = 1
    """Voxels whose probabilities a point averages, by distance; 1: its own."""
    pictures: bool = True
    """Also write what there is to look at: a coloured PLY and a PNG of scans, an overlay of pictures."""
    device: Annotated[str, "auto, cpu, cuda"] = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    model, rest = leading_path(argv, "a checkpoint or a run folder", PredictOptions, prog=PROG)
    inputs, rest = _inputs(rest)
    options, _ = parse_command(PredictOptions, rest, prog=PROG)
    if not 1 <= options.votes < 1000:
        raise InputError(f"--votes: from 1 to 999 views, got {options.votes}")
    TileSettings(size=1.0, projection=options.projection)  # refuses what it cannot be, before any work
    work = [(path, _targets(path, options, single=len(inputs) == 1)) for path in inputs]
    _check_distinct(work)
    predictor = Predictor.load(model, options.device)
    if not predictor.card.config.reads_labels:
        print(f"{model}: was trained without labels: names of classes stand for numbered clusters", file=sys.stderr)
    failed: list[Path] = []
    results = _results(predictor, work, options, failed)
    if predictor.card.config.panoptic is not None and isinstance(work[0][1], ImageTargets):
        _write_panoptic(predictor, work[0][1].panoptic, results)
    else:
        deque(results, maxlen=0)
    if failed:
        if len(inputs) > 1:
            names = ", ".join(str(path) for path in failed)
            kinds = {kind_of(path) for path in inputs}
            done = f"{len(inputs) - len(failed)} of {len(inputs)} {_ONE[kinds.pop()] if len(kinds) == 1 else 'input'}s"
            print(f"{done} done; not done: {names}", file=sys.stderr)
        sys.exit(2)


def kind_of(path: Path) -> str:
    """ "scenes", "images" or "volumes", by the ending of a file.

    Raises:
        InputError: another ending.
    """
    for kind, suffixes in SUFFIXES.items():
        if path.name.lower().endswith(suffixes):
            return kind
    listed = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    raise InputError(f"{path}: expected a {listed} file")


def _results(
    predictor: Predictor, work: Sequence[tuple[Path, Targets]], options: PredictOptions, failed: list[Path]
) -> Iterator[PanopticResult]:
    """Segments everything, and gives the segments of pictures whose things are told apart, one by one.

    What cannot be done is told, added to ``failed``, and does not stop the others.
    """
    for path, targets in work:
        try:
            result = _predict_one(predictor, path, targets, options)
        except (InputError, OSError) as error:
            failed.append(path)
            print(f"error: {describe(error)}", file=sys.stderr)
            continue
        if result is not None:
            yield result


def _write_panoptic(predictor: Predictor, path: Path, results: Iterator[PanopticResult]) -> None:
    """The segments of all pictures in COCO's panoptic format, with the codes of the classes as category ids.

    Raises:
        InputError: there are such files.
        OSError: they cannot be written.
    """
    for there in (path, path.with_suffix("")):
        if there.exists():
            raise InputError(f"{there}: exists already, perhaps with segments of other pictures; choose another -o")
    data = predictor.card.config.data
    named = zip(data.class_codes, data.class_names, data.is_thing, strict=True)
    categories = [Category(id=code, name=name, isthing=thing) for code, name, thing in named]
    first = next(results, None)
    if first is None:
        return
    write_panoptic(path, categories, itertools.chain([first], results))
    print(f"{path}: things and stuff in COCO's panoptic format, with {path.with_suffix('')}")


def _predict_one(predictor: Predictor, path: Path, targets: Targets, options: PredictOptions) -> PanopticResult | None:
    kind, trained = kind_of(path), predictor.card.config.data.kind
    trained = "images" if trained == "panoptic" else trained  # pictures, with other labels
    if kind != trained:
        raise InputError(f"{path}: is no {_ONE[trained]}, and the network was trained on {_ONE[trained]}s")
    check_folder(targets.files[0].parent)
    with progress_bar() as progress:
        task = progress.add_task(f"predict {path.name}", total=None)
        counts, result = _segment(
            predictor,
            path,
            targets,
            options,
            lambda done, total: progress.update(task, advance=done, total=total),
        )
    total = max(int(counts.sum()), 1)
    shares = ", ".join(f"{name} {count / total:.1%}" for name, count in zip(predictor.class_names, counts, strict=True))
    print(f"{path}: {total:,} {_ROWS[kind]}: {shares}; {', '.join(map(str, targets.files))}")
    return result


def _segment(
    predictor: Predictor,
    path: Path,
    targets: Targets,
    options: PredictOptions,
    advance: Callable[[int, int], None],
) -> tuple[np.ndarray, PanopticResult | None]:  # (K,) int64 rows of each class
    votes, projection = options.votes, options.projection
    if isinstance(targets, ImageTargets):
        return predict_image.predict_image(
            predictor, path, targets, votes=votes, projection=projection, advance=advance
        )
    if isinstance(targets, VolumeTargets):
        counts = predict_volume.predict_volume(
            predictor, path, targets, votes=votes, projection=projection, advance=advance
        )
        return counts, None
    counts = predict_scan.predict_scan(
        predictor,
        path,
        targets,
        votes=votes,
        projection=projection,
        overwrite_classification=options.overwrite_classification,
        advance=advance,
    )
    return counts, None


def _inputs(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """The files that stand before the first option, and the rest; ``-o`` is short for ``--out``.

    Raises:
        InputError: no file, or one of an unknown format.
    """
    count = next((index for index, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    inputs = [Path(text) for text in arguments[:count]]
    rest = ["--out" if text == "-o" else text for text in arguments[count:]]
    if {"-h", "--help"} & set(rest):
        return inputs, ["--help"]
    if not inputs:
        raise InputError(f"name the scans, images or volumes to segment: {PROG} -o OUT")
    for path in inputs:
        kind_of(path)
    return inputs, rest


def _targets(path: Path, options: PredictOptions, *, single: bool) -> Targets:
    kind, out = kind_of(path), options.out
    if out.name.lower().endswith(tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)):
        if not single:
            raise InputError(f"{out}: several {_ONE[kind]}s need a folder, not a file")
        fits = out.suffix.lower() == ".png" if kind == "images" else out.name.lower().endswith(SUFFIXES[kind])
        if not fits or (kind == "scenes" and (out.suffix.lower() == ".ply") != (path.suffix.lower() == ".ply")):
            as_what = "as PNG" if kind == "images" else "as its own kind of file"
            raise InputError(f"{out}: {path} can only be written {as_what}")
        result = out
    else:
        result = out / (f"{path.stem}.png" if kind == "images" else path.name)
    if kind == "images":
        targets = ImageTargets.at(result, pictures=options.pictures, in_folder=result != out)
    elif kind == "volumes":
        targets = VolumeTargets.at(result)
    else:
        targets = ScanTargets.at(result, pictures=options.pictures)
    for file in targets.files:
        if file.exists() and path.exists() and file.samefile(path):
            raise InputError(f"{file}: would overwrite the {_ONE[kind]} itself; choose another folder with -o")
    return targets


def _check_distinct(work: Sequence[tuple[Path, Targets]]) -> None:
    seen: dict[Path, Path] = {}
    for path, targets in work:
        for file in targets.files:
            if file in seen:
                raise InputError(
                    f"{path}: its results would overwrite those of {seen[file]}; predict them into two folders"
                )
        seen.update(dict.fromkeys(targets.files, path))


if __name__ == "__main__":
    run_command(main)
