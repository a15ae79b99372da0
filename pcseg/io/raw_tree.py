"""A release as it was downloaded: a folder, or a zip file that is read in place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from pcseg.errors import InputError

_BLOCK = 1 << 20
# RuntimeError: encrypted, or packed in a way that zipfile does not know
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True, slots=True)
class RawTree:
    """The files under a folder or in a zip file, by their names with ``/`` between the parts."""

    path: Path
    zipped: bool
    sizes: dict[str, int]  # bytes of each file
    refused: tuple[str, ...]  # names in a zip file that lead out of it

    @classmethod
    def open(cls, path: Path | str) -> RawTree:
        """List the files; nothing is read but a zip file's directory.

        Raises:
            InputError: no such folder or file, or a file that is no whole zip file.
        """
        path = Path(path)
        if path.is_dir():
            sizes = {}
            for folder, folders, names in os.walk(path, followlinks=True):
                folders.sort()
                for name in sorted(names):
                    file = Path(folder) / name
                    if file.is_file():
                        sizes[file.relative_to(path).as_posix()] = file.stat().st_size
            return cls(path, False, sizes, ())
        if not path.exists():
            raise InputError(f"{path}: no such folder or zip file; check the path")
        archive = _archive(path)
        sizes, refused = {}, []
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if _leads_out(entry.filename):
                refused.append(entry.filename)
            else:
                sizes[entry.filename] = entry.file_size
        return cls(path, True, sizes, tuple(refused))

    def only(self, names: Iterable[str]) -> RawTree:
        """The same with these files alone: little to send to another process."""
        return RawTree(self.path, self.zipped, {name: self.sizes[name] for name in names}, ())

    def refusals(self) -> dict[str, str]:
        """Why each refused name is not read, by the file as messages name it."""
        return {self.where(name): "its name leads out of the zip file" for name in self.refused}

    def where(self, name: str) -> str:
        """A file as messages name it."""
        return f"{self.path}:{name}" if self.zipped else str(self.path / name)

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """A file, to be read from its start.

        Raises:
            InputError: damage of the zip file found on the way.
        """
        if not self.zipped:
            with (self.path / name).open("rb") as file:
                yield file
            return
        try:
            with _archive(self.path).open(name) as file:
                yield file
        except _DAMAGE as error:
            raise InputError(f"{self.where(name)}: damaged zip file ({error}); download it again") from error

    def read(self, name: str) -> bytes:
        """The whole content of a file; see :meth:`stream`."""
        with self.stream(name) as file:
            return file.read()

    @contextlib.contextmanager
    def file(self, name: str, near: Path | None = None) -> Iterator[Path]:
        """A path under which the file can be opened: its own, or that of a temporary copy out of the zip file.

        The copy lies in the folder ``near``, or where the system keeps temporary files. An InputError in the block that
        names the copy names the file in the zip file instead.

        Raises:
            OSError: no room for the copy; ``filename`` is the folder.
        """
        if not self.zipped:
            yield self.path / name
            return
        # The same kind of name as that of a folder being written: a run that is killed leaves it, the next clears it.
        with tempfile.TemporaryDirectory(prefix=".copy-", suffix=f".{os.getpid()}.part", dir=near) as folder:
            copy = Path(folder) / PurePosixPath(name).name
            try:
                with self.stream(name) as source, copy.open("wb") as target:
                    while block := source.read(_BLOCK):
                        target.write(block)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(Path(folder).parent / copy.name)) from error
            try:
                yield copy
            except InputError as error:
                raise InputError(str(error).replace(str(copy), self.where(name))) from error

    def digest(self, names: Iterable[str]) -> str:
        """SHA-256 over the names and contents of files, in the order of their names.

        A single file has the digest of its content alone, as ``sha256sum`` prints it.
        """
        names = sorted(names)
        parts = []
        for name in names:
            digest = hashlib.sha256()
            with self.stream(name) as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
            parts.append((PurePosixPath(name).name, digest.hexdigest()))
        if len(parts) == 1:
            return parts[0][1]
        return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in parts).encode()).hexdigest()


def _archive(path: Path) -> zipfile.ZipFile:
    status = path.stat()
    return _opened(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _opened(path: Path, changed: int, size: int) -> zipfile.ZipFile:
    """One open archive a process: the directory of a large one takes a while to read."""
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise InputError(f"{path}: no whole zip file ({error}); download it again") from error


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in path.parts[0]
