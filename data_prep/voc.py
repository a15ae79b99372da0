"""Prepare PASCAL VOC 2012, with SBD's masks, scribbles and point labels where they are there.

python -m data_prep.voc --raw VOCdevkit/VOC2012 --out data/voc --workers 4
python -m data_prep.voc --raw VOCdevkit/VOC2012 --out data/voc_scribbles --labels scribbles
python -m data_prep.voc --raw VOCdevkit/VOC2012 --out data/voc_p10 --labels p10
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import tyro

from data_prep.image_release import IMAGES, DrawMask, ImageFiles, image_job
from data_prep.release import Release, ReleaseOptions, run_release
from pcseg.datasets import voc
from pcseg.errors import InputError, run_command
from pcseg.io.point_masks import point_mask
from pcseg.io.raw_tree import RawTree
from pcseg.io.scribbles import scribble_mask

_KINDS = {
    "image": re.compile(r"(?:^|/)JPEGImages/(\d{4}_\d{6})\.jpg$"),
    "mask": re.compile(r"(?:^|/)SegmentationClass/(\d{4}_\d{6})\.png$"),
    "objects": re.compile(r"(?:^|/)SegmentationObject/(\d{4}_\d{6})\.png$"),
    "aug": re.compile(r"(?:^|/)SegmentationClassAug/(\d{4}_\d{6})\.png$"),
    "xml": re.compile(r"(?:^|/)\w*[Ss]cribble\w*/(?:.*/)?(\d{4}_\d{6})\.xml$"),
    "png": re.compile(r"(?:^|/)\w*[Ss]cribble\w*/(?:.*/)?(\d{4}_\d{6})\.png$"),
    "p1": re.compile(r"(?:^|/)\w+_1pnt_uniform/(\d{4}_\d{6})\.png$"),
    "p10": re.compile(r"(?:^|/)\w+_10pnt_uniform/(\d{4}_\d{6})\.png$"),
}
_SEGMENTS = re.compile(r"(?:^|/)voc_panoptic_train_aug\.json$")
_LISTS = re.compile(r"(?:^|/)(?:ImageSets/Segmentation(?:Aug)?|splits|lists)/(\w+)\.txt$")
_NAME = re.compile(r"(\d{4}_\d{6})(?:\.\w+)?$")
CLASS_CODES = {name: index for index, name in enumerate(voc.CLASS_NAMES)}


@dataclass(frozen=True)
class Options(ReleaseOptions):
    """Turn PASCAL VOC 2012 into an image folder: JPEGImages, SegmentationClass(Aug), SegmentationObject, scribbles and
    lists."""

    labels: Literal["masks", "scribbles", "p1", "p10"] = "masks"
    """masks: those of the release, and SBD's (SegmentationClassAug) for images that it lacks. For the images outside
    the val list, which keeps its masks: scribbles, XML files or else PNG; p1 and p10, one and ten pixels of each object
    and of the background (voc_panoptic_train_aug.json, the folders ..._1pnt_uniform and ..._10pnt_uniform)."""


def find(raw: Path, options: Options) -> Release:
    """The images that a list names, or that have a mask where there is no list.

    Raises:
        InputError: there are none, or no scribbles where they are asked for.
    """
    tree = RawTree.open(raw)
    found: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}
    for name in sorted(tree.sizes):
        for kind, pattern in _KINDS.items():
            match = pattern.search(name)
            if match is not None:
                found[kind][match[1]] = name
    if not found["image"]:
        raise InputError(f"{raw}: holds no image (JPEGImages/NNNN_NNNNNN.jpg); name the folder VOC2012")
    if options.labels == "scribbles" and not (found["xml"] or found["png"]):
        raise InputError(f"{raw}: holds no scribbles (a folder scribbles/ of XML or PNG files); put them there")
    segments = _segments(tree, found[options.labels]) if options.labels in ("p1", "p10") else {}
    splits = _splits(tree)
    listed: dict[str, list[str]] = {}
    for split, names in splits.items():
        for name in names:
            listed.setdefault(name, []).append(split)
    wanted = list(listed) or sorted(found["mask"].keys() | found["aug"].keys())
    skipped = tree.refusals()
    jobs = []
    for name in wanted:
        if name not in found["image"]:
            skipped[name] = f"is in the lists, but has no JPEGImages/{name}.jpg"
            continue
        lists = [split for split in listed.get(name, ()) if split != "test"]  # whose images have masks
        mask, draw = _mask_of(name, found, options.labels, segments, held_out="val" in lists)
        # Beside VOC's own masks only: what SBD draws of an object is another outline.
        objects = found["objects"].get(name) if mask is not None and mask == found["mask"].get(name) else None
        files = ImageFiles(
            tree=tree.only([file for file in (found["image"][name], mask, objects) if file is not None]),
            name=name,
            image=found["image"][name],
            mask=mask,
            objects=objects,
            why=f"is in {', '.join(lists)}" if lists else None,
            draw=draw,
        )
        jobs.append(image_job(files, voc.CLASS_NAMES, voc.CODES, {"release": "voc 2012", "labels": options.labels}))
    findings = [
        f"{split}: {len(splits[split])} images are listed, {due} in the release"
        for split, due in voc.IMAGES.items()
        if split in splits and len(splits[split]) != due
    ]
    return Release(
        data_set="voc",
        version=f"2012, {options.labels}",
        jobs=jobs,
        skipped=skipped,
        findings=findings,
        splits=splits,
    )


def _mask_of(
    name: str, found: dict[str, dict[str, str]], labels: str, segments: dict[str, dict[int, int]], *, held_out: bool
) -> tuple[str | None, DrawMask | None]:
    if labels in ("p1", "p10") and not held_out:
        return found[labels].get(name), partial(point_mask, codes=segments.get(name, {}))
    if labels == "scribbles" and not held_out:
        if name in found["xml"]:
            return found["xml"][name], partial(scribble_mask, codes=CLASS_CODES)
        return found["png"].get(name), None
    return found["mask"].get(name, found["aug"].get(name)), None


def _segments(tree: RawTree, points: dict[str, str]) -> dict[str, dict[int, int]]:
    """Code of the class of each segment, by image.

    Raises:
        InputError: no points, no JSON of their segments, or one with a class that VOC lacks.
    """
    from pcseg.io.coco_panoptic import read_index  # needs torch, which no other way does

    tables = [name for name in sorted(tree.sizes) if _SEGMENTS.search(name)]
    if not points or len(tables) != 1:
        raise InputError(
            f"{tree.path}: holds {len(points)} point labels and {len(tables)} files voc_panoptic_train_aug.json; put "
            f"the folder annotations/ of one download there"
        )
    with tree.file(tables[0]) as path:
        index = read_index(path)
    codes = {category.id: CLASS_CODES.get(category.name) for category in index.categories}
    for category in index.categories:
        if codes[category.id] is None:
            raise InputError(f"{tree.where(tables[0])}: '{category.name}' is no class of VOC; check the file")
    return {
        name: {segment.id: codes[segment.category_id] or 0 for segment in record.segments}
        for name, record in index.records.items()
    }


def _splits(tree: RawTree) -> dict[str, list[str]]:
    """Lists by name; of a line with several words the first one counts, as a path or as an id."""
    splits: dict[str, list[str]] = {}
    for file in sorted(tree.sizes):
        match = _LISTS.search(file)
        if match is None:
            continue
        names = []
        for number, line in enumerate(tree.read(file).decode("utf-8", errors="replace").splitlines(), start=1):
            if not line.strip():
                continue
            name = _NAME.search(PurePosixPath(line.split()[0]).name)
            if name is None:
                raise InputError(f"{tree.where(file)}: line {number}: '{line.strip()[:60]}' names no image")
            names.append(name[1])
        if match[1] in splits and splits[match[1]] != names:
            raise InputError(f"{tree.path}: holds two different lists {match[1]}.txt; leave one")
        splits[match[1]] = list(dict.fromkeys(names))
    return splits


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Options, args=argv, prog="python -m data_prep.voc", description=Options.__doc__)
    run_release(options, partial(find, options=options), layout=IMAGES)


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.voc import main as run

    run_command(run)
