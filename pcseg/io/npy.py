"""Array files written and read in parts, so that no array has to fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pcseg.errors import InputError


class NpyWriter:
    """An ``.npy`` file that grows row by row; its header says how many rows came once it is closed.

    Plain writes: a full disk raises ``OSError``, where a memory map would end the process.
    """

    def __init__(self, path: Path, dtype: np.dtype | type, row_shape: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.row_shape = path, np.dtype(dtype), row_shape
        self.rows = 0
        self._file = path.open("wb")
        self._header()
        self._data_start = self._file.tell()

    def _header(self) -> None:
        # NumPy pads the header so that the first axis can grow in place.
        description = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, description)

    def append(
        self,
        values: np.ndarray,  # (n, *row_shape)
    ) -> None:
        assert values.shape[1:] == self.row_shape, (self.path.name, values.shape)
        self._file.write(np.ascontiguousarray(values, self.dtype).data)
        self.rows += len(values)

    def close(self) -> None:
        """Write the final header."""
        self._file.seek(0)
        self._header()
        assert self._file.tell() == self._data_start
        self._file.close()

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def open_npy(path: Path) -> np.ndarray:
    """Memory-map an array file, never unpickling.

    Raises:
        InputError: missing, truncated, or no array file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; prepare the scene again")
    try:
        if path.stat().st_size and _rows_without_data(path):
            return np.load(path, allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: no whole array file ({error}); prepare the scene again") from error


def _rows_without_data(path: Path) -> bool:
    """An empty array cannot be mapped."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        shape = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(
            file
        )[0]
    return 0 in shape


def read_npy_chunks(path: Path, chunk_size: int) -> Iterator[np.ndarray]:
    """The rows of an array file in parts; unlike a memory map nothing stays resident."""
    array = open_npy(path)
    dtype, row_shape, total = array.dtype, array.shape[1:], array.shape[0]
    per_row = int(np.prod(row_shape, dtype=np.int64))
    offset = getattr(array, "offset", 0)
    del array
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, total, chunk_size):
            count = min(chunk_size, total - start)
            yield np.fromfile(file, dtype, count * per_row).reshape(count, *row_shape)
