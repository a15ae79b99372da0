"""LAS and LAZ: checked header, chunked reading, and copies with added dimensions."""

from __future__ import annotations

import contextlib
import copy
import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import laspy
import numpy as np
from laspy.errors import LaspyException
from laspy.vlrs.vlrlist import VLRList
from lazrs import LazrsError  # pyright: ignore[reportAttributeAccessIssue]

from pcseg.errors import InputError
from pcseg.io.atomic import replacing
from pcseg.io.scan import CHUNK_SIZE, ScanChunk, ScanHeader, check_columns, class_type

logging.getLogger("laspy").addHandler(logging.NullHandler())  # its errors reach the user as ours, once

_HEADER_SIZE = {0: 227, 1: 227, 2: 227, 3: 235, 4: 375, 5: 393}  # by minor version
_VLR_HEADER, _EVLR_HEADER = 54, 60
_REMEDY = "copy or download it again"
_DAMAGE = (LaspyException, LazrsError, ValueError, struct.error, EOFError, KeyError, IndexError, OverflowError)
_SCAN_ANGLE_STEP = {"scan_angle_rank": 1.0, "scan_angle": 0.006}  # degrees, point formats below and from 6


def read_header(path: Path) -> ScanHeader:
    """Check the header against the file; see :func:`pcseg.io.scan.read_header`."""
    _check(path)
    with _open(path) as reader:
        header = reader.header
        return ScanHeader(
            path=path,
            format="las",
            num_points=header.point_count,
            columns=_columns(header),
            crs=_crs(header),
            label_column="classification",
        )


def read_chunks(path: Path, columns: Sequence[str] | None = None, *, chunk_size: int) -> Iterator[ScanChunk]:
    """Points in file order; see :func:`pcseg.io.scan.read_chunks`.

    Colours are as stored (16 bits, or 8 bits in 16); ``scan_angle`` is in degrees whatever the point format.
    """
    header = read_header(path)
    wanted = list(header.columns) if columns is None else list(columns)
    check_columns(path, wanted, list(header.columns))
    for start, points in _records(path, chunk_size):
        coords = np.stack([np.asarray(points[axis], np.float64) for axis in "xyz"], axis=1)
        yield ScanChunk(start=start, coords=coords, columns={name: _column(points, name) for name in wanted})


def write_predictions(
    source: Path,
    target: Path,
    pred_class: np.ndarray,  # (N,) integer, -1: not predicted
    confidence: np.ndarray,  # (N,) float
    *,
    codes: np.ndarray | None,  # (K,) int64; given: the classification is overwritten
    chunk_size: int = CHUNK_SIZE,
) -> None:
    """Copy with ``pred_class`` and ``confidence``; see :func:`pcseg.io.scan.write_predictions`."""
    _check(source)
    with _open(source) as reader:
        header = copy.deepcopy(reader.header)
        evlrs = [e for e in reader.evlrs or [] if e.user_id != "copc"]  # they point into the old file
    header.vlrs = [v for v in header.vlrs if v.user_id not in ("copc", "laszip encoded")]
    names = set(header.point_format.dimension_names)
    dtype = class_type(max(int(np.max(pred_class)) + 1, 0 if codes is None else len(codes)))
    header.remove_extra_dims([n for n in ("pred_class", "confidence") if n in names])
    added = [
        laspy.ExtraBytesParams("pred_class", dtype, "predicted class index"),
        laspy.ExtraBytesParams("confidence", np.dtype(np.float32), "probability of pred_class"),
    ]
    keep_old = codes is not None and "orig_class" not in names
    if codes is not None:
        highest = 31 if header.point_format.id < 6 else 255
        if codes.min() < 0 or codes.max() > highest:
            raise InputError(
                f"{source}: point format {header.point_format.id} holds class codes 0 to {highest}, "
                f"the class table has {sorted(codes.tolist())}; leave the classification as it is"
            )
        if keep_old:
            added.append(laspy.ExtraBytesParams("orig_class", np.dtype(np.uint8), "classification before pcseg"))
    header.add_extra_dims(added)
    with replacing(target) as temporary, _writer(temporary, header, target.suffix.lower() == ".laz") as writer:
        for start, points in _records(source, chunk_size):
            rows = slice(start, start + len(points))
            classes = np.asarray(pred_class[rows], np.int64)
            record = laspy.ScaleAwarePointRecord.zeros(len(points), header=header)
            for field in points.array.dtype.names:
                if field in record.array.dtype.names and field not in ("pred_class", "confidence"):
                    record.array[field] = points.array[field]
            record["pred_class"] = np.where(classes < 0, np.iinfo(dtype).max, classes).astype(dtype)
            record["confidence"] = np.asarray(confidence[rows], np.float32)
            if codes is not None:
                old = np.asarray(points["classification"])
                if keep_old:
                    record["orig_class"] = old
                record["classification"] = np.where(classes < 0, old, codes[classes]).astype(np.uint8)
            writer.write_points(record)
        if evlrs:
            writer.write_evlrs(VLRList(evlrs))


