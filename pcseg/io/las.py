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
from pcseg.io.las_header import REMEDY, check_file
from pcseg.io.scan import CHUNK_SIZE, RESULTS, ScanChunk, ScanHeader, check_columns, class_type

logging.getLogger("laspy").addHandler(logging.NullHandler())  # its errors reach the user as ours, once

_DAMAGE = (LaspyException, LazrsError, ValueError, struct.error, EOFError, KeyError, IndexError, OverflowError)
_SCAN_ANGLE_STEP = {"scan_angle_rank": 1.0, "scan_angle": 0.006}  # degrees, point formats below and from 6


def read_header(path: Path) -> ScanHeader:
    """Check the header against the file; see :func:`pcseg.io.scan.read_header`."""
    check_file(path)
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
    instances: np.ndarray | None,  # (N,) integer, -1: none
    codes: np.ndarray | None,  # (K,) int64; given: the classification is overwritten
    chunk_size: int = CHUNK_SIZE,
) -> None:
    """Copy with ``pred_class`` and ``confidence``; see :func:`pcseg.io.scan.write_predictions`."""
    check_file(source)
    with _open(source) as reader:
        header = copy.deepcopy(reader.header)
        evlrs = [e for e in reader.evlrs or [] if e.user_id != "copc"]  # they point into the old file
    header.vlrs = [v for v in header.vlrs if v.user_id not in ("copc", "laszip encoded")]
    names = set(header.point_format.dimension_names)
    dtype = class_type(max(int(np.max(pred_class)) + 1, 0 if codes is None else len(codes)))
    header.remove_extra_dims([name for name in RESULTS if name in names])
    added = [
        laspy.ExtraBytesParams("pred_class", dtype, "predicted class index"),
        laspy.ExtraBytesParams("confidence", np.dtype(np.float32), "probability of pred_class"),
    ]
    if instances is not None:
        added.append(laspy.ExtraBytesParams("pred_instance", np.dtype(np.int32), "number of the thing, or -1"))
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
                if field in record.array.dtype.names and field not in RESULTS:
                    record.array[field] = points.array[field]
            record["pred_class"] = np.where(classes < 0, np.iinfo(dtype).max, classes).astype(dtype)
            record["confidence"] = np.asarray(confidence[rows], np.float32)
            if instances is not None:
                record["pred_instance"] = np.asarray(instances[rows], np.int32)
            if codes is not None:
                old = np.asarray(points["classification"])
                if keep_old:
                    record["orig_class"] = old
                record["classification"] = np.where(classes < 0, old, codes[classes]).astype(np.uint8)
            writer.write_points(record)
        if evlrs:
            writer.write_evlrs(VLRList(evlrs))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        reader = laspy.open(path)
    except _DAMAGE as error:
        raise InputError(f"{path}: header: {error}; {REMEDY}") from error
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
                raise InputError(f"{path}: damaged after point {start} of {total} ({error}); {REMEDY}") from error
            if len(points) == 0 or len(points) < min(chunk_size, total - start):
                raise InputError(f"{path}: ends after point {start + len(points)} of {total}; {REMEDY}")
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
