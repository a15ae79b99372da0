"""Times training steps beside Open3D-ML's networks: lists, forward, loss, backward; same cloud, same process.

    pip install "open3d-cpu[ml]"
    python -m benchmarks.training_step [--threads 1 2]

The cases are in ``benchmarks/cases/training_step.py``; results join those of ``benchmarks.ops``.
"""

from __future__ import annotations

import dataclasses

import tyro

from benchmarks.ops import Args, main

if __name__ == "__main__":
    main(dataclasses.replace(tyro.cli(Args, default=Args(threads=(2,))), only=("training_step",)))
