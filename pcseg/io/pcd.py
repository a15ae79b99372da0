"""PCD of the Point Cloud Library, version 0.7: text, binary and compressed."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pcseg.errors import InputError
from pcseg.io.scan import ScanChunk, ScanHeader, check_columns, check_file, label_column
from pcseg.io.text_columns import parse_columns

REMEDY = "write it again"
_TYPES = {("F", 4): "f4", ("F", 8): "f8"} | {
    (kind, size): f"{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)
}
_PACKED = ("rgb", "rgba")  # 0x00RRGGBB in four bytes, often called a float
_COLORS = {"red": 16, "green": 8, "blue": 0}
_MAX_HEADER = 1 << 16


@dataclass(frozen=True, slots=True)
class _Pcd:
    record: np.dtype  # fields called "_" are padding
    num_points: int
    data: Literal["ascii", "binary", "binary_compressed"]
    start: int  # byte
    lines: int  # of the header

    @property
    def columns(self) -> dict[str, np.dtype]:
        found: dict[str, np.dtype] = {}
        for name in self.record.names or ():
            if name in _PACKED:
                found |= dict.fromkeys(_COLORS, np.dtype(np.uint8))
            elif name not in ("x", "y", "z") and not name.startswith("_"):
                found[name] = self.record[name]
        return found


def read_header(path: Path) -> ScanHeader:
    """Check the header against the file; see :func:`pcseg.io.scan.read_header`."""
    pcd = _parse(path)
    columns = pcd.columns
    return ScanHeader(
        path=path,
        format="pcd",
        num_points=pcd.num_points,
        columns=columns,
        crs=None,
        label_column=label_column(columns),
    )


def read_chunks(path: Path, columns: Sequence[str] | None = None, *, chunk_size: int) -> Iterator[ScanChunk]:
    """Points in file order; see :func:`pcseg.io.scan.read_chunks`.

    Text and compressed files are held in memory whole: the latter store one column after the other.
    """
    pcd = _parse(path)
    names = list(pcd.columns)
    wanted = names if columns is None else list(columns)
    check_columns(path, wanted, names)
    points = {"ascii": _text, "binary": _binary, "binary_compressed": _compressed}[pcd.data](path, pcd)
    for start in range(0, pcd.num_points, chunk_size):
        part = points[start : start + chunk_size]
        yield ScanChunk(
            start=start,
            coords=np.stack([part[axis].astype(np.float64) for axis in "xyz"], axis=1),
            columns={name: _column(part, name) for name in wanted},
        )


def _column(points: np.ndarray, name: str) -> np.ndarray:
    names = points.dtype.names or ()
    packed = next((packed for packed in _PACKED if packed in names), None)
    if packed is not None and name in _COLORS:
        return ((np.ascontiguousarray(points[packed]).view(np.uint32) >> _COLORS[name]) & 255).astype(np.uint8)
    return np.ascontiguousarray(points[name])


def _parse(path: Path) -> _Pcd:
    check_file(path, ".pcd")
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER)
    values: dict[str, list[str]] = {}
    position = lines = 0
    while "DATA" not in values:
        end = head.find(b"\n", position)
        if end < 0:
            raise InputError(f"{path}: is no PCD file, or its header is cut short: no DATA line; {REMEDY}")
        line = head[position:end].decode("latin-1").split("#")[0].split()
        position, lines = end + 1, lines + 1
        if line:
            values[line[0].upper()] = line[1:]
    try:
        fields = values.get("FIELDS") or values["COLUMNS"]
        sizes, types = [int(word) for word in values["SIZE"]], values["TYPE"]
        counts = [int(word) for word in values.get("COUNT", ["1"] * len(fields))]
        width, height = int(values["WIDTH"][0]), int(values.get("HEIGHT", ["1"])[0])
        num_points = int(values["POINTS"][0]) if "POINTS" in values else width * height
        kinds = [_TYPES[kind.upper(), size] for kind, size in zip(types, sizes, strict=True)]
        named = [name if name != "_" else f"_{index}" for index, name in enumerate(fields)]
        record = np.dtype(
            [
                (name, f"<{kind}") if count == 1 else (name, f"<{kind}", (count,))
                for name, kind, count in zip(named, kinds, counts, strict=True)
            ]
        )
        data = values["DATA"][0].lower()
        if num_points != width * height or min(counts) < 1:
            raise ValueError(f"{num_points} points, {width} x {height}")
        if data not in ("ascii", "binary", "binary_compressed"):
            raise ValueError(f"DATA {data}")
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{path}: header, lines 1 to {lines}: does not fit together ({error}); {REMEDY}") from error
    if not {"x", "y", "z"} <= set(named):
        raise InputError(f"{path}: header: points need x, y and z; they have {', '.join(fields)}")
    if any(record[name].itemsize != 4 for name in _PACKED if name in named):
        raise InputError(f"{path}: header: rgb needs four bytes; {REMEDY}")
    if num_points == 0:
        raise InputError(f"{path}: header: holds no points; nothing to do with this file")
    held = path.stat().st_size - position
    needed = num_points * record.itemsize if data == "binary" else 8 if data == "binary_compressed" else 2 * num_points
    if needed > held + 1:
        raise InputError(
            f"{path}: promises {num_points} points, which take at least {needed} bytes; {held} are there: truncated; "
            f"{REMEDY}"
        )
    return _Pcd(record, num_points, data, position, lines)  # pyright: ignore[reportArgumentType]


def _binary(path: Path, pcd: _Pcd) -> np.ndarray:
    return np.memmap(path, pcd.record, "r", pcd.start, (pcd.num_points,))


def _compressed(path: Path, pcd: _Pcd) -> np.ndarray:
    try:
        import lzf  # pyright: ignore[reportMissingImports] - optional, source only
    except ImportError:
        raise InputError(f"{path}: compressed PCD needs the package python-lzf; pip install pcseg[formats]") from None
    with path.open("rb") as file:
        file.seek(pcd.start)
        packed, whole = struct.unpack("<II", file.read(8))
        data = file.read(packed)
    due = pcd.num_points * pcd.record.itemsize
    if len(data) < packed or whole != due:
        raise InputError(
            f"{path}: promises {pcd.num_points} points, {due} bytes; there are {len(data)} of {packed} packed bytes "
            f"for {whole}: truncated; {REMEDY}"
        )
    try:
        plain = lzf.decompress(data, whole)
    except ValueError:
        plain = None
    if plain is None or len(plain) != whole:
        raise InputError(f"{path}: its compressed points are damaged; {REMEDY}")
    points, position = np.empty(pcd.num_points, pcd.record), 0
    for name in pcd.record.names or ():
        column = points[name]
        points[name] = np.frombuffer(plain, column.dtype, column.size, position).reshape(column.shape)
        position += column.nbytes
    return points


def _text(path: Path, pcd: _Pcd) -> np.ndarray:
    widths = {name: int(np.prod(pcd.record[name].shape, dtype=int)) for name in pcd.record.names or ()}
    with path.open("rb") as file:
        file.seek(pcd.start)
        table = parse_columns(
            file.read(), str(path), num_columns=sum(widths.values()), first_line=pcd.lines + 1, threads=True
        )
    if len(table) != pcd.num_points:
        raise InputError(f"{path}: promises {pcd.num_points} points, {len(table)} lines follow; {REMEDY}")
    points, index = np.empty(pcd.num_points, pcd.record), 0
    for name, width in widths.items():
        values = np.stack(table.columns[index : index + width], axis=1)
        points[name] = values.reshape(points[name].shape)
        index += width
    return points
