"""ScanNet v2 as it is released: a folder a scene with a mesh, its labels, its segments and the objects they make up."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pcseg.errors import InputError
from pcseg.io import scan
from pcseg.io.ply_faces import read_triangles, vertex_normals
from pcseg.io.raw_tree import RawTree
from pcseg.io.scan import ScanChunk

_SCENE = re.compile(r"^(?:.*/)?(?P<scene>scene\d{4}_\d{2})/(?P=scene)(?P<rest>.*)$")
_KINDS = {
    "_vh_clean_2.ply": "mesh",
    "_vh_clean_2.labels.ply": "labels",
    "_vh_clean_2.0.010000.segs.json": "segments",
    "_vh_clean.aggregation.json": "objects",
    ".aggregation.json": "objects",
    ".txt": "text",
}
REMEDY = "download the scene again"


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """The files of a scene, by their names in the tree; None: missing."""

    scene: str
    mesh: str | None = None
    labels: str | None = None
    segments: str | None = None
    objects: str | None = None
    text: str | None = None

    @property
    def has_objects(self) -> bool:
        return self.segments is not None and self.objects is not None

    @property
    def present(self) -> tuple[str, ...]:
        names = (self.mesh, self.labels, self.segments, self.objects, self.text)
        return tuple(name for name in names if name is not None)


def find_scenes(tree: RawTree) -> list[SceneFiles]:
    """Every scene of a release, by name. Of the two files of objects, that on the cleaned mesh is taken.

    Raises:
        InputError: no scene at all, or one in two places.
    """
    found: dict[str, dict[str, str]] = {}
    for name in sorted(tree.sizes):
        match = _SCENE.match(name)
        if match is None or match["rest"] not in _KINDS:
            continue
        kind, files = _KINDS[match["rest"]], found.setdefault(match["scene"], {})
        if kind in files and PurePosixPath(files[kind]).parent != PurePosixPath(name).parent:
            raise InputError(f"{tree.path}: {match['scene']} is there twice: {files[kind]} and {name}")
        if kind not in files or match["rest"] == "_vh_clean.aggregation.json":
            files[kind] = name
    if not found:
        raise InputError(
            f"{tree.path}: holds no ScanNet scene (scans/sceneNNNN_NN/sceneNNNN_NN_vh_clean_2.ply); "
            f"name the folder or zip file of the release"
        )
    return [SceneFiles(scene, **files) for scene, files in sorted(found.items())]


def read_label_table(data: bytes, where: str, column: str) -> dict[str, int]:
    """Class code of each raw category, from ``scannetv2-labels.combined.tsv``.

    Args:
        column: ``nyu40id``, or ``id`` for ScanNet200.

    Raises:
        InputError: a missing column, or a line whose code is no number.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), delimiter="\t")
        names = list(reader.fieldnames or ())
        if not {"raw_category", column} <= set(names):
            raise InputError(f"{where}: line 1: needs the columns raw_category and {column}, has {', '.join(names)}")
        table = {}
        for row in reader:
            code = (row[column] or "").strip()
            if not code.isdigit():
                raise InputError(f"{where}: line {reader.line_num}: '{code}' is no {column}; download it again")
            table[row["raw_category"]] = int(code)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where}: is no table ({error}); download it again") from error
    return table


def read_alignment(data: bytes, where: str) -> np.ndarray | None:  # (4, 4) float64
    """The turn that puts walls along the axes; None where the file names none.

    Raises:
        InputError: something else than 16 numbers, with the line.
    """
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        name, _, values = line.partition("=")
        if name.strip() != "axisAlignment":
            continue
        try:
            matrix = np.array([float(value) for value in values.split()]).reshape(4, 4)
        except ValueError:
            raise InputError(f"{where}: line {number}: axisAlignment needs 16 numbers; {REMEDY}") from None
        if not np.isfinite(matrix).all():
            raise InputError(f"{where}: line {number}: axisAlignment is not finite; {REMEDY}")
        return matrix
    return None


