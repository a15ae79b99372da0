"""Prepare your own scans: LAS, LAZ, COPC, PLY, PCD, E57, text (XYZ, TXT, ASC, CSV, PTS) and NumPy files.

python -m data_prep.scans SCAN ... --out DIR --label-map 1=other 2=ground 6=building default=ignore
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from data_prep.release import run_tasks
from pcseg.datasets.prepare import prepare_scan
from pcseg.datasets.scene_folder import Scene
from pcseg.errors import InputError, run_command
from pcseg.io.scan import SUFFIXES
from pcseg.label_map import LabelMap

FEW = 0.5
"""Share of labelled points below which their number is told."""


@dataclass(frozen=True)
class Options:
    """Turn scans into scene folders. What is there already, from the same file with the same options, is left alone."""

    scans: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files to prepare; each becomes a scene of its own name."""
    out: Path
    """Folder of the scenes."""
    config: Path | None = None
    """A run's config: its class table, label map and features are used."""
    label_map: tuple[str, ...] = ()
    """A YAML file with classes, codes and default, or pairs: 1=other 2=ground 9=ignore default=ignore."""
    classes: tuple[str, ...] = ()
    """Order of the classes, where pairs are given; else the order in which they are first named."""
    label_column: str | None = None
    """Attribute that holds the class codes; else the file's usual one."""
    features: tuple[str, ...] | None = None
    """Columns to keep; else all that describe a point."""
    workers: int = 1
    """Processes that prepare files side by side."""
    quiet: bool = False
    """No progress bar and no report."""


def prepare_all(options: Options, suffixes: tuple[str, ...]) -> list[Scene]:
    """Prepare every file of ``options``, printing a line for each scene.

    Raises:
        InputError: no file, one of another format, two that would become the same scene, or what preparation refuses.
    """
    if not options.scans:
        raise InputError(f"no scans given; name the {' or '.join(suffixes)} files to prepare")
    label_map, features = _label_map(options), options.features
    if options.config is not None:
        from pcseg.config_file import load_config

        data = load_config(options.config).data
        label_map = label_map or LabelMap.from_indices(data.class_names, data.label_map)
        features = features if features is not None else data.features
    names: dict[str, Path] = {}
    for path in options.scans:
        if path.suffix.lower() not in suffixes:
            raise InputError(f"{path}: expected a {' or '.join(suffixes)} file")
        if path.stem in names:
            raise InputError(f"{path}: would overwrite the scene of {names[path.stem]}; prepare it into another folder")
        names[path.stem] = path
    if options.workers < 1:
        raise InputError(f"--workers must be at least 1, got {options.workers}")
    tasks = [
        partial(
            prepare_scan,
            path,
            options.out,
            label_map=label_map,
            label_column=options.label_column,
            features=features,
            progress=not options.quiet and options.workers == 1,
        )
        for path in options.scans
    ]
    scenes: list[Scene] = []
    for scene in run_tasks(tasks, options.workers):
        scenes.append(scene)
        if not options.quiet:
            print(_report(scene), flush=True)
    return sorted(scenes, key=lambda scene: list(names).index(scene.name))


def _label_map(options: Options) -> LabelMap | None:
    given = options.label_map
    if not given:
        return None
    if len(given) == 1 and "=" not in given[0]:
        return LabelMap.from_file(given[0])
    return LabelMap.from_pairs(given, classes=options.classes)


def _report(scene: Scene) -> str:
    total = sum(scene.info.class_histogram.values())
    shares = ", ".join(f"{name} {count / max(total, 1):.1%}" for name, count in scene.info.class_histogram.items())
    columns = ", ".join(scene.column_names) or "coordinates only"
    if not scene.info.class_histogram:
        shares = "no labels"
    elif not total:
        shares = f"none of its {scene.num_points:,} points is labelled; does the label map fit the file?"
    elif total < FEW * scene.num_points:
        shares = f"{total:,} of {scene.num_points:,} points labelled: {shares}"
    parts = [f"{scene.path}: {scene.num_points:,} points; {columns}", shares, *scene.info.notes]
    return "; ".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m data_prep.scans", description=Options.__doc__)
    prepare_all(options, SUFFIXES)


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.scans import main as run

    run_command(run)
