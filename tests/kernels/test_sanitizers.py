"""Kernels alone under the address and undefined-behaviour sanitizers: no torch, no Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ISAS = ("portable", "avx2", "avx512")
KERNELS = HERE.parents[1] / "csrc" / "kernels"
SOURCES = {
    "voxels": (
        "grid_subsample", "voxel_features", "segment_reduce", "gather_neighbors", "local_geometry",
        "height_above_minimum",
    ),
    "gaussian_filter": ("permutohedral_lattice", "gaussian_filter"),
    "neighbor_search": ("neighbor_search", "point_index", "point_order"),
}  # fmt: skip
COMPILER = os.environ.get("CXX", "g++")
AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512cd")
ISA_FLAGS = {"portable": (), "avx512": AVX512}
# gcc takes minutes for the checks left out where vector code is inlined; kernels copy vectors by memcpy.
SANITIZE = (
    "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=null,alignment,object-size,vptr",
    "-fno-sanitize-recover=all",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(COMPILER.split()[-1]) is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("isa", ISA_FLAGS)
@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_found(name: str, isa: str, tmp_path: Path) -> None:
    if torch.ops.pcseg.isa() < ISAS.index(isa):
        pytest.skip(f"needs a processor with {isa}")
    flags = ["-std=c++20", "-O1", "-pthread", "-ffp-contract=off", *SANITIZE, "-DPCSEG_ONE_ISA"]
    compile_one = [*COMPILER.split(), *flags, *ISA_FLAGS[isa], "-DPCSEG_ISA=portable", "-c"]
    objects = []
    for source in SOURCES[name]:
        objects.append(str(tmp_path / f"{source}.o"))
        subprocess.run([*compile_one, str(KERNELS / f"{source}.cpp"), "-o", objects[-1]], check=True)
    program = tmp_path / name
    main = [str(HERE / "sanitize" / f"{name}.cpp"), *objects, "-o", str(program)]
    subprocess.run([*COMPILER.split(), *flags, *main], check=True)
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[:3000]
