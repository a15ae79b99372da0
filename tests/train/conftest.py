"""One thread a process: tests run beside others, and toy clouds have nothing to share out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from pcseg.errors import run_command
from tests.train.toy import write_scenes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy scenes; tests leave it as it is."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


Command = Callable[[Callable, Sequence[object]], tuple[int, str, str]]


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
