"""Prepare the table-top scans in samples/: each cloud becomes a scene, with instances.

python -m data_prep.tabletop --raw samples/mosd_tabletop --out data/tabletop --workers 2
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
from pcseg.datasets.prepare import ScenePlan, keep_or_write_scene
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.tabletop import LABEL_MAP, SPLITS
from pcseg.datasets.upright import upright
from pcseg.errors import InputError, run_command
from pcseg.ignore import IGNORE
from pcseg.io.atomic import replacing
from pcseg.io.raw_tree import RawTree
from pcseg.io.scan import ScanChunk

_CLOUD = re.compile(rf"(?:^|/)({'|'.join(SPLITS)})/([A-Za-z]\w*)\.npz$")
_UNIT = 1e-4  # metres
_TABLE = 0
COLUMNS: dict[str, tuple[str, ...]] = {name: (name,) for name in ("color", "height", "normals", "instances")}
_THINNED, _NEIGHBORS = 0.005, 24  # metres; a normal is that of the plane through so many of the thinned points: 2 cm
REMEDY = "take it from the project's samples again"


def find(raw: Path) -> Release:
    """The clouds of a folder.

    Raises:
        InputError: there are none.
    """
    tree = RawTree.open(raw)
    clouds = {name: m for name in sorted(tree.sizes) if (m := _CLOUD.search(name))}
    if not clouds:
        raise InputError(f"{raw}: holds no cloud (learn/NAME.npz, test/NAME.npz); name the folder mosd_tabletop")
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    jobs, taken = [], {}
    for name, match in clouds.items():
        if match[2] in taken:
            raise InputError(f"{tree.where(name)}: has the name of {taken[match[2]]} too; rename one")
        taken[match[2]] = name
        splits[match[1]].append(match[2])
        one = tree.only([name])
        jobs.append(
            SceneJob(
                name=match[2],
                size=tree.sizes[name],
                prepare=partial(prepare_cloud, one, name),
                check=partial(check_cloud, one, name),
            )
        )
    return Release(data_set="tabletop", version="1", jobs=jobs, skipped=tree.refusals(), splits=splits)


def read(tree: RawTree, name: str) -> ScanChunk:
    """One cloud: metres in the camera's frame (z forward, y down), with ``color``, ``class`` and ``instances``.

    Raises:
        InputError: no npz file, or arrays that are missing or do not fit together.
    """
    where = tree.where(name)
    try:
        with np.load(io.BytesIO(tree.read(name)), allow_pickle=False) as arrays:
            coords, color = arrays["coords_delta"], arrays["color_delta"]
            codes, objects = arrays["semantic"], arrays["instance"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{where}: is no whole cloud ({error}); {REMEDY}") from error
    count = codes.shape[0] if codes.ndim == 1 else -1
    if coords.shape != (3, count) or color.shape != (3, count) or objects.shape != (count,):
        shapes = f"{coords.shape}, {color.shape}, {codes.shape}, {objects.shape}"
        raise InputError(f"{where}: expected arrays of (3, N), (3, N), (N,) and (N,), got {shapes}; {REMEDY}")
    shades = color.astype(np.uint8)
    shades[0] += shades[1]  # red and blue are kept relative to green
    shades[2] += shades[1]
    return ScanChunk(
        start=0,
        coords=coords.cumsum(1, dtype=np.int64).T * _UNIT,
        columns={
            "color": shades.cumsum(1, dtype=np.uint8).T,
            "class": codes,
            # The table has a number as well, but is no object.
            "instances": np.where(codes == _TABLE, IGNORE, objects.astype(np.int32)).astype(np.int32),
        },
    )


def stand(tree: RawTree, name: str) -> ScanChunk:
    """One cloud, turned so that its table is z = 0, with ``height`` above it and ``normals`` towards the camera.

    Raises:
        InputError: as :func:`read`, and a cloud without a table.
    """
    chunk = read(tree, name)
    try:
        coords, camera = upright(chunk.coords)
    except InputError as error:
        raise InputError(f"{tree.where(name)}: {error}; {REMEDY}") from error
    made = {"height": coords[:, 2].astype(np.float32), "normals": normals_of(coords, camera)}
    return ScanChunk(start=0, coords=coords, columns=chunk.columns | made)


def normals_of(
    coords: np.ndarray,  # (N, 3) float
    camera: np.ndarray,  # (3,) float
) -> np.ndarray:  # (N, 3) float32, of length 1
    """Normal of the surface at every point, on the camera's side. Noise of depth asks for more than the next points."""
    import torch

    from pcseg import ops

    points = torch.from_numpy(coords)
    thinned = ops.voxel_features(ops.grid_subsample(points, _THINNED), points).coords
    normals = ops.local_geometry(thinned, ops.knn(points, thinned, _NEIGHBORS)[0]).normals.numpy()
    away = np.einsum("nd,nd->n", normals, camera - coords) < 0
    return np.where(away[:, None], -normals, normals).astype(np.float32)


def pack(
    path: Path,
    coords: np.ndarray,  # (N, 3) integer, 0.1 mm; neighbouring rows at most 3.2 m apart along each axis
    color: np.ndarray,  # (N, 3) uint8
    codes: np.ndarray,  # (N,) uint8
    objects: np.ndarray,  # (N,) uint8, 1: the table
) -> None:
    """Write a cloud as :func:`read` reads it, without loss: differences of rows compress better than rows.

    Raises:
        ValueError: coordinates whose differences int16 cannot hold.
    """
    steps = np.diff(coords.astype(np.int64), axis=0, prepend=0).T
    if steps.size and np.abs(steps).max() > np.iinfo(np.int16).max:
        raise ValueError(f"pack: neighbouring rows are {np.abs(steps).max()} units apart, more than int16 holds")
    shades = np.diff(color.astype(np.uint8), axis=0, prepend=np.uint8(0)).T.copy()
    shades[0] -= shades[1]
    shades[2] -= shades[1]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, coords_delta=steps.astype(np.int16), color_delta=shades, semantic=codes, instance=objects
        )


def prepare_cloud(tree: RawTree, name: str, folder: Path) -> tuple[Scene, bool]:
    """Write one cloud's scene, or leave it where it is there already (True)."""
    plan = ScenePlan(columns=COLUMNS, label_map=LABEL_MAP, label_column="class", settings={"release": "tabletop"})
    where, file, digest = tree.where(name), "/".join(name.split("/")[-2:]), tree.digest([name])
    return keep_or_write_scene(folder, plan, lambda _: [stand(tree, name)], where=where, file=file, digest=digest)


def check_cloud(tree: RawTree, name: str) -> list[str]:
    """Nothing, where a cloud can be read and its classes are known."""
    unknown = LABEL_MAP.apply(read(tree, name).columns["class"])[1]
    refuse_codes(unknown, tree.where(name), remedy=REMEDY)
    return []


def main(argv: Sequence[str] | None = None) -> None:
    prog = "python -m data_prep.tabletop"
    options = tyro.cli(ReleaseOptions, args=argv, prog=prog, description=ReleaseOptions.__doc__)
    run_release(options, find)


if __name__ == "__main__":
    # Under its own name, so that worker processes can import what they are given.
    from data_prep.tabletop import main as run

    run_command(run)
