"""Speed of preparation: text of an S3DIS room and a LAZ tile beside other readers, workers beside one, memory.

python -m benchmarks.prepare [text laz workers memory]

Readers take turns, on the cores that the process may use. Processor seconds are those of all its threads: they tell how
fast one thread is on a machine that does other work too.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import laspy
import numpy as np
import tyro

from benchmarks.case import optional
from benchmarks.memory import tile_scan
from benchmarks.ops import commit, processor
from pcseg.io import scan
from pcseg.io.text_columns import parse_columns

REPEATS = 15
ROOMS, TEXTS = 68, 8  # as many rooms as Area 5 has; their texts repeat
RESULT = Path("benchmarks/results/prepare.json")
Part = Literal["text", "laz", "workers", "memory"]


@dataclass(frozen=True)
class Options:
    """Time preparation."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = ("text", "laz", "workers", "memory")
    """What is measured."""
    points: int = 1_000_000
    """Points of a room."""
    block: int = 40_000_000
    """Points of the block whose memory is measured."""
    tile: Path = Path("samples/ahn3_delft/crop_1.laz")
    """The tile that is read; copies of it, side by side, make a larger one."""


def room_text(count: int, seed: int = 0) -> bytes:
    """Lines as an S3DIS object file has them."""
    rng = np.random.default_rng(seed)
    coords, colors = rng.random((count, 3)) * (9, 7, 3) - (20, 0, 0), rng.integers(0, 256, (count, 3))
    rows = zip(coords.tolist(), colors.tolist(), strict=True)
    return "".join(f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}\n" for (x, y, z), (r, g, b) in rows).encode()


