"""E57 (ASTM E2807) through pye57: every scan of a file, each in the common frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcseg.errors import InputError
from pcseg.io.scan import ScanChunk, ScanHeader, check_columns, check_file, label_column

_NAMES = {"colorRed": "red", "colorGreen": "green", "colorBlue": "blue"}
_TYPES = {"colorRed": np.uint16, "colorGreen": np.uint16, "colorBlue": np.uint16, "intensity": np.float32}
_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_BOOKKEEPING = ("cartesianInvalidState", "sphericalInvalidState", "isColorInvalid", "isIntensityInvalid", "timeStamp")
REMEDY = "export it again"


def read_header(path: Path) -> ScanHeader:
    """Check the file; see :func:`pcseg.io.scan.read_header`. Columns are those that all its scans have."""
    file = _open(path)
    try:
        names = _attributes(path, file)
        columns = {_NAMES.get(name, name): np.dtype(_type(name)) for name in names}
        total = sum(file.get_header(index).point_count for index in range(file.scan_count))
    finally:
        file.close()
    if total == 0:
        raise InputError(f"{path}: holds no points; nothing to do with this file")
    return ScanHeader(
        path=path, format="e57", num_points=total, columns=columns, crs=None, label_column=label_column(columns)
    )


def read_chunks(path: Path, columns: Sequence[str] | None = None, *, chunk_size: int) -> Iterator[ScanChunk]:
    """Points in file order, scan after scan; see :func:`pcseg.io.scan.read_chunks`.

    Coordinates are moved by each scan's pose; a point that the scanner calls invalid has coordinates that are not a
    number.
    """
    file = _open(path)
    try:
        names = {_NAMES.get(name, name): name for name in _attributes(path, file)}
        wanted = list(names) if columns is None else list(columns)
        check_columns(path, wanted, list(names))
        start = 0
        for index in range(file.scan_count):
            for part in _scan(path, file, index, [names[name] for name in wanted], chunk_size):
                coords = part.pop("coords")
                yield ScanChunk(start=start, coords=coords, columns={_NAMES.get(n, n): v for n, v in part.items()})
                start += len(coords)
    finally:
        file.close()


def _open(path: Path) -> Any:
    check_file(path, ".e57")
    with path.open("rb") as raw:
        head = raw.read(8)
    if head != b"ASTM-E57":
        raise InputError(f"{path}: is no E57 file: it starts with {head!r} where 'ASTM-E57' is due; {REMEDY}")
    try:
        import pye57
    except ImportError:
        raise InputError(f"{path}: E57 needs the package pye57; pip install pcseg[formats]") from None
    try:
        return pye57.E57(str(path))
    except Exception as error:  # the library has one class of errors, which it does not export
        raise InputError(f"{path}: cannot be opened ({_first_line(error)}); {REMEDY}") from error


def _attributes(path: Path, file: Any) -> list[str]:
    """Fields that all scans have, coordinates left out."""
    if file.scan_count == 0:
        raise InputError(f"{path}: holds no scan; nothing to do with this file")
    common: list[str] | None = None
    for index in range(file.scan_count):
        fields = list(file.get_header(index).point_fields)
        if not set(_CARTESIAN) <= set(fields) and not set(_SPHERICAL) <= set(fields):
            raise InputError(f"{path}: scan {index} has no coordinates, only {', '.join(fields)}; {REMEDY}")
        common = fields if common is None else [name for name in common if name in fields]
    hidden = (*_CARTESIAN, *_SPHERICAL, *_BOOKKEEPING)
    return [name for name in common or [] if name not in hidden and ":" not in name]


def _type(field: str) -> type:
    return _TYPES.get(field, np.float32 if field != "classification" else np.uint8)


def _scan(path: Path, file: Any, index: int, fields: list[str], chunk_size: int) -> Iterator[dict[str, np.ndarray]]:
    from pye57 import libe57  # pyright: ignore[reportAttributeAccessIssue]

    header = file.get_header(index)
    present = set(header.point_fields)
    axes = _CARTESIAN if set(_CARTESIAN) <= present else _SPHERICAL
    invalid = "cartesianInvalidState" if axes is _CARTESIAN else "sphericalInvalidState"
    names = [*axes, *([invalid] if invalid in present else []), *fields]
    types = dict.fromkeys(axes, np.float64) | {invalid: np.int8} | {name: _type(name) for name in fields}
    arrays = {name: np.empty(min(chunk_size, max(header.point_count, 1)), types[name]) for name in names}
    buffers = libe57.VectorSourceDestBuffer()
    for name, array in arrays.items():
        buffers.append(libe57.SourceDestBuffer(file.image_file, name, array, len(array), True, True))
    reader = header.points.reader(buffers)
    done = 0
    try:
        while count := reader.read():
            coords = np.stack([arrays[axis][:count] for axis in axes], axis=1)
            if axes is _SPHERICAL:
                coords = _cartesian(coords)
            if header.has_pose():
                coords = file.to_global(coords, header.rotation, header.translation)
            if invalid in arrays:
                coords[arrays[invalid][:count] != 0] = np.nan
            done += count
            yield {"coords": coords, **{name: arrays[name][:count].copy() for name in fields}}
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: scan {index}: damaged after point {done} ({_first_line(error)}); {REMEDY}"
        ) from error
    if done < header.point_count:
        raise InputError(f"{path}: scan {index}: promises {header.point_count} points, ends after {done}; {REMEDY}")


def _cartesian(spherical: np.ndarray) -> np.ndarray:
    distance, azimuth, elevation = spherical.T
    flat = distance * np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], axis=1)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
