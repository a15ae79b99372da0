"""Prepare SensatUrban as it was downloaded: PLY blocks, those of the test server without classes.

python -m data_prep.sensaturban --raw SensatUrban.zip --out data/sensaturban --workers 4
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import tyro

from data_prep.release import Release, ReleaseOptions, SceneJob, refuse_codes, run_release
from pcseg.datasets.prepare import ScenePlan, kept_scene, write_scene
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.sensaturban import LABEL_MAP, TEST, TINY, VALIDATION, VOXEL_SIZE
from pcseg.datasets.voxel_count import count_voxels
from pcseg.errors import InputError, run_command
from pcseg.io import scan
from pcseg.io.npy import read_npy_chunks
from pcseg.io.raw_tree import RawTree

_BLOCK = re.compile(r"(?:^|/)((?:birmingham|cambridge)_block_\d+)\.ply$")
COLUMNS = {"color": ("red", "green", "blue"), "height_above_ground": ()}


def find(raw: Path) -> Release:
    """The blocks of a download.

    Raises:
        InputError: there are none, or one is there twice.
    """
    tree = RawTree.open(raw)
    blocks: dict[str, str] = {}
    for name in sorted(tree.sizes):
        match = _BLOCK.search(name)
        if match is None:
            continue
        if match[1] in blocks:
            raise InputError(f"{raw}: {match[1]} is there twice: {blocks[match[1]]} and {name}; name one folder")
        blocks[match[1]] = name
    if not blocks:
        raise InputError(
            f"{raw}: holds no SensatUrban block (birmingham_block_N.ply, cambridge_block_N.ply); "
            f"name the folder or zip file of the release"
        )
    jobs = [
        SceneJob(
            name=block,
            size=tree.sizes[name],
            prepare=partial(prepare_block, tree.only([name]), name),
            check=partial(check_block, tree.only([name]), name),
        )
        for block, name in blocks.items()
    ]
    findings = [
        f"{split}: {', '.join(missing)} not here"
        for split, due in (("val", VALIDATION), ("test", TEST))
        if (missing := [block for block in due if block not in blocks])
    ]
    splits = {
        "train": [block for block in sorted(blocks) if block not in VALIDATION and block not in TEST],
        "val": [block for block in VALIDATION if block in blocks],
        "test": [block for block in TEST if block in blocks],
    }
    return Release(
        data_set="sensaturban", version="1", jobs=jobs, skipped=tree.refusals(), findings=findings, splits=splits
    )


def prepare_block(tree: RawTree, name: str, folder: Path) -> tuple[Scene, bool]:
    """Write one block's scene, or leave it where it is there already (True); memory holds a million points."""
    block, digest = PurePosixPath(name).stem, tree.digest([name])
    plan = _plan(block)
    found = kept_scene(folder, digest, plan)
    if found is not None:
        return found, True
    notes = ["a tiny block"] if block in TINY else []
    with tree.file(name, near=folder.parent) as path:
        _check_header(path, block)

        def read(attributes: list[str]) -> Iterator[scan.ScanChunk]:
            yield from scan.read_chunks(path, attributes)

        def done(temporary: Path) -> list[str]:
            return [str(count_voxels(read_npy_chunks(temporary / "coords.npy", scan.CHUNK_SIZE), VOXEL_SIZE))]

        return write_scene(
            folder,
            plan,
            read,
            where=str(path),
            file=PurePosixPath(name).name,
            digest=digest,
            notes=notes,
            measure=done,
        ), False


def check_block(tree: RawTree, name: str) -> list[str]:
    """What is noteworthy in a block; everything is read."""
    block = PurePosixPath(name).stem
    with tree.file(name) as path:
        _check_header(path, block)
        plan, unknown = _plan(block), {}
        wanted = ["red", "green", "blue", *([plan.label_column] if plan.label_column else [])]
        for chunk in scan.read_chunks(path, wanted):
            if plan.label_map is not None:
                unknown |= plan.label_map.apply(chunk.columns["class"])[1]
        refuse_codes(unknown, str(path), remedy="download it again")
    return ["a tiny block"] if block in TINY else []


def _plan(block: str) -> ScenePlan:
    labelled = block not in TEST
    return ScenePlan(
        columns=COLUMNS,
        label_map=LABEL_MAP if labelled else None,
        label_column="class" if labelled else None,
        settings={"release": "sensaturban", "voxel_size": VOXEL_SIZE},
    )


def _check_header(path: Path, block: str) -> None:
    has = scan.read_header(path).columns
    if block not in TEST and "class" not in has:
        split = "val" if block in VALIDATION else "train"
        raise InputError(f"{path}: is a block of the {split} list and has no property 'class'; download it again")


def main(argv: Sequence[str] | None = None) -> None:
    prog = "python -m data_prep.sensaturban"
    options = tyro.cli(ReleaseOptions, args=argv, prog=prog, description=ReleaseOptions.__doc__)
    run_release(options, find)


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.sensaturban import main as run

    run_command(run)
