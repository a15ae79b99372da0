"""Makers of tiny scan files."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import laspy
import numpy as np

SAMPLES = Path(__file__).parents[2] / "samples"


def small_las(
    path: Path,
    num_points: int = 500,
    *,
    point_format: int = 6,
    version: str = "1.4",
    seed: int = 0,
    color: int = 65535,
    wkt: str | None = None,
) -> laspy.LasData:
    """A LAS or LAZ file in national-grid coordinates, every dimension random, with three extra dimensions."""
    rng = np.random.default_rng(seed)
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.array([0.001, 0.002, 0.005]), np.array([84000.0, 447000.0, 0.0])
    header.system_identifier = "test scanner"
    header.add_extra_dims(
        [
            laspy.ExtraBytesParams("amplitude", np.dtype(np.float32)),
            laspy.ExtraBytesParams("echo width", np.dtype(np.uint16), scales=np.array([0.1]), offsets=np.array([0.0])),
            laspy.ExtraBytesParams("normals", "3f4"),  # pyright: ignore[reportArgumentType]
        ]
    )
    if wkt is not None:
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(wkt))  # pyright: ignore
        header.global_encoding.wkt = True
    las = laspy.LasData(header)
    las.x = 84900 + rng.random(num_points) * 20
    las.y = 447500 + rng.random(num_points) * 20
    las.z = rng.random(num_points) * 5
    las.intensity = rng.integers(0, 65535, num_points)
    las.number_of_returns = rng.integers(1, 4, num_points)
    las.return_number = rng.integers(1, las.number_of_returns + 1)
    las.classification = rng.choice([1, 2, 6], num_points)
    las.withheld = rng.integers(0, 2, num_points)
    las.gps_time = rng.random(num_points)
    las.point_source_id = rng.integers(0, 100, num_points)
    if "red" in las.point_format.dimension_names:
        las.red, las.green, las.blue = rng.integers(0, color + 1, (3, num_points))
    las["amplitude"] = rng.random(num_points)
    las["echo width"] = rng.integers(0, 100, num_points) * 0.1
    las["normals"] = rng.random((num_points, 3))
    las.write(path)
    return laspy.read(path)


@contextmanager
def file_size_limit(limit: int):
    """Writes beyond ``limit`` bytes of a file fail, as they do on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


class FullDisk:
    """Stands in for a binary file on a disk that is full after some bytes."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data) -> int:
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.file.close()


@contextmanager
def full_disk(monkeypatch, room: int):
    """Every file opened for binary writing has ``room`` bytes."""
    original = Path.open

    def opened(self, mode="r", *args, **kwargs):
        file = original(self, mode, *args, **kwargs)
        return FullDisk(file, room) if mode == "wb" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        yield


def left_behind(folder: Path) -> list[str]:
    """Names in a folder, hidden ones included."""
    return sorted(p.name for p in folder.iterdir())
