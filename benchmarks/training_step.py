"""Times training steps: networks beside Open3D-ML's, and methods beside plain supervision; same cloud, same process.

    pip install "open3d-cpu[ml]"
    python -m benchmarks.training_step [--threads 1 2]
    python -m benchmarks.training_step --only method_step relation

The cases are in ``benchmarks/cases/training_step.py`` and ``method_step.py``; results join those of ``benchmarks.ops``.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import tyro

if __package__ is None:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ops import Args, main

OPS = ("training_step", "method_step", "relation")

if __name__ == "__main__":
    args = tyro.cli(Args, default=Args(threads=(2,), only=OPS))
    main(dataclasses.replace(args, only=tuple(name for name in args.only if name in OPS)))
