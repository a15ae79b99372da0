"""The triangles of a mesh in a PLY file, and the normals of its vertices."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from pcseg.errors import InputError
from pcseg.io.ply_header import REMEDY, Element, PlyHeader, parse_header


def read_triangles(path: Path) -> np.ndarray:  # (F, 3) int64
    """Vertex indices of each face.

    Raises:
        InputError: no faces, faces that are no triangles, an index that is no vertex, a truncated file.
    """
    header = parse_header(path)
    face = next((e for e in header.after if e.name == "face"), None)
    if face is None:
        raise InputError(f"{path}: header: no faces after the vertices; a mesh is needed")
    lists = [p for p in face.properties if p.count is not None]
    if len(lists) != 1 or lists[0].name not in ("vertex_indices", "vertex_index"):
        raise InputError(f"{path}: header: faces need one list 'vertex_indices'")
    between = header.after[: header.after.index(face)]
    if not all(element.fixed for element in between):
        raise InputError(f"{path}: header: lists stand before the faces; write the faces first")
    counts, corners = (_text if header.ascii else _binary)(header, face, between)
    wrong = np.flatnonzero(counts != 3)
    if len(wrong):
        raise InputError(f"{path}: face {wrong[0]} has {counts[wrong[0]]} corners; only triangles can be read")
    corners = corners.astype(np.int64)
    outside = np.flatnonzero(((corners < 0) | (corners >= header.vertex.count)).any(axis=1))
    if len(outside):
        corner = corners[outside[0]].tolist()
        raise InputError(
            f"{path}: face {outside[0]} names {corner}, there are {header.vertex.count} vertices; {REMEDY}"
        )
    return corners


def vertex_normals(
    coords: np.ndarray,  # (N, 3)
    triangles: np.ndarray,  # (F, 3) integer
) -> np.ndarray:  # (N, 3) float32
    """Unit normals: those of the triangles around a vertex, weighted by their areas; 0 where there are none."""
    first, second, third = (coords[triangles[:, corner]] for corner in range(3))
    faces = np.cross(second - first, third - first)  # twice the area long
    sums = np.stack(
        [np.bincount(triangles.reshape(-1), np.repeat(faces[:, axis], 3), minlength=len(coords)) for axis in range(3)],
        axis=1,
    )
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0).astype(np.float32)


def _binary(header: PlyHeader, face: Element, between: tuple[Element, ...]) -> tuple[np.ndarray, np.ndarray]:
    fields: list[tuple] = []
    for item in face.properties:
        if item.count is None:
            fields.append((item.name, item.dtype.newbyteorder(header.order)))
        else:
            fields.append(("count", item.count.newbyteorder(header.order)))
            fields.append(("corners", item.dtype.newbyteorder(header.order), (3,)))
    start = header.vertex_start + header.vertex.count * header.record.itemsize + sum(e.least_bytes for e in between)
    with header.path.open("rb") as file:
        file.seek(start)
        record = np.dtype(fields)
        faces = np.frombuffer(file.read(face.count * record.itemsize), np.uint8)
    whole = len(faces) // record.itemsize
    table = faces[: whole * record.itemsize].view(record)
    if whole < face.count and (table["count"] == 3).all():
        raise InputError(f"{header.path}: promises {face.count} faces, ends after {whole}: truncated; {REMEDY}")
    return table["count"], table["corners"]


def _text(header: PlyHeader, face: Element, between: tuple[Element, ...]) -> tuple[np.ndarray, np.ndarray]:
    place = next(index for index, item in enumerate(face.properties) if item.count is not None)
    skip = header.vertex.count + sum(e.count for e in (*header.before, *between))
    counts, corners = np.zeros(face.count, np.int64), np.zeros((face.count, 3), np.int64)
    with header.path.open("rb") as file:
        file.seek(header.data_start)
        lines = (line for line in file if not line.isspace())
        read = 0
        for read, line in enumerate(itertools.islice(lines, skip, skip + face.count), start=1):
            try:
                words = line.split()[place:]
                counts[read - 1] = int(words[0])
                if counts[read - 1] == 3:
                    corners[read - 1] = [int(word) for word in words[1:4]]
            except (ValueError, IndexError):
                raise InputError(f"{header.path}: face {read - 1}: cannot read '{line!r}'; {REMEDY}") from None
    if read < face.count:
        raise InputError(f"{header.path}: promises {face.count} faces, ends after {read}: truncated; {REMEDY}")
    return counts, corners
