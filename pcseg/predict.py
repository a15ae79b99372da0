"""``python -m pcseg.predict MODEL IN... -o OUT``: scans in, segmented scans out, every attribute kept."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from pcseg.config_file import leading_path, parse_command
from pcseg.datasets.prepare import prepare_scan
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError, describe, run_command
from pcseg.inference import Protocol, TileSettings
from pcseg.io import scan
from pcseg.predictor import Predictor
from pcseg.train import check_writable

PROG = "python -m pcseg.predict MODEL IN..."
SUFFIXES = (".las", ".laz", ".ply")


@dataclass(frozen=True)
class PredictOptions:
    """Segment scans: classes and confidences as new attributes, a coloured copy and a picture."""

    out: Path
    """Folder for the results, or, for a single scan, the file to write."""
    overwrite_classification: bool = False
    """Write the codes of the classes into the file's own classification; the old ones are kept as orig_class."""
    votes: int = 1
    """Views averaged: rotated, mirrored, on shifted grids."""
    projection: int = 1
    """Voxels whose probabilities a point averages, by distance; 1: its own."""
    pictures: bool = True
    """Also write a coloured PLY and a PNG."""
    device: Annotated[str, "auto, cpu, cuda"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Files that one scan becomes."""

    scan: Path
    cloud: Path | None
    picture: Path | None


def main(argv: Sequence[str] | None = None) -> None:
    model, rest = leading_path(argv, "a checkpoint or a run folder", PredictOptions, prog=PROG)
    scans, rest = _scans(rest)
    options, _ = parse_command(PredictOptions, rest, prog=PROG)
    Protocol.parse(f"full/votes={options.votes}/scene")
    TileSettings(size=1.0, projection=options.projection)  # refuses what it cannot be, before any work
    work = [(path, _targets(path, options, single=len(scans) == 1)) for path in scans]
    _check_distinct(work)
    predictor = Predictor.load(model, options.device)
    failed = []
    for path, targets in work:
        try:
            _predict_one(predictor, path, targets, options)
        except (InputError, OSError) as error:
            failed.append(path)
            print(f"error: {describe(error)}", file=sys.stderr)
    if failed:
        if len(scans) > 1:
            names = ", ".join(str(path) for path in failed)
            print(f"{len(scans) - len(failed)} of {len(scans)} scans done; not done: {names}", file=sys.stderr)
        sys.exit(2)


def predict_scan(
    predictor: Predictor,
    path: Path,
    targets: Targets,
    *,
    votes: int = 1,
    projection: int = 1,
    overwrite_classification: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:  # (K,) int64 points of each class
    """Segment one scan. Memory goes by the tile, not by the file; results appear whole or not at all.

    Args:
        advance: called with the points done since the last call, and those of the scan.

    Raises:
        InputError: a broken scan, or one without a column that the network reads.
        OSError: the results cannot be written.
    """
    num_classes = len(predictor.class_names)
    check_writable(targets.scan.parent)
    with tempfile.TemporaryDirectory(prefix=".pcseg-", dir=targets.scan.parent) as temporary:
        folder = Path(temporary)
        scene = prepare_scan(path, folder, name="scene", features=predictor.contract.columns, progress=False)
        part = ScenePart(scene)
        classes = _array(folder / "pred_class.npy", np.int16, scene.num_points)
        confidence = _array(folder / "confidence.npy", np.float32, scene.num_points)
        counts = np.zeros(num_classes, np.int64)
        protocol = Protocol(votes=votes)
        for rows, probs in predictor.predict_part(part, protocol, projection=projection):
            best = probs.max(1)
            classes[rows] = best.indices.numpy()
            confidence[rows] = best.values.numpy()
            counts += np.bincount(best.indices.numpy(), minlength=num_classes)
            advance(len(rows), scene.num_points)
        scan.write_predictions(
            path,
            targets.scan,
            scene.to_source(classes, -1),
            scene.to_source(confidence, 0.0),
            codes=predictor.class_codes,
            overwrite_classification=overwrite_classification,
        )
        _draw(scene, classes, predictor, targets)
    return counts


def _predict_one(predictor: Predictor, path: Path, targets: Targets, options: PredictOptions) -> None:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"predict {path.name}", total=None)
        counts = predict_scan(
            predictor,
            path,
            targets,
            votes=options.votes,
            projection=options.projection,
            overwrite_classification=options.overwrite_classification,
            advance=lambda done, total: progress.update(task, advance=done, total=total),
        )
    total = max(int(counts.sum()), 1)
    shares = ", ".join(f"{name} {count / total:.1%}" for name, count in zip(predictor.class_names, counts, strict=True))
    files = ", ".join(str(file) for file in (targets.scan, targets.cloud, targets.picture) if file is not None)
    print(f"{path}: {total:,} points: {shares}; {files}")


def _scans(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """The scans that stand before the first option, and the rest; ``-o`` is short for ``--out``.

    Raises:
        InputError: no scan, or one of an unknown format.
    """
    count = next((index for index, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    scans = [Path(text) for text in arguments[:count]]
    rest = ["--out" if text == "-o" else text for text in arguments[count:]]
    if {"-h", "--help"} & set(rest):
        return scans, ["--help"]
    if not scans:
        raise InputError(f"name the scans to segment: {PROG} -o OUT")
    for path in scans:
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: expected a {', '.join(SUFFIXES)} file")
    return scans, rest


def _targets(path: Path, options: PredictOptions, *, single: bool) -> Targets:
    out = options.out
    if out.suffix.lower() in SUFFIXES:
        if not single:
            raise InputError(f"{out}: several scans need a folder, not a file")
        if (out.suffix.lower() == ".ply") != (path.suffix.lower() == ".ply"):
            raise InputError(f"{out}: {path} can only be written as its own kind of file")
        result = out
    else:
        result = out / path.name
    if result.exists() and path.exists() and result.samefile(path):
        raise InputError(f"{result}: would overwrite the scan itself; choose another folder with -o")
    if not options.pictures:
        return Targets(scan=result, cloud=None, picture=None)
    return Targets(
        scan=result, cloud=result.with_name(f"{result.stem}_classes.ply"), picture=result.with_suffix(".png")
    )


def _check_distinct(work: Sequence[tuple[Path, Targets]]) -> None:
    seen: dict[Path, Path] = {}
    for path, targets in work:
        stem = targets.scan.with_suffix("")
        if stem in seen:
            raise InputError(
                f"{path}: its results would overwrite those of {seen[stem]}; predict them into two folders"
            )
        seen[stem] = path


def _array(file: Path, dtype: type, count: int) -> np.ndarray:
    return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(count,))


def _draw(scene: Scene, classes: np.ndarray, predictor: Predictor, targets: Targets) -> None:
    """The coloured cloud and the picture, where they are wanted."""
    if targets.cloud is None or targets.picture is None:
        return
    from pcseg.io.render import render_classes, write_class_ply

    names = predictor.class_names
    write_class_ply(targets.cloud, scene.coords, classes, names, origin=scene.origin)
    render_classes(targets.picture, scene.coords, classes, names)


if __name__ == "__main__":
    run_command(main)
