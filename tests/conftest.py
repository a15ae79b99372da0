"""Fixtures that tests of ops and of commands use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from pcseg.errors import run_command
from pcseg.ops._library import HAS_CUDA_KERNELS  # importing it registers the ops

ISAS = ("portable", "avx2", "avx512")
Command = Callable[[Callable, Sequence[object]], tuple[int, str, str]]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test with each instruction set that this processor has."""
    before, wanted = torch.ops.pcseg.isa(), ISAS.index(request.param)
    available = torch.ops.pcseg.limit_isa(wanted)
    try:
        if available != wanted:
            pytest.skip(f"needs a processor with {request.param}")
        yield request.param
    finally:
        torch.ops.pcseg.limit_isa(before)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Runs a test on the CPU, and on a GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU and a CUDA build of torch")
    if request.param == "cuda" and not HAS_CUDA_KERNELS:
        pytest.skip("needs a build of pcseg with CUDA kernels (nvcc at build time)")
    return torch.device(request.param)


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs a test with several numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command's ``main`` as the shell would: exit code, standard output, standard error."""

    def run(main: Callable, arguments: Sequence[object]) -> tuple[int, str, str]:
        capfd.readouterr()
        code = 0
        try:
            run_command(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capfd.readouterr())

    return run
