"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(target: Path | str) -> Iterator[Path]:
    """A temporary name beside ``target`` to write to; it takes the target's place when the block ends well.

    Whatever goes wrong in the block, Ctrl-C included, the temporary file is removed and the target is as it was.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full; ``filename`` is the target.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _blame(target):
            yield temporary
            os.replace(temporary, target)  # noqa: PTH105 - the name says what the module is about
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(target: Path | str) -> Iterator[Path]:
    """Like :func:`replacing`, for a folder: an older folder of that name is removed once the new one is whole."""
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        with _blame(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            if target.exists():
                target.rename(old)
            temporary.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_writable(target: Path | str) -> None:
    """Refuse a file that could not be written, before the work for it begins. Nothing is made.

    Raises:
        OSError: its folder, or the first one above it that is there, takes no file; ``filename`` is the target.
    """
    _try_to_write(next(parent for parent in Path(target).absolute().parents if parent.exists()), Path(target))


def check_folder(folder: Path) -> None:
    """Make a folder and write a file in it: better now than after an hour of training.

    Raises:
        OSError: it cannot be written; ``filename`` is the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _try_to_write(folder, folder)


def _try_to_write(folder: Path, blamed: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(blamed)) from error


@contextlib.contextmanager
def _blame(target: Path) -> Iterator[None]:
    """An error of a write carries no file name, and one of the temporary file a name nobody knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        if error.filename is None or ".part" in str(error.filename):
            raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
        raise
