"""Times every op beside its peers: same input, same threads, one process.

    python -m benchmarks.ops                             # everything; about half an hour on 2 cores
    python -m benchmarks.ops --only knn grid_subsample   # some ops
    python -m benchmarks.ops --device cuda               # on a GPU

Peers are whatever of these is installed: pykdtree, pynanoflann, scipy, scikit-learn, open3d, torch-cluster,
torch-scatter, fpsample, pydensecrf2. A process of its own for each number of threads, bound to so many cores, so that
every library gets the same. Results go to benchmarks/results/ops_*.json and benchmarks/README.md is written from them
(``python -m benchmarks.table``).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS")


@dataclass(frozen=True)
class Args:
    only: tuple[str, ...] = ()
    """Ops to time; all where none is named."""
    input: tuple[str, ...] = ()
    """Inputs to time on; all where none is named."""
    threads: tuple[int, ...] = (1, 2)
    device: str = "cpu"
    isa: str = ""
    """Cap of the instruction set: portable, avx2 or avx512."""
    repeats: int = 7
    peers: bool = True
    budget_s: float = 1e9
    """No further case begins after so many seconds at one number of threads."""
    out: Path = Path("benchmarks/results")


def processor() -> str:
    """Model name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def run(args: Args, threads: int) -> list[dict]:
    """All cases at one number of threads, in a process of its own."""
    environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", **dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if args.isa:
        environment["PCSEG_ISA"] = args.isa
    cores = sorted(os.sched_getaffinity(0))[:threads] if args.device == "cpu" else sorted(os.sched_getaffinity(0))
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        options = {"only": args.only, "input": args.input, "device": args.device, "repeats": args.repeats}
        options |= {"peers": args.peers, "threads": threads, "out": result.name, "budget_s": args.budget_s}
        command = [sys.executable, "-m", "benchmarks.timing", json.dumps(options)]
        subprocess.run(command, env=environment, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
        return json.loads(Path(result.name).read_text() or "[]")


def main(args: Args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    name = "_".join(["ops", args.device, *([args.isa] if args.isa else [])])
    for threads in args.threads:
        rows = run(args, threads)
        path = args.out / f"{name}_{threads}t.json"
        timed = {(row["op"], row["variant"], row["input"]) for row in rows}
        kept = json.loads(path.read_text())["cases"] if path.exists() and (args.only or args.input) else []
        rows = [row for row in kept if (row["op"], row["variant"], row["input"]) not in timed] + rows
        head = {"machine": processor(), "threads": threads, "device": args.device, "isa": args.isa or "best"}
        path.write_text(json.dumps(head | {"cases": [row | {"commit": row.get("commit", commit())} for row in rows]}))
        print(f"{len(timed)} cases: {path}")


if __name__ == "__main__":
    main(tyro.cli(Args))
