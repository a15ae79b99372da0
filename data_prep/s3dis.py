"""Prepare S3DIS, Stanford3dDataset_v1.2 or its aligned version, as it was downloaded.

python -m data_prep.s3dis --raw Stanford3dDataset_v1.2_Aligned_Version.zip --out data/s3dis --workers 4
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import tyro

from data_prep.release import Release, ReleaseOptions, SceneJob, run_release
from pcseg.datasets.prepare import ScenePlan, keep_or_write_scene
from pcseg.datasets.s3dis import CODES, LABEL_MAP, ROOMS
from pcseg.datasets.scene_folder import Scene
from pcseg.errors import run_command
from pcseg.io.raw_tree import RawTree
from pcseg.io.s3dis import Room, check_room, find_rooms, is_aligned, read_objects

COLUMNS = {"color": ("red", "green", "blue"), "height_above_ground": (), "instances": ("instances",)}


def find(raw: Path) -> Release:
    """The rooms of a download.

    Raises:
        InputError: there are none.
    """
    tree = RawTree.open(raw)
    version = "v1.2 aligned" if is_aligned(tree) else "v1.2"
    plan = ScenePlan(columns=COLUMNS, label_map=LABEL_MAP, label_column="class", settings={"release": version})
    rooms = find_rooms(tree)
    jobs = []
    for room in rooms:
        files = tree.only((*room.objects, *room.texts))
        jobs.append(
            SceneJob(
                name=room.name,
                size=sum(files.sizes.values()),
                prepare=partial(prepare_room, files, room, plan),
                check=partial(check_room, files, room, CODES),
            )
        )
    findings = []
    for area, due in ROOMS.items():
        have = sum(room.area == area for room in rooms)
        if have != due:
            findings.append(f"{area}: {have} of {due} rooms are here")
    return Release(data_set="s3dis", version=version, jobs=jobs, skipped=tree.refusals(), findings=findings)


def prepare_room(tree: RawTree, room: Room, plan: ScenePlan, folder: Path) -> tuple[Scene, bool]:
    """Write one room's scene, or leave it where it is there already (True)."""
    notes: list[str] = []
    return keep_or_write_scene(
        folder,
        plan,
        lambda attributes: read_objects(tree, room, CODES, notes),
        where=f"{tree.path}: {room.area}/{room.room}",
        file=f"{room.area}/{room.room}/Annotations",
        digest=tree.digest(room.objects),
        notes=notes,
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(ReleaseOptions, args=argv, prog="python -m data_prep.s3dis", description=ReleaseOptions.__doc__)
    run_release(options, find)


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.s3dis import main as run

    run_command(run)
