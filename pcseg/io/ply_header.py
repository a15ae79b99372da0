"""The header of a PLY file, checked against the file's size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from pcseg.errors import InputError

REMEDY = "write it again"
TYPES = {
    **{name: np.dtype(np.int8) for name in ("char", "int8")},
    **{name: np.dtype(np.uint8) for name in ("uchar", "uint8")},
    **{name: np.dtype(np.int16) for name in ("short", "int16")},
    **{name: np.dtype(np.uint16) for name in ("ushort", "uint16")},
    **{name: np.dtype(np.int32) for name in ("int", "int32")},
    **{name: np.dtype(np.uint32) for name in ("uint", "uint32")},
    **{name: np.dtype(np.float32) for name in ("float", "float32")},
    **{name: np.dtype(np.float64) for name in ("double", "float64")},
}
NAMES = {dtype: name for name, dtype in reversed(TYPES.items())}
"""The classic name of each type: uchar, float ..."""
_ORDERS: dict[str, Literal["<", ">", "="]] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class Property:
    """One value of an element, or a list of values where ``count`` is the type of its length."""

    name: str
    dtype: np.dtype
    count: np.dtype | None = None

    @property
    def least_bytes(self) -> int:
        return self.dtype.itemsize if self.count is None else self.count.itemsize


@dataclass(frozen=True, slots=True)
class Element:
    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def fixed(self) -> bool:
        """Every record has the same size."""
        return all(p.count is None for p in self.properties)

    @property
    def least_bytes(self) -> int:
        return self.count * sum(p.least_bytes for p in self.properties)


@dataclass(frozen=True, slots=True)
class PlyHeader:
    path: Path
    ascii: bool
    order: Literal["<", ">", "="]  # of the bytes: "<", ">", or "=" for text
    lines: tuple[str, ...]  # as they stand, "ply" and "end_header" included
    elements: tuple[Element, ...]
    data_start: int  # byte
    size: int  # of the file, bytes

    @property
    def vertex(self) -> Element:
        return next(e for e in self.elements if e.name == "vertex")

    @property
    def before(self) -> tuple[Element, ...]:
        return self.elements[: self.elements.index(self.vertex)]

    @property
    def after(self) -> tuple[Element, ...]:
        return self.elements[self.elements.index(self.vertex) + 1 :]

    @property
    def record(self) -> np.dtype:
        """A vertex as it lies in a binary file."""
        return np.dtype([(p.name, p.dtype.newbyteorder(self.order)) for p in self.vertex.properties])

    @property
    def vertex_start(self) -> int:
        """Byte at which a binary file's vertices begin."""
        return self.data_start + sum(e.least_bytes for e in self.before)


def parse_header(path: Path) -> PlyHeader:
    """Read and check a header; counts are compared with the file's size before anything is allocated.

    Raises:
        InputError: no PLY file, a header that does not parse, no vertices or none with x, y, z, too little or too much
            data for what it promises.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a .ply file")
    with path.open("rb") as file:
        lines = _lines(file, path)
        data_start = file.tell()
    words = lines[1].split() if len(lines) > 1 else []
    if len(words) != 3 or words[0] != "format" or words[1] not in _ORDERS:
        raise InputError(f"{path}: header line 2: expected 'format ascii|binary_... 1.0', got '{lines[1]}'; {REMEDY}")
    header = PlyHeader(
        path=path,
        ascii=words[1] == "ascii",
        order=_ORDERS[words[1]],
        lines=tuple(lines),
        elements=_elements(lines, path),
        data_start=data_start,
        size=path.stat().st_size,
    )
    _check_vertices(header)
    _check_size(header)
    return header


def _lines(file: BinaryIO, path: Path) -> list[str]:
    start = file.read(4)
    if start[:3] != b"ply" or start[3:] not in (b"\n", b"\r"):
        seen = f"starts with {start!r}" if start else "is empty"
        raise InputError(f"{path}: is no PLY file: it {seen} where 'ply' is due; {REMEDY}")
    file.seek(0)
    head = file.read(_MAX_HEADER)
    end = head.find(b"end_header")
    if end < 0:
        raise InputError(f"{path}: header: no 'end_header' in its first {len(head)} bytes: truncated; {REMEDY}")
    after = end + len(b"end_header")
    line_end = 2 if head[after : after + 2] == b"\r\n" else 1
    file.seek(after + line_end)
    try:
        return head[:after].decode("ascii", errors="strict").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError:
        return head[:after].decode("latin-1").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _elements(lines: list[str], path: Path) -> tuple[Element, ...]:
    elements: list[tuple[str, int, list[Property]]] = []
    for number, line in enumerate(lines[2:-1], start=3):
        words = line.split()
        try:
            match words:
                case [] | ["comment" | "obj_info", *_]:
                    continue
                case ["element", name, count] if int(count) >= 0:
                    elements.append((name, int(count), []))
                case ["property", "list", count, kind, name] if TYPES[count].kind in "iu":
                    elements[-1][2].append(Property(name, TYPES[kind], TYPES[count]))
                case ["property", kind, name]:
                    elements[-1][2].append(Property(name, TYPES[kind]))
                case _:
                    raise ValueError
        except (ValueError, KeyError, IndexError):
            raise InputError(f"{path}: header line {number}: cannot read '{line}'; {REMEDY}") from None
    for name, _, properties in elements:
        names = [p.name for p in properties]
        if len(set(names)) < len(names) or not names:
            raise InputError(f"{path}: header: element {name} has no property or one twice; {REMEDY}")
    return tuple(Element(name, count, tuple(properties)) for name, count, properties in elements)


def _check_vertices(header: PlyHeader) -> None:
    path = header.path
    if all(e.name != "vertex" for e in header.elements):
        raise InputError(
            f"{path}: header: no vertices; it has {', '.join(e.name for e in header.elements) or 'nothing'}"
        )
    vertex = header.vertex
    if vertex.count == 0:
        raise InputError(f"{path}: header: holds no points; nothing to do with this file")
    names = [p.name for p in vertex.properties]
    if not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path}: header: vertices need x, y and z; they have {', '.join(names)}")
    if not vertex.fixed:
        raise InputError(f"{path}: header: vertices with lists cannot be read; write one value a property")
    if not header.ascii and not all(e.fixed for e in header.before):
        raise InputError(f"{path}: header: lists stand before the vertices; write the vertices first")


def _check_size(header: PlyHeader) -> None:
    path, count = header.path, header.vertex.count
    if header.ascii:
        least = count * 2 * len(header.vertex.properties) - 1  # a digit and a blank each
        held = header.size - header.data_start
        if least > held:
            raise InputError(
                f"{path}: promises {count} vertices, which take at least {least} bytes; {held} are there; {REMEDY}"
            )
        return
    needed = header.data_start + sum(e.least_bytes for e in header.elements)
    each = header.record.itemsize
    if needed > header.size:
        held = max(0, (header.size - header.vertex_start) // each)
        raise InputError(f"{path}: promises {count} vertices, its {header.size} bytes hold {held}: truncated; {REMEDY}")
    if all(e.fixed for e in header.elements) and header.size - needed >= each:
        raise InputError(
            f"{path}: promises {count} vertices, {header.size - needed} bytes follow them: more than it says; {REMEDY}"
        )
