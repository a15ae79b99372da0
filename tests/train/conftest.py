"""One thread a process: tests run beside others, and toy clouds have nothing to share out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from pcseg.errors import run_command
from pcseg.train import train
from tests.train.toy import write_scenes
from tests.train.toy_images import image_config, volume_config, write_images, write_volumes


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


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy pictures and their masks; tests leave it as it is."""
    return write_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="session")
def pixel_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a point network on the pixels of pictures."""
    folder = tmp_path_factory.mktemp("pixel_run")
    train(image_config(pictures, steps=25), folder)
    return folder


@pytest.fixture(scope="session")
def volume_run(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volume_run")
    train(volume_config(volumes, steps=15), folder)
    return folder


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
