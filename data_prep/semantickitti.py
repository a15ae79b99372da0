"""Prepare SemanticKITTI, or other data in its layout; each frame becomes a scene SEQUENCE_FRAME.

python -m data_prep.semantickitti --raw dataset --out data/semantickitti --workers 4
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from data_prep.release import Release, ReleaseOptions, SceneJob, refuse_codes, run_release
from pcseg.datasets.prepare import ScenePlan, keep_or_write_scene
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.semantickitti import LABEL_MAP, TEST, TRAIN, VALIDATION
from pcseg.errors import InputError, run_command
from pcseg.io.kitti import read_frame, read_labels
from pcseg.io.raw_tree import RawTree
from pcseg.io.scan import ScanChunk
from pcseg.label_map import LabelMap

_FILE = re.compile(r"(?:^|/)(?P<sequence>\w+)/(?P<kind>velodyne|labels)/(?P<frame>\d+)\.(?:bin|label)$")


@dataclass(frozen=True)
class Options(ReleaseOptions):
    """Turn frames (velodyne/*.bin, labels/*.label) into scene folders, with remission and instances."""

    every: int = 1
    """Take every so manieth frame of a sequence: neighbours are a tenth of a second apart."""
    label_map: Path | None = None
    """A YAML file with classes, codes and default; else SemanticKITTI's learning map to 19 classes."""


@dataclass(frozen=True, slots=True)
class Frame:
    sequence: str
    frame: str
    points: str  # names in the tree
    labels: str | None

    @property
    def name(self) -> str:
        return f"{self.sequence}_{self.frame}"


def find(raw: Path, options: Options) -> Release:
    """The frames of a download. Sequences 11 to 21 have no labels; the frames of all others need them.

    Raises:
        InputError: there are none.
    """
    if options.every < 1:
        raise InputError(f"--every must be at least 1, got {options.every}")
    label_map = LABEL_MAP if options.label_map is None else LabelMap.from_file(options.label_map)
    tree = RawTree.open(raw)
    found: dict[str, dict[tuple[str, str], str]] = {"velodyne": {}, "labels": {}}
    for name in sorted(tree.sizes):
        match = _FILE.search(name)
        if match is not None:
            found[match["kind"]][match["sequence"], match["frame"]] = name
    if not found["velodyne"]:
        raise InputError(f"{raw}: holds no frame (sequences/NN/velodyne/NNNNNN.bin); name the folder of the data set")
    sequences: dict[str, list[Frame]] = {}
    for key, name in found["velodyne"].items():
        sequences.setdefault(key[0], []).append(Frame(*key, name, found["labels"].get(key)))
    frames = [frame for sequence in sequences.values() for frame in sequence[:: options.every]]
    jobs = []
    for frame in frames:
        files = tree.only([name for name in (frame.points, frame.labels) if name is not None])
        jobs.append(
            SceneJob(
                name=frame.name,
                size=sum(files.sizes.values()),
                prepare=partial(prepare_frame, files, frame, label_map),
                check=partial(check_frame, files, frame, label_map),
            )
        )
    parts = {"train": TRAIN, "val": VALIDATION, "test": TEST}
    splits = {
        split: [frame.name for frame in frames if frame.sequence in listed]
        for split, listed in parts.items()
        if any(frame.sequence in listed for frame in frames)
    }
    refused = tree.refusals()
    lone = sorted(key for key in found["labels"] if key not in found["velodyne"])
    refused |= {tree.where(found["labels"][key]): "its frame has no points" for key in lone}
    version = "1" if options.label_map is None else "1, own label map"
    return Release(data_set="semantickitti", version=version, jobs=jobs, skipped=refused, splits=splits)


def read(tree: RawTree, frame: Frame) -> ScanChunk:
    """One frame with ``intensity``, and where it has labels ``class`` and ``instances``.

    Raises:
        InputError: a damaged file, or no labels where they are due.
    """
    points = read_frame(tree.read(frame.points), tree.where(frame.points))
    columns = {"intensity": points[:, 3].copy()}
    if frame.labels is None and frame.sequence not in TEST:
        split = "val" if frame.sequence in VALIDATION else "train"
        where = tree.where(frame.points)
        raise InputError(f"{where}: is of the {split} list and has no labels/{frame.frame}.label; download the labels")
    if frame.labels is not None:
        where = tree.where(frame.labels)
        columns["class"], columns["instances"] = read_labels(tree.read(frame.labels), where, len(points))
    return ScanChunk(start=0, coords=points[:, :3].astype(float), columns=columns)


def prepare_frame(tree: RawTree, frame: Frame, label_map: LabelMap, folder: Path) -> tuple[Scene, bool]:
    """Write one frame's scene, or leave it where it is there already (True)."""
    columns: dict[str, tuple[str, ...]] = {"intensity": ("intensity",), "height_above_ground": ()}
    labelled = frame.labels is not None
    if labelled:
        columns["instances"] = ("instances",)
    plan = ScenePlan(
        columns=columns,
        label_map=label_map if labelled else None,
        label_column="class" if labelled else None,
        settings={"release": "semantickitti"},
    )
    where, digest = tree.where(frame.points), tree.digest(tree.sizes)
    file = f"{frame.sequence}/velodyne/{frame.frame}.bin"
    return keep_or_write_scene(folder, plan, lambda _: [read(tree, frame)], where=where, file=file, digest=digest)


def check_frame(tree: RawTree, frame: Frame, label_map: LabelMap) -> list[str]:
    """Nothing, where a frame can be read and the map knows all its classes."""
    chunk = read(tree, frame)
    unknown = label_map.apply(chunk.columns["class"])[1] if "class" in chunk.columns else {}
    refuse_codes(unknown, tree.where(frame.labels or frame.points), table="label map")
    return []


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m data_prep.semantickitti", description=Options.__doc__)
    run_release(options, partial(find, options=options))


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.semantickitti import main as run

    run_command(run)
