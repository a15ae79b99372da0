"""Builds the CUDA half of the ops for a CPU (cuda_runtime.h beside this file says how) and registers it with torch.

``load()`` gives ``torch.ops.pcseg_cuda_on_cpu``: the .cu files and their bindings, with the schemas of ``pcseg``.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import torch

import pcseg.ops  # noqa: F401  (registers the schemas)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "cuda_on_cpu"
NAMESPACE = "pcseg_cuda_on_cpu"
_TORCH = Path(torch.__file__).parent


def build() -> Path:
    """The library, up to date."""
    kernels = [f for f in sorted((ROOT / "csrc/kernels").glob("*.cu")) if f.name != "sort_scan.cu"]
    bindings = sorted((ROOT / "csrc/bindings").glob("cuda_*.cpp"))
    flags = "-std=c++20 -O1 -g1 -fPIC -ffp-contract=off -Wall -Wextra -Werror -Wno-unknown-pragmas"
    defines = f"-DPCSEG_CUDA_ON_CPU -DTORCH_TARGET_VERSION=0x020b000000000000 -isystem {_TORCH}/include"
    lines = [
        f"builddir = {BUILD}",
        "rule cxx",
        f"  command = {os.environ.get('CXX', 'g++')} {flags} {defines} -I{HERE} -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {os.environ.get('CXX', 'g++')} -shared $in -o $out -L{_TORCH}/lib -ltorch_cpu",
    ]
    objects = []
    for source in [*kernels, *bindings, *sorted(HERE.glob("*.cpp"))]:
        objects.append(BUILD / f"{source.name}.o")
        lines.append(f"build {objects[-1]}: cxx {source}")
    library = BUILD / f"lib{NAMESPACE}.so"
    lines.append(f"build {library}: link {' '.join(map(str, objects))}")
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "build.ninja").write_text("\n".join(lines) + "\n")
    ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts")) / "ninja")
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    done = subprocess.run([ninja, "-f", str(BUILD / "build.ninja"), "-j", jobs], capture_output=True, text=True)
    assert done.returncode == 0, f"the CUDA kernels do not build for a CPU:\n{done.stdout}{done.stderr}"
    return library


@functools.cache
def load():
    path = build()
    library = torch.library.Library(NAMESPACE, "DEF")
    load.library = library  # its registrations end with it
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("pcseg::"):
            library.define(str(schema).removeprefix("pcseg::"))
    torch.ops.load_library(str(path))
    return getattr(torch.ops, NAMESPACE)