def _check(path: Path) -> None:
    """Walk the fixed header, the variable length records and the chunk table before a library trusts them."""
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a .las or .laz file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(393)
        if head[:4] != b"LASF":
            seen = "is empty" if not head else f"starts with {head[:4]!r}"
            raise InputError(f"{path}: is no LAS or LAZ file: it {seen} where 'LASF' is due; {_REMEDY}")
        major, minor = (head[24], head[25]) if len(head) >= 26 else (1, 2)
        if major != 1 or minor not in _HEADER_SIZE:
            raise InputError(f"{path}: header: LAS version {major}.{minor} is unknown; convert it to LAS 1.4")
        if len(head) < _HEADER_SIZE[minor]:
            raise InputError(f"{path}: header: truncated after {len(head)} of {_HEADER_SIZE[minor]} bytes; {_REMEDY}")
        data_start, num_vlrs, point_format, record_size, num_points = struct.unpack_from("<IIBHI", head, 96)
        header_size = struct.unpack_from("<H", head, 94)[0]
        first_evlr, num_evlrs = 0, 0
        if minor >= 4:
            first_evlr, num_evlrs, num_points = struct.unpack_from("<QIQ", head, 235)
        if data_start > size or data_start < header_size:
            raise InputError(f"{path}: header: points begin at byte {data_start} of {size}: truncated; {_REMEDY}")
        if num_points == 0:
            raise InputError(f"{path}: header: holds no points; nothing to do with this file")
        scale_offset = struct.unpack_from("<6d", head, 131)
        if not np.isfinite(scale_offset).all() or 0 in scale_offset[:3]:
            raise InputError(f"{path}: header: scale and offset {scale_offset} make no coordinates; {_REMEDY}")
        _walk(file, path, "VLR", header_size, num_vlrs, data_start)
        _walk(file, path, "EVLR", first_evlr, num_evlrs, size)
        if point_format & 0xC0:
            _check_chunk_table(file, path, data_start, size, num_points, record_size)
        elif data_start + num_points * record_size > size:
            held = (size - data_start) // max(record_size, 1)
            raise InputError(
                f"{path}: promises {num_points} points, its {size} bytes hold {held}: truncated; {_REMEDY}"
            )


