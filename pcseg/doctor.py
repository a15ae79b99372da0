"""``python -m pcseg.doctor``: the state of this machine, and what to do about what does not fit.

Exit code 0 if the ops work here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

from pcseg.errors import run_command

LIBRARY_TORCH = (2, 11)
OPTIONAL = {
    "torch_scatter": "pip install 'pcseg[scatter]' (a second backend of segment_reduce)",
    "open3d": "pip install open3d-cpu (more file formats, a viewer)",
    "dask": "pip install 'dask[distributed]' (large jobs on a cluster)",
    "transformers": "pip install transformers (image backbones)",
}
REQUIRED = ("numpy", "scipy", "sklearn", "laspy", "lazrs", "plyfile", "torchmetrics", "accelerate", "safetensors")
REQUIRED += ("tensorboard", "pydantic", "tyro", "rich", "yaml", "PIL", "matplotlib")
ISA_NAMES = {0: "portable", 1: "AVX2", 2: "AVX-512"}

State = Literal["ok", "note", "problem"]


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    state: State
    value: str
    advice: str = ""


def main() -> None:
    findings = examine()
    _print(findings)
    if any(finding.state == "problem" for finding in findings):
        sys.exit(1)


def examine() -> list[Finding]:
    """Everything that the report says, in its order; a check that breaks is itself a finding."""
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("Python", _python),
        ("torch", _torch),
        ("nvcc", _nvcc),
        ("libraries", _libraries),
        ("ops", _ops),
        ("NumPy face", _numpy_face),
        ("packages", _packages),
    ]
    findings = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            findings.append(Finding(name, "problem", line, "see the lines above"))
    return findings


def _python() -> list[Finding]:
    text = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    old = sys.version_info < (3, 10)
    return [
        Finding("Python", "problem" if old else "ok", text, "use Python 3.10 or newer" if old else ""),
        Finding("processor", "ok", f"{cores} cores"),
    ]


def _torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [Finding("torch", "problem", "missing", "pip install torch")]
    import torch

    numbers = re.findall(r"\d+", torch.__version__)
    version = (int(numbers[0]), int(numbers[1]))
    wanted = ".".join(map(str, LIBRARY_TORCH))
    old = version < LIBRARY_TORCH
    found = [
        Finding(
            "torch",
            "problem" if old else "ok",
            f"{torch.__version__}, {torch.get_num_threads()} threads",
            f"needs {wanted} or newer: pip install --upgrade torch" if old else "",
        )
    ]
    driver = _run("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    cuda = torch.version.cuda
    if cuda is None:
        advice = "make install CUDA=1 takes the CUDA build of torch" if driver else ""
        found.append(Finding("CUDA in torch", "note" if driver else "ok", "no: the CPU build of torch", advice))
    elif torch.cuda.is_available():
        found.append(Finding("CUDA in torch", "ok", cuda))
    else:
        advice = f"update the NVIDIA driver for CUDA {cuda}" if driver else "no driver answers; the CPU is used"
        found.append(Finding("CUDA in torch", "note", f"{cuda}, but no GPU is usable", advice))
    if cuda is not None and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            size = properties.total_memory / 2**30
            text = f"{properties.name}, {size:.0f} GiB, sm_{properties.major}{properties.minor}"
            found.append(Finding(f"GPU {index}", "ok", text))
    else:
        found.append(Finding("GPU", "note" if driver else "ok", driver or "none"))
    return found


def _nvcc() -> list[Finding]:
    home = os.environ.get("CUDA_HOME")
    path = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    if path is None:
        return [Finding("nvcc", "ok", "none: a build makes the CPU library only")]
    release = re.search(r"release ([\d.]+)", _run(path, "--version"))
    return [Finding("nvcc", "ok", f"{release[1] if release else 'unknown version'} at {path}")]


def _libraries() -> list[Finding]:
    import torch

    from pcseg.ops._library import CPU_LIBRARY, CUDA_LIBRARY, HAS_CUDA_KERNELS

    found = [Finding("CPU kernels", "ok", str(CPU_LIBRARY))]
    if HAS_CUDA_KERNELS:
        found.append(Finding("CUDA kernels", "ok", str(CUDA_LIBRARY)))
    elif CUDA_LIBRARY.exists():
        found.append(Finding("CUDA kernels", "ok", "built, not loaded: torch is the CPU build"))
    else:
        needed = torch.version.cuda is not None and torch.cuda.is_available()
        advice = "install the CUDA toolkit (nvcc), then: python setup.py build_ext --inplace" if needed else ""
        found.append(Finding("CUDA kernels", "note" if needed else "ok", "not built", advice))
    return found


def _ops() -> list[Finding]:
    import torch

    from pcseg import ops
    from pcseg.ops._library import HAS_CUDA_KERNELS

    isa = int(torch.ops.pcseg.isa())
    found = [Finding("instruction set", "ok", ISA_NAMES.get(isa, str(isa)))]
    devices = ["cpu"] + (["cuda"] if HAS_CUDA_KERNELS and torch.cuda.is_available() else [])
    for device in devices:
        values = torch.arange(6.0, device=device).view(3, 2)
        offsets = torch.tensor([0, 1, 3], device=device)
        sums = ops.segment_reduce(values, offsets, "sum")
        right = sums.tolist() == [[0.0, 1.0], [6.0, 8.0]]
        advice = "" if right else "build again: python setup.py build_ext --inplace"
        text = "give the right answer" if right else f"answer {sums.tolist()}"
        found.append(Finding(f"ops on {device}", "ok" if right else "problem", text, advice))
    return found


def _numpy_face() -> list[Finding]:
    if importlib.util.find_spec("pcseg._numpy") is None:
        advice = "pip install . under this Python, if you want it"
        return [Finding("NumPy face", "note", "not built for this Python: optional", advice)]
    importlib.import_module("pcseg._numpy")
    return [Finding("NumPy face", "ok", "built")]


def _packages() -> list[Finding]:
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    found = [
        Finding("packages", "problem", f"missing: {', '.join(missing)}", "pip install .")
        if missing
        else Finding("packages", "ok", "all there")
    ]
    names = importlib.metadata.packages_distributions()
    for module, advice in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            found.append(Finding(module, "ok", "not installed: optional", advice))
        else:
            owner = names.get(module, [module])[0]
            found.append(Finding(module, "ok", importlib.metadata.version(owner)))
    return found


def _run(*command: str) -> str:
    """Standard output of a program, or nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _print(findings: list[Finding]) -> None:
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        for finding in findings:
            print(f"{finding.state:8} {finding.name}: {finding.value} {finding.advice}")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    marks = {"ok": "[green]ok", "note": "[yellow]note", "problem": "[red]problem"}
    for finding in findings:
        advice = f"\n-> {finding.advice}" if finding.advice else ""
        table.add_row(marks[finding.state], finding.name, escape(finding.value + advice))
    Console(soft_wrap=False).print(table)


if __name__ == "__main__":
    run_command(main)