def read_scene(
    tree: RawTree,
    files: SceneFiles,
    notes: list[str],
    *,
    labelled: str | None,
    table: Mapping[str, int] | None = None,
    align: bool = True,
) -> ScanChunk:
    """The vertices of a scene: ``red``, ``green``, ``blue``, ``normals``; where labelled ``class`` and ``instances``.

    Without the two files of objects a scene has no ``instances``.

    Args:
        labelled: why the scene must have labels, for messages; None: it has none.
        table: class code of each raw category: the classes are then those of the objects; None: those of the file of
            labels.
        align: turn the scene as its text says.
        notes: gets a word on whatever is not as it should be.

    Raises:
        InputError: a file that is missing, damaged, or does not fit the mesh.
    """
    if files.mesh is None:
        raise InputError(f"{tree.path}: {files.scene}: has no {files.scene}_vh_clean_2.ply; {REMEDY}")
    with tree.file(files.mesh) as path:
        coords, columns = _vertices(path, ("red", "green", "blue"))
        triangles = read_triangles(path)
    if align:
        coords = _aligned(tree, files, coords, notes)
    columns["normals"] = vertex_normals(coords, triangles)
    if labelled is not None:
        columns |= _labels(tree, files, len(coords), labelled, table, notes)
    return ScanChunk(start=0, coords=coords, columns=columns)


def _vertices(path: Any, wanted: tuple[str, ...]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    chunks = list(scan.read_chunks(path, wanted))
    return (
        np.concatenate([chunk.coords for chunk in chunks]),
        {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in wanted},
    )


def _aligned(tree: RawTree, files: SceneFiles, coords: np.ndarray, notes: list[str]) -> np.ndarray:
    matrix = None if files.text is None else read_alignment(tree.read(files.text), tree.where(files.text))
    if matrix is None:
        notes.append("no axis alignment is given")
        return coords
    return coords @ matrix[:3, :3].T + matrix[:3, 3]


def _labels(
    tree: RawTree, files: SceneFiles, num_points: int, why: str, table: Mapping[str, int] | None, notes: list[str]
) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    if files.segments is not None and files.objects is not None:
        segments = _segments(tree.read(files.segments), tree.where(files.segments), num_points)
        where = tree.where(files.objects)
        columns["class"], columns["instances"] = _objects(tree.read(files.objects), where, segments, table, notes)
    elif table is not None:
        missing = "_vh_clean_2.0.010000.segs.json" if files.segments is None else ".aggregation.json"
        raise InputError(f"{tree.path}: {files.scene}: {why}, but has no {files.scene}{missing}; {REMEDY}")
    else:
        notes.append("no instances: the segments or the objects are missing")
    if table is None:
        if files.labels is None:
            name = f"{files.scene}_vh_clean_2.labels.ply"
            raise InputError(f"{tree.path}: {files.scene}: {why}, but has no {name}; {REMEDY}")
        with tree.file(files.labels) as path:
            columns["class"] = _vertices(path, ("label",))[1]["label"]
        found = len(columns["class"])
        if found != num_points:
            raise InputError(f"{tree.where(files.labels)}: has {found} vertices, the mesh has {num_points}; {REMEDY}")
    return columns


def _segments(data: bytes, where: str, num_points: int) -> np.ndarray:  # (N,) int64
    try:
        segments = np.asarray(_json(data, where)["segIndices"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: has no segIndices; {REMEDY}") from error
    if segments.shape != (num_points,) or segments.dtype.kind not in "iu":
        raise InputError(f"{where}: segIndices are {segments.shape}, the mesh has {num_points} vertices; {REMEDY}")
    return segments.astype(np.int64)


def _objects(
    data: bytes, where: str, segments: np.ndarray, table: Mapping[str, int] | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:  # (N,) int32 class codes, 0 where there is no object; (N,) int32 objects or -1
    names, place = np.unique(segments, return_inverse=True)
    codes, instances = np.zeros(len(names), np.int32), np.full(len(names), -1, np.int32)
    seen: set[tuple[int, ...]] = set()
    twice = 0
    try:
        groups = _json(data, where)["segGroups"]
        for group in groups:
            members = np.unique(np.asarray(group["segments"], np.int64))
            key = tuple(members.tolist())
            if key in seen:
                twice += 1
                continue
            seen.add(key)
            if table is not None and group["label"] not in table:
                raise InputError(f"{where}: '{group['label']}' is not in the label table; take the release's own")
            rows = np.flatnonzero(np.isin(names, members, assume_unique=True))
            codes[rows] = 0 if table is None else table[group["label"]]
            instances[rows] = group["objectId"]
    except (KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: segGroups need objectId, label and segments ({error!r}); {REMEDY}") from error
    if twice:
        notes.append(f"{twice} objects are listed twice; taken once")
    return codes[place], instances[place]


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise InputError(f"{where}: line {line}: no JSON ({error}); {REMEDY}") from error
