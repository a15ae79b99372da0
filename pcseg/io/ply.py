"""PLY: checked header, chunked reading of text and binary files, and copies with added properties.

Vertices are read and written in parts; other elements, such as faces, are copied as they are.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pcseg.errors import InputError
from pcseg.io.atomic import replacing
from pcseg.io.ply_header import NAMES, REMEDY, PlyHeader, parse_header
from pcseg.io.scan import CHUNK_SIZE, RESULTS, ScanChunk, ScanHeader, check_columns, class_type, label_column

_AXES = ("x", "y", "z")


def read_header(path: Path) -> ScanHeader:
    """Check the header against the file; see :func:`pcseg.io.scan.read_header`."""
    header = parse_header(path)
    columns = {p.name: p.dtype for p in header.vertex.properties if p.name not in _AXES}
    return ScanHeader(
        path=path,
        format="ply",
        num_points=header.vertex.count,
        columns=columns,
        crs=None,
        label_column=label_column(columns),
    )


def read_chunks(path: Path, columns: Sequence[str] | None = None, *, chunk_size: int) -> Iterator[ScanChunk]:
    """Vertices in file order; see :func:`pcseg.io.scan.read_chunks`."""
    header = parse_header(path)
    names = [p.name for p in header.vertex.properties if p.name not in _AXES]
    wanted = names if columns is None else list(columns)
    check_columns(path, wanted, names)
    start = 0
    with path.open("rb") as file:
        for vertices in _vertices(file, header, chunk_size):
            yield ScanChunk(
                start=start,
                coords=np.stack([vertices[axis].astype(np.float64) for axis in _AXES], axis=1),
                columns={name: vertices[name].astype(vertices[name].dtype.newbyteorder("=")) for name in wanted},
            )
            start += len(vertices)


def write_predictions(
    source: Path,
    target: Path,
    pred_class: np.ndarray,  # (N,) integer, -1: not predicted
    confidence: np.ndarray,  # (N,) float
    *,
    instances: np.ndarray | None,  # (N,) integer, -1: none
    codes: np.ndarray | None,  # (K,) int64; given: the classification is overwritten
    chunk_size: int = CHUNK_SIZE,
) -> None:
    """Copy with ``pred_class`` and ``confidence``; see :func:`pcseg.io.scan.write_predictions`.

    Text stays as it is written, value by value. A file without a class property gets ``classification``.
    """
    header = parse_header(source)
    plan = _plan(header, class_type(max(int(np.max(pred_class)) + 1, 0 if codes is None else len(codes))), codes)
    if instances is not None:
        plan.added["pred_instance"] = np.dtype(np.int32)
    with replacing(target) as temporary, source.open("rb") as file, temporary.open("wb") as out:
        out.write(_new_header(header, plan))
        file.seek(header.data_start)
        if header.ascii:
            out.writelines(itertools.islice(_filled(file), sum(e.count for e in header.before)))
        else:
            out.write(file.read(header.vertex_start - header.data_start))
        start = 0
        for part in _parts(file, header, chunk_size):
            vertices = _parsed(part, header, start) if isinstance(part, list) else part
            rows = slice(start, start + len(vertices))
            added = plan.values(vertices, np.asarray(pred_class[rows], np.int64), np.asarray(confidence[rows]))
            if instances is not None:
                added["pred_instance"] = np.asarray(instances[rows], np.int32)
            if isinstance(part, list):
                out.writelines(_text(part, header, plan, added))
            else:
                out.write(_binary(vertices, header, plan, added).data)
            start += len(vertices)
        shutil.copyfileobj(file, out, 1 << 20)


def write_ply(
    path: Path,
    properties: Mapping[str, np.dtype | type],
    num_vertices: int,
    chunks: Iterable[Mapping[str, np.ndarray]],
    *,
    comments: Sequence[str] = (),
) -> None:
    """Write a binary little-endian PLY of vertices that come in parts; it appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    record = np.dtype([(name, np.dtype(dtype).newbyteorder("<")) for name, dtype in properties.items()])
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
    lines += [f"element vertex {num_vertices}"]
    lines += [f"property {NAMES[np.dtype(dtype)]} {name}" for name, dtype in properties.items()]
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii"))
        total = 0
        for chunk in chunks:
            count = len(next(iter(chunk.values())))
            vertices = np.empty(count, record)
            for name in properties:
                vertices[name] = chunk[name]
            out.write(vertices.data)
            total += count
        assert total == num_vertices, (total, num_vertices)


@dataclass(frozen=True)
class _Plan:
    """What a copy adds, replaces and leaves out."""

    added: dict[str, np.dtype]
    dropped: frozenset[str]  # results of an earlier prediction
    replaced: str | None  # the class property
    codes: np.ndarray | None

    def values(self, vertices: np.ndarray, classes: np.ndarray, confidence: np.ndarray) -> dict[str, np.ndarray]:
        """The added columns of some vertices, and the new values of the replaced one."""
        unset = np.iinfo(self.added["pred_class"]).max
        result = {
            "pred_class": np.where(classes < 0, unset, classes).astype(self.added["pred_class"]),
            "confidence": confidence.astype(np.float32),
        }
        if self.codes is not None:
            name = self.replaced or "classification"
            codes = self.codes[classes]
            old = vertices[name] if self.replaced else np.zeros_like(codes)
            result[name] = np.where(classes < 0, old, codes)
            if "orig_class" in self.added:
                result["orig_class"] = old
        return result


