"""Points as text: XYZ, TXT, ASC, CSV and PTS, one point a line, named by a first line or by their number of columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.errors import InputError
from pcseg.io.scan import ScanChunk, ScanHeader, check_columns, check_file, label_column
from pcseg.io.text_columns import parse_columns

BY_NUMBER = {
    3: ("x", "y", "z"),
    4: ("x", "y", "z", "intensity"),
    6: ("x", "y", "z", "red", "green", "blue"),
}
"""Names of columns where no line gives them."""
PTS = BY_NUMBER | {7: ("x", "y", "z", "intensity", "red", "green", "blue")}
_HEAD = 1 << 16
_BLOCK = 1 << 22
_LINE_BYTES = 48  # a guess, to size blocks


@dataclass(frozen=True, slots=True)
class _Layout:
    names: tuple[str, ...]
    delimiter: str
    start: int  # byte at which the numbers begin
    first_line: int

    @property
    def columns(self) -> dict[str, np.dtype]:
        """Everything but coordinates; times need all their digits."""
        return {
            name: np.dtype(np.float64 if "time" in name.lower() else np.float32)
            for name in self.names
            if name not in ("x", "y", "z")
        }


def read_header(path: Path) -> ScanHeader:
    """Find names and delimiter, and count the points; see :func:`pcseg.io.scan.read_header`.

    A first line that is no numbers names the columns, a comment sign before it or not; they are lower-cased where they
    are x, y, z. A line before the points that is a single number is their count. Without names the number of columns
    decides (``BY_NUMBER``).
    """
    layout = _layout(path)
    return ScanHeader(
        path=path,
        format="text",
        num_points=_lines(path, layout.start),
        columns=layout.columns,
        crs=None,
        label_column=label_column(layout.columns),
    )


def read_chunks(path: Path, columns: Sequence[str] | None = None, *, chunk_size: int) -> Iterator[ScanChunk]:
    """Points in file order; see :func:`pcseg.io.scan.read_chunks`. Chunks are about as large as asked for."""
    layout = _layout(path)
    wanted = list(layout.columns) if columns is None else list(columns)
    check_columns(path, wanted, list(layout.columns))
    start, line = 0, layout.first_line
    with path.open("rb") as file:
        file.seek(layout.start)
        while block := file.read(chunk_size * _LINE_BYTES):
            block += file.readline()
            if not block.strip():
                continue
            table = parse_columns(
                block,
                str(path),
                num_columns=len(layout.names),
                delimiter=layout.delimiter,
                first_line=line,
                threads=True,
            )
            by_name = dict(zip(layout.names, table.columns, strict=True))
            for first in range(0, len(table), chunk_size):
                rows = slice(first, first + chunk_size)
                part = ScanChunk(
                    start=start,
                    coords=np.stack([by_name[axis][rows] for axis in "xyz"], axis=1),
                    columns={name: by_name[name][rows].astype(layout.columns[name]) for name in wanted},
                )
                yield part
                start += len(part)
            line += block.count(b"\n")


def _lines(path: Path, start: int) -> int:
    """Lines with something other than blanks."""
    count, ended = 0, True  # whether the text before is a whole line
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(_BLOCK):
            ends = np.frombuffer(block.translate(None, b" \t\r"), np.uint8) == ord("\n")
            if len(ends):
                count += np.count_nonzero(ends[1:] & ~ends[:-1]) + bool(ends[0] and not ended)
                ended = bool(ends[-1])
    return count + (not ended)


def _layout(path: Path) -> _Layout:
    check_file(path, path.suffix)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    names: list[str] | None = None
    position, number, counted = 0, 1, False
    for raw in head.splitlines(keepends=True):
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace").strip()
        comment = text.startswith(("#", "//"))
        words = _words(text.lstrip("#/ \t"))
        if text and not comment and _is_numbers(words):
            if len(words) > 1:
                return _Layout(_named(path, names, len(words), counted), _delimiter(text), position, number)
            counted = True
        elif words and {"x", "y", "z"} <= {word.lower() for word in words}:
            names = words
        elif text and not comment:
            raise InputError(f"{path}: line {number}: cannot read '{text[:60]}'; give numbers, or names with x, y, z")
        position, number = position + len(raw), number + 1
    raise InputError(f"{path}: holds no points; nothing to do with this file")


def _words(text: str) -> list[str]:
    return [word.strip().strip('"') for word in re.split(r"[,;]|\s+", re.sub(r"\s*([,;])\s*", r"\1", text)) if word]


def _is_numbers(words: list[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


def _delimiter(line: str) -> str:
    return next((sign for sign in ",;" if sign in line), " ")


def _named(path: Path, names: list[str] | None, count: int, counted: bool) -> tuple[str, ...]:
    if names is None:
        known = PTS if counted or path.suffix.lower() == ".pts" else BY_NUMBER
        if count not in known:
            raise InputError(
                f"{path}: has {count} columns without names; put a first line before them, such as "
                f"'# x y z red green blue class'"
            )
        return known[count]
    result = tuple(name.lower() if name.lower() in ("x", "y", "z", "red", "green", "blue") else name for name in names)
    if len(result) != count or len(set(result)) < count:
        raise InputError(f"{path}: names {len(result)} columns ({', '.join(result)}), its first point has {count}")
    return result
