"""Kernels alone under the address, undefined-behaviour and thread sanitizers: no torch, no Python."""

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
    "team": (),
    "vector_attention": (
        "attention_relation", "attention_statistics", "attention_aggregate", "norm_attention",
    ),
    "gaussian_filter": ("permutohedral_lattice", "gaussian_filter"),
    "neighbor_search": ("neighbor_search", "point_index", "point_order"),
    "potts_energy": ("potts_energy",),
    "potts_descent": ("potts_graph", "potts_descent"),
    "text_numbers": ("text_numbers",),
    "farthest_point_sample": ("farthest_point_sample", "point_order"),
}  # fmt: skip
COMPILER = os.environ.get("CXX", "g++")
AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512cd")
# gcc takes minutes for the checks left out where vector code is inlined; kernels copy vectors by memcpy.
MEMORY = (
    "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=null,alignment,object-size,vptr",
    "-fno-sanitize-recover=all",
)  # fmt: skip
RUNS = {"portable": MEMORY, "avx512": (*MEMORY, *AVX512), "threads": ("-fsanitize=thread",)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(COMPILER.split()[-1]) is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_found(name: str, run: str, tmp_path: Path) -> None:
    if run in ISAS and torch.ops.pcseg.isa() < ISAS.index(run):
        pytest.skip(f"needs a processor with {run}")
    flags = ["-std=c++20", "-O1", "-pthread", "-ffp-contract=off", *RUNS[run], "-DPCSEG_ONE_ISA"]
    compile_one = [*COMPILER.split(), *flags, "-DPCSEG_ISA=portable", "-c"]
    objects = []
    for source in SOURCES[name]:
        objects.append(str(tmp_path / f"{source}.o"))
        subprocess.run([*compile_one, str(KERNELS / f"{source}.cpp"), "-o", objects[-1]], check=True)
    program = tmp_path / name
    main = [str(HERE / "sanitize" / f"{name}.cpp"), *objects, "-o", str(program)]
    subprocess.run([*COMPILER.split(), *flags, *main], check=True)
    found = subprocess.run([program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[:3000]
