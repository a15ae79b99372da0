"""Runs the cases in this process and writes what they took; ``benchmarks.ops`` starts it with the threads set."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import json
import mmap
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from benchmarks.case import Case
from benchmarks.clouds import Clouds

MODULES = sorted(path.stem for path in (Path(__file__).parent / "cases").glob("[a-z]*.py"))
FIRST_TURNS, FAR_BEHIND = 3, 2.0  # after so many turns only peers within this factor of the fastest go on
libc = ctypes.CDLL(ctypes.util.find_library("c"))


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(key)) * 1024


def peak_bytes(call: Callable[[], object]) -> int:
    """What one call adds to this process at its highest: results and scratch."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    call()
    return max(0, resident("VmHWM") - before)


def seconds(call: Callable[[], object]) -> float:
    """Until the result is there, on a GPU too."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    took = time.perf_counter() - start
    del result
    return took


def touch(size: int) -> None:
    """Write to so many bytes of fresh memory and give them back: on a virtual machine free memory may be the host's,
    and whoever takes it first pays for it. So nobody pays for what another has freed."""
    if size >= mmap.PAGESIZE:
        with mmap.mmap(-1, size) as block:
            for start in range(0, size, mmap.PAGESIZE):
                block[start] = 1


def summary(times: list[float]) -> dict[str, float | int]:
    low, median, high = (round(1e3 * float(q), 4) for q in np.quantile(times, (0.25, 0.5, 0.75)))
    return {"median_ms": median, "q25_ms": low, "q75_ms": high, "runs": len(times)}


def measure(case: Case, repeats: int, peers: bool) -> dict:
    """Ours and the peers in turn, so that a slower spell of the machine meets all of them."""
    if case.check:
        case.check()
    contenders = {"pcseg": case.ours} | (case.peers if peers else {})
    peak = {}
    for name, call in list(contenders.items()):
        try:
            if "compiled" in name:
                call()  # compiles, in memory that is not the step's
            peak[name] = peak_bytes(call)  # the warm-up, too
        except Exception as error:
            if name == "pcseg":
                raise
            print(f"{name} fails: {str(error).splitlines()[0]}", flush=True)
            del contenders[name]
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        fastest = min((min(times[name]) for name in times if turn and name != "pcseg"), default=0.0)
        for name, call in contenders.items():
            if turn < FIRST_TURNS or name == "pcseg" or min(times[name]) < FAR_BEHIND * fastest:
                if not torch.cuda.is_available():
                    touch(peak[name])
                times[name].append(seconds(call))
    return {name: summary(times[name]) | {"peak_mib": round(peak[name] / 2**20, 1)} for name in contenders}


def copy_bandwidth(device: str) -> float:
    """Bytes a second read and written by a copy far larger than the caches."""
    source = torch.zeros(1 << 26, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(7))


def peak_flops(device: str) -> float:
    """Floating-point operations a second of the better of two matrix products in float32."""
    from pcseg import ops

    a, b = torch.randn(8192, 256, device=device), torch.randn(256, 256, device=device)
    count = 2 * a.shape[0] * a.shape[1] * b.shape[0]
    best = min(
        seconds(lambda call=call: call(a, b)) for call in (torch.nn.functional.linear, ops.linear) for _ in range(7)
    )
    return count / best


def cases(clouds: Clouds, only: list[str], inputs: list[str]) -> Iterator[Case]:
    for name in MODULES:
        module = import_module(f"benchmarks.cases.{name}")
        if only and not set(only) & set(module.OPS):
            continue  # its inputs need not be made
        for case in module.cases(clouds):
            if (not only or case.op in only) and (not inputs or case.input in inputs):
                yield case


def main(options: dict) -> None:
    torch.set_num_threads(options["threads"])
    device = options["device"]
    bandwidth, flops = copy_bandwidth(device), peak_flops(device)
    rows, begin = [], time.monotonic()
    for case in cases(Clouds(device), options["only"], options["input"]):
        if rows and time.monotonic() - begin > options["budget_s"]:
            print(f"out of time: {case.op} {case.variant} {case.input} and what follows are left out", flush=True)
            break
        timed = measure(case, options["repeats"], options["peers"])
        ours = timed.pop("pcseg")
        floor = 1e3 * max(case.bytes_moved / bandwidth, case.flops / flops)
        rows.append(
            {
                "op": case.op,
                "variant": case.variant,
                "input": case.input,
                "rows": case.rows,
                "floor_ms": round(floor, 4),
            }
            | {"ours": ours, "peers": timed}
        )
        best = min(((t["median_ms"], name) for name, t in timed.items()), default=None)
        ratio = f"{best[0] / ours['median_ms']:6.1f} x {best[1]}" if best else ""
        print(
            f"{options['threads']}T {case.op:22} {case.variant:24} {case.input:12} {ours['median_ms']:9.2f} ms "
            f"{ours['peak_mib']:7.0f} MiB  {ratio}",
            flush=True,
        )
        Path(options["out"]).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
