"""Speed of preparation: text of an S3DIS room beside numpy and pandas, workers beside one, memory of a large block.

python -m benchmarks.prepare [--points 1000000] [--block 40000000]
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.case import optional
from pcseg.io.text_columns import parse_columns

REPEATS = 5
ROOMS = 8


@dataclass(frozen=True)
class Options:
    """Time preparation on made-up data."""

    points: int = 1_000_000
    """Lines of the text."""
    block: int = 40_000_000
    """Points of the block whose memory is measured; 0: not measured."""


def room_text(count: int, seed: int = 0) -> bytes:
    """Lines as an S3DIS object file has them."""
    rng = np.random.default_rng(seed)
    coords, colors = rng.random((count, 3)) * (9, 7, 3) - (20, 0, 0), rng.integers(0, 256, (count, 3))
    rows = zip(coords.tolist(), colors.tolist(), strict=True)
    return "".join(f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}\n" for (x, y, z), (r, g, b) in rows).encode()


def best(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the median of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def parsing(count: int) -> None:
    pandas = optional("pandas")
    data = room_text(count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "room.txt"
        file.write_bytes(data)
        contenders = {
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
        times = {name: best(call) for name, call in contenders.items()}
    print(f"text of {count:,} points, {len(data) / 2**20:.0f} MiB, median of {REPEATS}")
    ours = times["pcseg, one thread"]
    for name, seconds in times.items():
        print(f"  {name}: {seconds:.3f} s, {count / seconds / 1e6:.2f} M points/s, {seconds / ours:.2f} x ours")


def command(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def workers(count: int) -> None:
    """Rooms of ``count`` points each."""
    with tempfile.TemporaryDirectory() as folder:
        for room in range(1, ROOMS + 1):
            target = Path(folder) / f"raw/Area_1/office_{room}/Annotations"
            target.mkdir(parents=True)
            (target / "clutter_1.txt").write_bytes(room_text(count, room))
        took = {}
        for number in (1, 2):
            out = f"{folder}/out{number}"
            took[number] = command(
                ["data_prep.s3dis", "--raw", f"{folder}/raw", "--out", out, "--workers", str(number), "--quiet"]
            )
    print(
        f"{ROOMS} rooms of {count:,} points: one worker {took[1]:.1f} s, two {took[2]:.1f} s, "
        f"{took[1] / took[2]:.2f} times as fast, on {os.cpu_count()} cores"
    )


def memory(count: int) -> None:
    """A SensatUrban block of ``count`` points."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "raw/birmingham_block_0.ply"
        file.parent.mkdir()
        fields = [(axis, "<f4") for axis in "xyz"] + [(name, "u1") for name in ("red", "green", "blue", "class")]
        head = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
        head += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
        rng = np.random.default_rng(0)
        with file.open("wb") as out:
            out.write(("\n".join([*head, "end_header"]) + "\n").encode())
            for start in range(0, count, 1_000_000):
                part = np.zeros(min(1_000_000, count - start), np.dtype(fields))
                for axis, width in zip("xyz", (400, 400, 30), strict=True):
                    part[axis] = rng.random(len(part)) * width
                part["red"], part["class"] = rng.integers(0, 256, len(part)), rng.integers(0, 13, len(part))
                out.write(part.data)
        program = (
            "import resource, sys; from pathlib import Path; from data_prep.sensaturban import main; "
            "main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        start = time.perf_counter()
        arguments = ["--raw", f"{folder}/raw", "--out", f"{folder}/out", "--quiet"]
        done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
        seconds, peak = time.perf_counter() - start, int(done.stdout.split()[-1]) / 2**20
    print(f"block of {count:,} points, 0.2 m voxels counted: {seconds:.0f} s, peak {peak:.2f} GiB")


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.prepare", description=Options.__doc__)
    parsing(options.points)
    workers(options.points)
    if options.block:
        memory(options.block)


if __name__ == "__main__":
    main()
