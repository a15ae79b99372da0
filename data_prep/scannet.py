"""Prepare ScanNet v2 as it was downloaded, with 20 or with 200 classes.

python -m data_prep.scannet --raw scannet --out data/scannet --workers 4
python -m data_prep.scannet --raw scannet --out data/scannet200 --classes 200
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import tyro

from data_prep.point_labels import PointLists, write_point_lists
from data_prep.release import Release, ReleaseOptions, SceneJob, refuse_codes, run_release
from pcseg.datasets import scannet, scannet200
from pcseg.datasets.prepare import ScenePlan, keep_or_write_scene
from pcseg.datasets.scene_folder import Scene
from pcseg.errors import InputError, run_command
from pcseg.io.raw_tree import RawTree
from pcseg.io.scannet import SceneFiles, find_scenes, read_label_table, read_scene

TABLE = "scannetv2-labels.combined.tsv"
_LIST = re.compile(r"^scannetv2_(train|val|test)\.txt$")
_EFFICIENT_SCENES = re.compile(r"(?:^|/)scenes/(\d+)\.txt$")
_EFFICIENT_POINTS = re.compile(r"(?:^|/)points/points(\d+)$")


@dataclass(frozen=True)
class Options(ReleaseOptions):
    """Turn ScanNet v2 into scene folders: vertices of the cleaned meshes with colours, normals, classes, objects."""

    classes: Literal[20, 200] = 20
    """20: NYU40 ids as the files of labels have them. 200: ScanNet200, by the objects and the label table."""
    lists: Path | None = None
    """Folder or zip file with scannetv2_train.txt, _val.txt and _test.txt, and with the Data-Efficient benchmark's
    points/pointsN and scenes/N.txt; else looked for under --raw."""
    align: bool = True
    """Turn scenes so that walls follow the axes, as their text files say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How scenes are made."""

    classes: Literal[20, 200]
    align: bool
    table: Mapping[str, int] | None  # of the raw categories, for 200 classes

    def plan(self, files: SceneFiles, labelled: bool) -> ScenePlan:
        columns: dict[str, tuple[str, ...]] = {"color": ("red", "green", "blue"), "height_above_ground": ()}
        columns["normals"] = ("normals",)
        if labelled and files.has_objects:
            columns["instances"] = ("instances",)
        label_map = scannet.LABEL_MAP if self.classes == 20 else scannet200.LABEL_MAP
        return ScenePlan(
            columns=columns,
            label_map=label_map if labelled else None,
            label_column="class" if labelled else None,
            settings={"release": "scannet v2", "align": self.align},
        )


def find(raw: Path, options: Options) -> Release:
    """The scenes of a download, and the lists they are in.

    Raises:
        InputError: no scene, or lists and tables that cannot be read.
    """
    tree = RawTree.open(raw)
    lists = RawTree.open(options.lists) if options.lists is not None else tree
    scenes = find_scenes(tree)
    splits, findings = _splits(lists)
    way = Way(
        classes=options.classes, align=options.align, table=_table(tree, lists) if options.classes == 200 else None
    )
    listed = {scene: split for split in ("test", "val", "train") for scene in splits.get(split, ())}
    jobs = []
    for files in scenes:
        why = _why_labelled(files, listed.get(files.scene))
        kept = tree.only(files.present)
        jobs.append(
            SceneJob(
                name=files.scene,
                size=sum(kept.sizes.values()),
                prepare=partial(prepare_scene, kept, files, way, why),
                check=partial(check_scene, kept, files, way, why),
            )
        )
    there = {files.scene for files in scenes}
    for split, names in splits.items():
        missing = [name for name in names if name not in there]
        if missing:
            findings.append(f"{split}: {len(missing)} of {len(names)} listed scenes are not here: {missing[0]} ...")
    version = f"v2, {options.classes} classes" + ("" if options.align else ", not aligned")
    return Release(
        data_set="scannet", version=version, jobs=jobs, skipped=tree.refusals(), findings=findings, splits=splits
    )


def prepare_scene(tree: RawTree, files: SceneFiles, way: Way, why: str | None, folder: Path) -> tuple[Scene, bool]:
    """Write one scene, or leave it where it is there already (True)."""
    notes: list[str] = []
    return keep_or_write_scene(
        folder,
        way.plan(files, why is not None),
        lambda _: [read_scene(tree, files, notes, labelled=why, table=way.table, align=way.align)],
        where=f"{tree.path}: {files.scene}",
        file=PurePosixPath(files.mesh or files.scene).name,
        digest=tree.digest(files.present),
        notes=notes,
    )


def check_scene(tree: RawTree, files: SceneFiles, way: Way, why: str | None) -> list[str]:
    """What is noteworthy in the files of a scene; everything is read."""
    notes: list[str] = []
    chunk = read_scene(tree, files, notes, labelled=why, table=way.table, align=way.align)
    plan = way.plan(files, why is not None)
    if plan.label_map is not None:
        unknown = plan.label_map.apply(chunk.columns["class"])[1]
        refuse_codes(unknown, f"{tree.path}: {files.scene}")
    return notes


def _why_labelled(files: SceneFiles, split: str | None) -> str | None:
    """Why a scene must have labels; None: it is a test scene."""
    if split == "test":
        return None
    if split is not None:
        return f"is in scannetv2_{split}.txt"
    folder = PurePosixPath(files.present[0]).parent.parent.name
    return None if folder == "scans_test" else "is a scene of training or validation"


def _splits(lists: RawTree) -> tuple[dict[str, list[str]], list[str]]:
    """The lists of scenes by name, the Data-Efficient ones as ``train_1_percent``, and what is odd about them."""
    splits: dict[str, list[str]] = {}
    findings: list[str] = []
    for name in sorted(lists.sizes):
        plain, efficient = _LIST.match(PurePosixPath(name).name), _EFFICIENT_SCENES.search(name)
        if plain is not None:
            key = plain[1]
        elif efficient is not None and int(efficient[1]) in scannet.EFFICIENT_SCENES:
            key = f"train_{efficient[1]}_percent"
        else:
            continue
        scenes = lists.read(name).decode("utf-8", errors="replace").split()
        wrong = next((scene for scene in scenes if not re.fullmatch(r"scene\d{4}_\d{2}", scene)), None)
        if wrong is not None:
            raise InputError(f"{lists.where(name)}: '{wrong}' is no scene's name; download the list again")
        if key in splits and splits[key] != scenes:
            raise InputError(f"{lists.path}: holds two different lists of {key}; leave one")
        splits[key] = scenes
    for key, due in scannet.SCENES.items():
        if key not in splits:
            findings.append(f"no scannetv2_{key}.txt: splits/{key}.txt is not written; name its folder with --lists")
        elif len(splits[key]) != due:
            findings.append(f"scannetv2_{key}.txt names {len(splits[key])} scenes, the release's {due}")
    return splits, findings


def _table(tree: RawTree, lists: RawTree) -> dict[str, int]:
    for place in (tree, lists):
        name = next((name for name in sorted(place.sizes) if PurePosixPath(name).name == TABLE), None)
        if name is not None:
            return read_label_table(place.read(name), place.where(name), "id")
    raise InputError(f"{tree.path}: has no {TABLE}, which 200 classes need; download it beside the scans")


def _point_lists(options: Options) -> list[PointLists]:
    place = options.lists or options.raw
    if place is None or options.check or options.verify:
        return []
    tree = RawTree.open(place)
    return [
        PointLists(f"points{match[1]}", tree, name)
        for name in sorted(tree.sizes)
        if (match := _EFFICIENT_POINTS.search(name)) and int(match[1]) in scannet.EFFICIENT_POINTS
    ]


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m data_prep.scannet", description=Options.__doc__)
    run_release(
        options, partial(find, options=options), after=lambda out: write_point_lists(out, _point_lists(options))
    )


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.scannet import main as run

    run_command(run)
