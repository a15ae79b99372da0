"""Loads the compiled ops; checks shared by every op's Python face."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

LIBRARIES = Path(__file__).resolve().parent.parent / "lib"
CPU_LIBRARY = LIBRARIES / "libpcseg_cpu.so"
CUDA_LIBRARY = LIBRARIES / "libpcseg_cuda.so"


def _load() -> bool:
    """Register the ops with torch; returns whether the CUDA kernels are among them."""
    if not CPU_LIBRARY.exists():
        raise ImportError(
            f"{CPU_LIBRARY} is missing: build it with `pip install .` or `python setup.py build_ext --inplace`"
        )
    torch.ops.load_library(str(CPU_LIBRARY))
    if torch.version.cuda is None or not CUDA_LIBRARY.exists():
        return False
    torch.ops.load_library(str(CUDA_LIBRARY))
    return True


HAS_CUDA_KERNELS = _load()


def check_device(op: str, **tensors: Tensor | None) -> None:
    """All tensors on one device that this build has kernels for."""
    devices = {t.device for t in tensors.values() if t is not None}
    if len(devices) > 1:
        raise ValueError(f"{op}: {', '.join(tensors)} must be on one device, got {sorted(map(str, devices))}")
    device = next(iter(devices))
    if device.type == "cuda" and not HAS_CUDA_KERNELS:
        raise ValueError(
            f"{op}: the input is on {device}, but this build of pcseg has no CUDA kernels. Rebuild where nvcc is "
            "installed (`python -m pcseg.doctor` tells), or move the input to the CPU"
        )
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{op}: no kernel for device {device}; move the input to the CPU or to CUDA")


def check_offsets(op: str, name: str, offsets: Tensor) -> None:
    """(B + 1,) int64."""
    if offsets.ndim != 1 or offsets.shape[0] < 1:
        raise ValueError(f"{op}: {name} must be (B + 1,), got {tuple(offsets.shape)}")
    if offsets.dtype != torch.int64:
        raise TypeError(f"{op}: {name} must be int64, got {offsets.dtype}")


def check_float(op: str, name: str, value: Tensor, shape: str, ndim: int = 2) -> None:
    """float32 or float64 with ``ndim`` dimensions, named ``shape`` in messages; under autocast what it casts too."""
    if value.ndim != ndim:
        raise ValueError(f"{op}: {name} must be {shape}, got {tuple(value.shape)}")
    allowed = (torch.float32, torch.float64)
    if torch.is_autocast_enabled(value.device.type):
        allowed = (*allowed, torch.float16, torch.bfloat16)
    if value.dtype not in allowed:
        raise TypeError(f"{op}: {name} must be float32 or float64, got {value.dtype}")


def call(op, *args):
    """Call a compiled op; what its kernel finds wrong with the values of the input becomes a ``ValueError``."""
    try:
        return op(*args)
    except RuntimeError as error:
        line = str(error).partition("\n")[0]
        _, found, message = line.partition("pcseg::")
        if not found:
            raise
        raise ValueError(message) from None
