"""Prepare PandaSet frames that were converted to npz: each becomes a scene SCENE_FRAME, in the car's frame.

python -m data_prep.pandaset --raw pandaset --out data/pandaset --workers 4
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from data_prep.release import Release, ReleaseOptions, SceneJob, refuse_codes, run_release
from pcseg.datasets.pandaset import LABEL_MAP
from pcseg.datasets.prepare import ScenePlan, keep_or_write_scene
from pcseg.datasets.scene_folder import Scene
from pcseg.errors import InputError, run_command
from pcseg.io.raw_tree import RawTree
from pcseg.io.scan import ScanChunk

_FRAME = re.compile(r"(?:^|/)(\d{3})/(\d{2})\.npz$")
_PICKLE = re.compile(r"(?:^|/)\d{3}/(?:lidar|annotations/\w+)/\d{2}\.pkl(?:\.gz)?$")
COLUMNS: dict[str, tuple[str, ...]] = {
    "intensity": ("intensity",),
    "sensor": ("sensor",),
    "height_above_ground": (),
}
REMEDY = "convert it again"


def find(raw: Path) -> Release:
    """The frames of a folder.

    Raises:
        InputError: there are none, or only pickles, which are not opened.
    """
    tree = RawTree.open(raw)
    frames = {f"{m[1]}_{m[2]}": name for name in sorted(tree.sizes) if (m := _FRAME.search(name))}
    pickles = [name for name in tree.sizes if _PICKLE.search(name)]
    if not frames and pickles:
        raise InputError(
            f"{tree.where(pickles[0])}: is a pickle, and opening one can run code; "
            f"convert the frames to npz first (data_prep/format.md says how)"
        )
    if not frames:
        raise InputError(f"{raw}: holds no frame (NNN/NN.npz); name the folder of the converted data set")
    jobs = [
        SceneJob(
            name=scene,
            size=tree.sizes[name],
            prepare=partial(prepare_frame, tree.only([name]), name),
            check=partial(check_frame, tree.only([name]), name),
        )
        for scene, name in frames.items()
    ]
    refused = tree.refusals()
    refused |= {tree.where(name): "is a pickle, which is not opened" for name in pickles}
    return Release(data_set="pandaset", version="1", jobs=jobs, skipped=refused)


def read(tree: RawTree, name: str) -> ScanChunk:
    """One frame: metres relative to the car, with ``intensity``, ``sensor`` (0 spinning, 1 forward) and ``class``.

    Raises:
        InputError: no npz file, or arrays that are missing or do not fit together.
    """
    where = tree.where(name)
    try:
        with np.load(io.BytesIO(tree.read(name)), allow_pickle=False) as arrays:
            world = arrays["xyz_world_mm"] / 1000.0
            position, rotation = arrays["ego_position"], arrays["ego_rotation"]
            columns = {"intensity": arrays["intensity"], "sensor": arrays["sensor"], "class": arrays["label"]}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{where}: is no whole frame ({error}); {REMEDY}") from error
    shapes = {key: values.shape for key, values in columns.items()}
    if world.ndim != 2 or world.shape[1:] != (3,) or rotation.shape != (3, 3) or position.shape != (3,):
        raise InputError(f"{where}: xyz_world_mm must be (N, 3), ego_rotation (3, 3) and ego_position (3,); {REMEDY}")
    if any(shape != (len(world),) for shape in shapes.values()):
        raise InputError(f"{where}: {len(world)} points, but {shapes}; {REMEDY}")
    return ScanChunk(start=0, coords=(world - position) @ rotation, columns=columns)


def prepare_frame(tree: RawTree, name: str, folder: Path) -> tuple[Scene, bool]:
    """Write one frame's scene, or leave it where it is there already (True)."""
    plan = ScenePlan(columns=COLUMNS, label_map=LABEL_MAP, label_column="class", settings={"release": "pandaset"})
    where, file, digest = tree.where(name), "/".join(name.split("/")[-2:]), tree.digest([name])
    return keep_or_write_scene(folder, plan, lambda _: [read(tree, name)], where=where, file=file, digest=digest)


def check_frame(tree: RawTree, name: str) -> list[str]:
    """Nothing, where a frame can be read and its classes are known."""
    unknown = LABEL_MAP.apply(read(tree, name).columns["class"])[1]
    refuse_codes(unknown, tree.where(name), remedy=REMEDY)
    return []


def main(argv: Sequence[str] | None = None) -> None:
    prog = "python -m data_prep.pandaset"
    options = tyro.cli(ReleaseOptions, args=argv, prog=prog, description=ReleaseOptions.__doc__)
    run_release(options, find)


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.pandaset import main as run

    run_command(run)
