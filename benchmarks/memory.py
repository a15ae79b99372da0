"""Peak memory of preparing and predicting a large file, built by tiling a real scan.

    python -m benchmarks.memory --model samples/models/ahn3_kpconv.safetensors --points 20000000

Each step runs in a process of its own; its peak is what the system counted for it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import laspy
import numpy as np
import tyro


@dataclass(frozen=True)
class Args:
    model: Path
    """Checkpoint or run folder."""
    scan: Path = Path("samples/ahn3_delft/crop_1.laz")
    """The scan that is repeated, side by side."""
    points: int = 20_000_000
    """At least so many points in all."""
    out: Path = Path("benchmarks/results")


def tile_scan(scan: Path, target: Path, points: int) -> int:
    """Write copies of a scan side by side; returns the number of points."""
    source = laspy.read(scan)
    extent = np.ceil(source.header.maxs - source.header.mins)
    copies = -(-points // len(source.points))
    columns = int(np.ceil(np.sqrt(copies)))
    with laspy.open(target, mode="w", header=source.header) as writer:
        for copy in range(copies):
            part = source.points.copy()
            for axis, steps in (("X", copy % columns), ("Y", copy // columns)):
                index = "XY".index(axis)
                shift = round(steps * extent[index] / source.header.scales[index])
                setattr(part, axis, getattr(part, axis) + shift)
            writer.write_points(part)
    return copies * len(source.points)


def measure(command: list[str]) -> dict[str, float]:
    """Seconds and peak resident memory (GiB) of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"failed: {' '.join(command)}")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_gib": round(usage.ru_maxrss / 2**20, 2)}


def main(args: Args) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        large = folder / "large.laz"
        count = tile_scan(args.scan, large, args.points)
        python = [sys.executable, "-m"]
        report = {
            "points": count,
            "file_mib": round(large.stat().st_size / 2**20, 1),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "prepare": measure([*python, "data_prep.las", str(large), "--out", str(folder / "scenes"), "--quiet"]),
            "predict": measure([*python, "pcseg.predict", str(args.model), str(large), "-o", str(folder / "out")]),
        }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "memory.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Args))
