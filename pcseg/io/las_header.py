"""The header of a LAS or LAZ file, checked against the file's size before a library trusts it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pcseg.errors import InputError

REMEDY = "copy or download it again"
_HEADER_SIZE = {0: 227, 1: 227, 2: 227, 3: 235, 4: 375, 5: 393}  # by minor version
_VLR_HEADER, _EVLR_HEADER = 54, 60


def check_file(path: Path) -> None:
    """Walk the fixed header, the variable length records and the chunk table.

    Raises:
        InputError: no such file, no LAS or LAZ file, no points, or less data than the header promises.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a .las or .laz file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(393)
        if head[:4] != b"LASF":
            seen = "is empty" if not head else f"starts with {head[:4]!r}"
            raise InputError(f"{path}: is no LAS or LAZ file: it {seen} where 'LASF' is due; {REMEDY}")
        major, minor = (head[24], head[25]) if len(head) >= 26 else (1, 2)
        if major != 1 or minor not in _HEADER_SIZE:
            raise InputError(f"{path}: header: LAS version {major}.{minor} is unknown; convert it to LAS 1.4")
        if len(head) < _HEADER_SIZE[minor]:
            raise InputError(f"{path}: header: truncated after {len(head)} of {_HEADER_SIZE[minor]} bytes; {REMEDY}")
        data_start, num_vlrs, point_format, record_size, num_points = struct.unpack_from("<IIBHI", head, 96)
        header_size = struct.unpack_from("<H", head, 94)[0]
        first_evlr, num_evlrs = 0, 0
        if minor >= 4:
            first_evlr, num_evlrs, num_points = struct.unpack_from("<QIQ", head, 235)
        if data_start > size or data_start < header_size:
            raise InputError(f"{path}: header: points begin at byte {data_start} of {size}: truncated; {REMEDY}")
        if num_points == 0:
            raise InputError(f"{path}: header: holds no points; nothing to do with this file")
        scale_offset = struct.unpack_from("<6d", head, 131)
        if not np.isfinite(scale_offset).all() or 0 in scale_offset[:3]:
            raise InputError(f"{path}: header: scale and offset {scale_offset} make no coordinates; {REMEDY}")
        _walk(file, path, "VLR", header_size, num_vlrs, data_start)
        _walk(file, path, "EVLR", first_evlr, num_evlrs, size)
        if point_format & 0xC0:
            _check_chunk_table(file, path, data_start, size, num_points, record_size)
        elif data_start + num_points * record_size > size:
            held = (size - data_start) // max(record_size, 1)
            raise InputError(f"{path}: promises {num_points} points, its {size} bytes hold {held}: truncated; {REMEDY}")


def _walk(file: BinaryIO, path: Path, kind: str, position: int, count: int, end: int) -> None:
    """Follow a list of records to its end; a length that lies leads out of the file."""
    header, where, form = (_VLR_HEADER, 20, "<H") if kind == "VLR" else (_EVLR_HEADER, 20, "<Q")
    for index in range(count):
        file.seek(position)
        raw = file.read(header)
        if len(raw) == header:
            position += header + struct.unpack_from(form, raw, where)[0]
        if len(raw) < header or position > end:
            raise InputError(f"{path}: {kind} {index + 1} of {count} reaches past its end: truncated; {REMEDY}")


def _check_chunk_table(
    file: BinaryIO, path: Path, data_start: int, size: int, num_points: int, record_size: int
) -> None:
    """The table of compressed chunks stands at the end: where it is missing the file is cut short."""
    file.seek(data_start)
    raw = file.read(8)
    table = struct.unpack("<q", raw)[0] if len(raw) == 8 else size
    if table == -1:  # written to a stream: the position follows the table, as the last bytes
        file.seek(size - 8)
        table = struct.unpack("<q", file.read(8))[0]
    if not data_start + 8 <= table <= size - 8:
        raise InputError(f"{path}: its index of chunks is due at byte {table} of {size}: truncated; {REMEDY}")
    file.seek(table + 4)
    num_chunks = struct.unpack("<I", file.read(4))[0]
    if num_chunks * record_size > size:
        raise InputError(f"{path}: promises {num_chunks} chunks, more than {size} bytes hold; {REMEDY}")
    chunk_size = _laz_chunk_size(file, data_start)
    if chunk_size is not None and num_points > num_chunks * chunk_size:
        raise InputError(
            f"{path}: promises {num_points} points, its {num_chunks} chunks hold at most "
            f"{num_chunks * chunk_size}; {REMEDY}"
        )


def _laz_chunk_size(file: BinaryIO, data_start: int) -> int | None:
    """Points a chunk, or None where chunks vary in size or the record is missing (the decoder says so then)."""
    file.seek(0)
    head = file.read(data_start)
    position = struct.unpack_from("<H", head, 94)[0]
    for _ in range(struct.unpack_from("<I", head, 100)[0]):
        user, record, length = struct.unpack_from("<16sHH", head, position + 2)
        position += _VLR_HEADER
        if user.rstrip(b"\0") == b"laszip encoded" and record == 22204 and length >= 16:
            chunk_size = struct.unpack_from("<I", head, position + 12)[0]
            return None if chunk_size in (0, 0xFFFFFFFF) else chunk_size
        position += length
    return None