def _walk(file: BinaryIO, path: Path, kind: str, position: int, count: int, end: int) -> None:
    """Follow a list of records to its end; a length that lies leads out of the file."""
    header, where, form = (_VLR_HEADER, 20, "<H") if kind == "VLR" else (_EVLR_HEADER, 20, "<Q")
    for index in range(count):
        file.seek(position)
        raw = file.read(header)
        if len(raw) == header:
            position += header + struct.unpack_from(form, raw, where)[0]
        if len(raw) < header or position > end:
            raise InputError(f"{path}: {kind} {index + 1} of {count} reaches past its end: truncated; {_REMEDY}")


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
        raise InputError(f"{path}: its index of chunks is due at byte {table} of {size}: truncated; {_REMEDY}")
    file.seek(table + 4)
    num_chunks = struct.unpack("<I", file.read(4))[0]
    if num_chunks * record_size > size:
        raise InputError(f"{path}: promises {num_chunks} chunks, more than {size} bytes hold; {_REMEDY}")
    chunk_size = _laz_chunk_size(file, data_start)
    if chunk_size is not None and num_points > num_chunks * chunk_size:
        raise InputError(
            f"{path}: promises {num_points} points, its {num_chunks} chunks hold at most "
            f"{num_chunks * chunk_size}; {_REMEDY}"
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


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        reader = laspy.open(path)
    except _DAMAGE as error:
        raise InputError(f"{path}: header: {error}; {_REMEDY}") from error
    with reader:
        yield reader


def _records(path: Path, chunk_size: int) -> Iterator[tuple[int, Any]]:
    """Raw point records with the row of the first of each."""
    with _open(path) as reader:
        start, total = 0, reader.header.point_count
        while start < total:
            try:
                points = reader.read_points(chunk_size)
            except (*_DAMAGE, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise InputError(f"{path}: damaged after point {start} of {total} ({error}); {_REMEDY}") from error
            if len(points) == 0 or len(points) < min(chunk_size, total - start):
                raise InputError(f"{path}: ends after point {start + len(points)} of {total}; {_REMEDY}")
            yield start, points
            start += len(points)


class _Watched:
    """A file that remembers why a write failed: the compressor reports every failure as its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except OSError as error:
            self.error = error
            raise

    def tell(self) -> int:
        return self.file.tell()


@contextlib.contextmanager
def _writer(path: Path, header: laspy.LasHeader, compress: bool) -> Iterator[laspy.LasWriter]:
    with path.open("wb") as file:
        watched = _Watched(file)
        try:
            writer = laspy.LasWriter(watched, header, do_compress=compress, closefd=False)  # pyright: ignore
            yield writer
            writer.close()
            file.flush()
        except (LaspyException, LazrsError) as error:
            if watched.error is not None:
                raise watched.error from error
            raise


def _columns(header: laspy.LasHeader) -> dict[str, np.dtype]:
    columns: dict[str, np.dtype] = {}
    for dimension in header.point_format.dimensions:
        if dimension.name in ("X", "Y", "Z"):
            continue
        if dimension.name in _SCAN_ANGLE_STEP:
            columns["scan_angle"] = np.dtype(np.float32)
            continue
        base = np.dtype(np.float64) if dimension.is_scaled else dimension.dtype or np.dtype(np.uint8)
        if dimension.num_elements > 1 and dimension.is_scaled:
            base = np.dtype((base, (dimension.num_elements,)))
        columns[dimension.name] = base
    return columns


def _column(points: Any, name: str) -> np.ndarray:  # (n,) or (n, k)
    if name == "scan_angle":
        stored = next(n for n in _SCAN_ANGLE_STEP if n in points.point_format.dimension_names)
        return np.asarray(points[stored], np.float32) * np.float32(_SCAN_ANGLE_STEP[stored])
    return np.asarray(points[name])


def _crs(header: laspy.LasHeader) -> str | None:
    """WKT where there is one, else the EPSG code of the GeoTIFF keys (3072 projected, 2048 geographic)."""
    for vlr in (*header.vlrs, *(header.evlrs or [])):
        text = getattr(vlr, "string", None)
        if vlr.record_id == 2112 and text:
            return text.rstrip("\0").strip() or None
    for vlr in header.vlrs:
        keys = {key.id: key.value_offset for key in getattr(vlr, "geo_keys", [])}
        for key in (3072, 2048):
            if 0 < keys.get(key, 0) < 32767:
                return f"EPSG:{keys[key]}"
    return None
