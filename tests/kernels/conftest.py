from __future__ import annotations

import cuda_on_cpu
import pytest


@pytest.fixture(scope="session")
def cuda_ops():
    """The CUDA half of the ops, run by a CPU."""
    return cuda_on_cpu.load()


@pytest.fixture(params=["forward", "reverse", "random"])
def thread_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The order in which a block's threads run; results must not depend on it."""
    monkeypatch.setenv("CUDA_ON_CPU_ORDER", request.param)
    return request.param
