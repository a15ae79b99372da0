"""Memory that runs out inside a kernel is an exception, and the process goes on."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from pcseg import ops

coords = torch.rand(1_500_000, 3)
call = {
    "knn": lambda: ops.knn(coords, coords, 1),
    "grid_subsample": lambda: ops.grid_subsample(coords, 1e-3),
    "farthest_point_sample": lambda: ops.farthest_point_sample(coords, 5000),
}[sys.argv[1]]
ops.knn(coords[:50_000], coords[:50_000], 1)  # threads and their stacks exist from here on
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for megabytes in (4, 20, 40):  # runs out at the first allocation, or at a later one
    resource.setrlimit(resource.RLIMIT_AS, (size + (megabytes << 20), resource.RLIM_INFINITY))
    try:
        call()
    except (RuntimeError, MemoryError) as error:
        print("raised:", str(error).splitlines()[0] if str(error) else type(error).__name__)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
call()
print("and works again")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("op", ["knn", "grid_subsample", "farthest_point_sample"])
def test_out_of_memory_is_an_exception(op: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, op], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "and works again"
    assert sum(line.startswith("raised:") for line in lines) >= 2, lines