def _plan(header: PlyHeader, classes: np.dtype, codes: np.ndarray | None) -> _Plan:
    types = {p.name: p.dtype for p in header.vertex.properties}
    added = {"pred_class": classes, "confidence": np.dtype(np.float32)}
    replaced = label_column(types)
    if codes is None:
        return _Plan(added, frozenset(RESULTS) & set(types), None, None)
    if replaced is None:
        largest = max(int(codes.max(initial=0)), 0)
        added["classification"] = np.min_scalar_type(largest) if largest < 2**16 else np.dtype(np.int32)
    else:
        dtype = types[replaced]
        if dtype.kind in "iu" and (codes.min() < np.iinfo(dtype).min or codes.max() > np.iinfo(dtype).max):
            raise InputError(
                f"{header.path}: property {replaced} is of type {NAMES[dtype]}, the class table has "
                f"{sorted(codes.tolist())}; leave the classification as it is"
            )
        if "orig_class" not in types:
            added["orig_class"] = dtype
    return _Plan(added, frozenset(RESULTS) & set(types), replaced, codes)


def _new_header(header: PlyHeader, plan: _Plan) -> bytes:
    lines, in_vertex = [], False
    new = [f"property {NAMES[dtype]} {name}" for name, dtype in plan.added.items()]
    for line in header.lines:
        words = line.split()
        if in_vertex and words[:1] in (["element"], ["end_header"]):
            lines += new
            in_vertex = False
        if words[:2] == ["element", "vertex"]:
            in_vertex = True
        if in_vertex and words[:1] == ["property"] and words[-1] in plan.dropped:
            continue
        lines.append(line)
    return ("\n".join(lines) + "\n").encode("latin-1")


def _binary(vertices: np.ndarray, header: PlyHeader, plan: _Plan, added: dict[str, np.ndarray]) -> np.ndarray:
    kept = [p for p in header.vertex.properties if p.name not in plan.dropped]
    fields = [(p.name, p.dtype.newbyteorder(header.order)) for p in kept]
    fields += [(name, dtype.newbyteorder(header.order)) for name, dtype in plan.added.items()]
    result = np.empty(len(vertices), np.dtype(fields))
    for name in result.dtype.names or ():
        result[name] = added[name] if name in added else vertices[name]
    return result


def _text(lines: list[bytes], header: PlyHeader, plan: _Plan, added: dict[str, np.ndarray]) -> Iterator[bytes]:
    def written(name: str) -> list[str]:
        values = added[name]
        return [f"{v:.6g}" for v in values] if values.dtype.kind == "f" else [str(v) for v in values.tolist()]

    names = [p.name for p in header.vertex.properties]
    kept = [i for i, name in enumerate(names) if name not in plan.dropped]
    whole = len(kept) == len(names) and plan.replaced is None
    columns = [written(name) for name in plan.added]
    replaced = None if plan.replaced is None else written(plan.replaced)
    for row, line in enumerate(lines):
        text = line.decode("ascii").strip()
        if not whole:
            words = text.split()
            if replaced is not None:
                words[names.index(plan.replaced or "")] = replaced[row]
            text = " ".join(words[i] for i in kept)
        yield " ".join([text, *(column[row] for column in columns)]).encode("ascii") + b"\n"


def _vertices(file: BinaryIO, header: PlyHeader, chunk_size: int) -> Iterator[np.ndarray]:
    """Vertices in parts, as structured arrays."""
    file.seek(header.data_start if header.ascii else header.vertex_start)
    if header.ascii:
        skip = sum(e.count for e in header.before)
        if sum(1 for _ in itertools.islice(_filled(file), skip)) < skip:
            raise InputError(f"{header.path}: ends before its vertices: truncated; {REMEDY}")
    start = 0
    for part in _parts(file, header, chunk_size):
        yield _parsed(part, header, start) if isinstance(part, list) else part
        start += len(part)
    if header.ascii and not header.after and next(_filled(file), None) is not None:
        raise InputError(f"{header.path}: promises {header.vertex.count} vertices, more lines follow; {REMEDY}")


def _parts(file: BinaryIO, header: PlyHeader, chunk_size: int) -> Iterator[np.ndarray | list[bytes]]:
    """Vertices in parts, from where the file stands: records of a binary file, lines of a text file."""
    total = header.vertex.count
    lines = _filled(file)
    for start in range(0, total, chunk_size):
        count = min(chunk_size, total - start)
        if header.ascii:
            part = list(itertools.islice(lines, count))
        else:
            part = np.frombuffer(file.read(count * header.record.itemsize), header.record)
        if len(part) < count:
            raise InputError(
                f"{header.path}: promises {total} vertices, ends after {start + len(part)}: truncated; {REMEDY}"
            )
        yield part


def _filled(file: BinaryIO) -> Iterator[bytes]:
    """Lines that hold something; the file is read no further than they are asked for."""
    while line := file.readline():
        if not line.isspace():
            yield line


def _parsed(lines: list[bytes], header: PlyHeader, start: int) -> np.ndarray:
    """Lines of text as a structured array."""
    properties = header.vertex.properties
    try:
        table = np.loadtxt([line.decode("ascii") for line in lines], dtype=np.float64, ndmin=2, comments=None)
        if table.shape != (len(lines), len(properties)):
            raise ValueError(f"{table.shape[1]} values a line")
        result = np.empty(len(lines), header.record)
        for index, item in enumerate(properties):
            if item.dtype.kind in "iu":
                limits = np.iinfo(item.dtype)
                if not ((table[:, index] >= limits.min) & (table[:, index] <= limits.max)).all():
                    raise ValueError(f"{item.name} outside {NAMES[item.dtype]}")
            result[item.name] = table[:, index]
    except (ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise InputError(
            f"{header.path}: vertices {start} to {start + len(lines) - 1}: {len(properties)} numbers a line expected "
            f"({reason}); {REMEDY}"
        ) from error
    return result
