"""Commands as the shell would run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from pcseg.errors import run_command

Command = Callable[[Callable, Sequence[object]], tuple[int, str, str]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command's ``main``: exit code, standard output, standard error."""

    def run(main: Callable, arguments: Sequence[object]) -> tuple[int, str, str]:
        capfd.readouterr()
        code = 0
        try:
            run_command(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capfd.readouterr())

    return run