def in_turn(contenders: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Medians of seconds by the clock and of processor seconds; a first turn is not counted.

    Each turn has another order: what frees much memory makes the next one slower.
    """
    clock: dict[str, list[float]] = {name: [] for name in contenders}
    work: dict[str, list[float]] = {name: [] for name in contenders}
    names, rng = list(contenders), np.random.default_rng(0)
    for turn in range(REPEATS + 1):
        for name in rng.permutation(names).tolist():
            call = contenders[name]
            start, used = time.perf_counter(), time.process_time()
            result = call()
            if turn:
                clock[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - used)
            del result
    median = {"seconds": clock, "processor_seconds": work}
    return {n: {key: round(float(np.median(times[n])), 4) for key, times in median.items()} for n in contenders}


def told(title: str, count: int, times: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print and return what was measured; the first contender is ours."""
    ours = next(iter(times.values()))
    print(title)
    for name, took in times.items():
        work = took["processor_seconds"]
        print(
            f"  {name}: {took['seconds']:.3f} s, processor {work:.3f} s, {count / work / 1e6:.1f} M points/s, "
            f"{work / ours['processor_seconds']:.2f} x ours"
        )
    return {"points": count, "readers": times}


def text(options: Options) -> dict[str, Any]:
    pandas = optional("pandas")
    data = room_text(options.points)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "room.txt"
        file.write_bytes(data)
        contenders: dict[str, Callable[[], object]] = {
            "pcseg, one thread": lambda: parse_columns(file.read_bytes(), str(file), num_columns=6),
            "pcseg, all cores": lambda: parse_columns(file.read_bytes(), str(file), num_columns=6, threads=True),
            "numpy.loadtxt": lambda: np.loadtxt(file),
        }
        if pandas:
            contenders["pandas.read_csv, C engine"] = lambda: pandas.read_csv(
                file, sep=" ", header=None, engine="c"
            ).to_numpy()
        table = parse_columns(data, "room", num_columns=6)
        assert np.array_equal(np.stack(table.columns, 1), np.loadtxt(io.BytesIO(data)))
        times = in_turn(contenders)
    return told(f"text of {options.points:,} points, {len(data) / 2**20:.0f} MiB", options.points, times)


def laz(options: Options) -> dict[str, Any]:
    """A tile of several million points, all coordinates and attributes as arrays."""

    def ours(file: Path) -> int:
        return sum(len(chunk) for chunk in scan.read_chunks(file))

    def theirs(file: Path, backend: laspy.LazBackend) -> int:
        tile = laspy.read(file, laz_backend=backend)
        names = [name for name in tile.point_format.dimension_names if name not in ("X", "Y", "Z")]
        return len(tile.xyz) + sum(np.asarray(tile[name]).ndim for name in names)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tile.laz"
        count = tile_scan(options.tile, file, 4 * options.points)
        contenders: dict[str, Callable[[], object]] = {"pcseg": functools.partial(ours, file)}
        for backend in laspy.LazBackend.detect_available():
            contenders[f"laspy, {backend.name}"] = functools.partial(theirs, file, backend)
        times = in_turn(contenders)
        return told(f"LAZ of {count:,} points, {file.stat().st_size / 2**20:.0f} MiB", count, times)


def workers(options: Options) -> dict[str, Any]:
    """Rooms of so many points each, by one process and by two."""
    took: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = [Path(folder) / f"{number}.txt" for number in range(TEXTS)]
        for number, file in enumerate(first):
            file.write_bytes(room_text(options.points, number))
        for room in range(ROOMS):
            target = Path(folder) / f"raw/Area_5/office_{room}/Annotations"
            target.mkdir(parents=True)
            (target / "clutter_1.txt").hardlink_to(first[room % TEXTS])
        for number in (1, 2):
            out = Path(folder) / "out"
            command = [sys.executable, "-m", "data_prep.s3dis", "--raw", f"{folder}/raw", "--out", str(out), "--quiet"]
            start = time.perf_counter()
            subprocess.run([*command, "--workers", str(number)], check=True, stdout=subprocess.DEVNULL)
            took[number] = round(time.perf_counter() - start, 2)
            shutil.rmtree(out)
    print(
        f"{ROOMS} rooms of {options.points:,} points: one worker {took[1]:.1f} s, two {took[2]:.1f} s, "
        f"{took[1] / took[2]:.2f} times as fast"
    )
    return {"rooms": ROOMS, "points": options.points, "seconds": {str(number): s for number, s in took.items()}}


def memory(options: Options) -> dict[str, Any]:
    """A SensatUrban block, its 0.2 m voxels counted."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "raw/birmingham_block_0.ply"
        file.parent.mkdir()
        fields = [(axis, "<f4") for axis in "xyz"] + [(name, "u1") for name in ("red", "green", "blue", "class")]
        head = ["ply", "format binary_little_endian 1.0", f"element vertex {options.block}"]
        head += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
        rng = np.random.default_rng(0)
        with file.open("wb") as out:
            out.write(("\n".join([*head, "end_header"]) + "\n").encode())
            for start in range(0, options.block, 1_000_000):
                part = np.zeros(min(1_000_000, options.block - start), np.dtype(fields))
                for axis, width in zip("xyz", (400, 400, 30), strict=True):
                    part[axis] = rng.random(len(part)) * width
                part["red"], part["class"] = rng.integers(0, 256, len(part)), rng.integers(0, 13, len(part))
                out.write(part.data)
        command = [sys.executable, "-m", "data_prep.sensaturban", "--raw", f"{folder}/raw", "--out", f"{folder}/out"]
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            sys.exit("data_prep.sensaturban failed")
        seconds, peak = time.perf_counter() - start, usage.ru_maxrss / 2**20
    print(f"block of {options.block:,} points: {seconds:.0f} s, peak {peak:.2f} GiB")
    return {"points": options.block, "seconds": round(seconds, 1), "peak_gib": round(peak, 2)}


def main(options: Options) -> None:
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    machine = {"machine": processor(), "cores": len(os.sched_getaffinity(0)), "commit": commit()}
    for part, measure in {"text": text, "laz": laz, "workers": workers, "memory": memory}.items():
        if part in options.parts:
            results[part] = measure(options) | machine
            RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.prepare", description=__doc__))
