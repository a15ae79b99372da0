"""Text of numbers, one point a line: mended where a byte is damaged, else refused by its line."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np

from pcseg import numpy_ops
from pcseg.errors import InputError

REMEDY = "copy or download it again"
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MOST_REPAIRS = 20  # a file with more damaged lines is no text


@dataclass(frozen=True, slots=True)
class TextTable:
    """The numbers of a text file, and what had to be mended to read them."""

    columns: tuple[np.ndarray, ...]  # each (N,) float64
    repairs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.columns[0])


def parse_columns(
    data: bytes,
    where: str,
    *,
    num_columns: int,
    delimiter: str = " ",
    first_line: int = 1,
    threads: bool = False,
) -> TextTable:
    """Parse lines of ``num_columns`` numbers.

    Blanks may be doubled and lines may end the Windows way. A control byte is read as the blank or the digit that it
    once was (a digit with one bit lost), where the line then has the right number of columns; each one is reported.

    Args:
        where: the file, for messages.
        delimiter: one character; a blank stands for any run of blanks and tabs.
        first_line: number of the first line in the file, where it is read in parts.
        threads: parse on all cores; leave it off where several processes work.

    Raises:
        InputError: no line, another number of columns or something that is no number, with the line.
    """
    # Looking for one byte is far faster than looking for two.
    repairs = ["Windows line ends"] if b"\r" in data and b"\r\n" in data else []
    parse = _kernel if numpy_ops.available() else _arrow
    columns = parse(data, num_columns, delimiter, threads)
    if columns is None:
        mended, found = _mend(data, num_columns, delimiter, first_line)
        repairs += found
        columns = parse(_tidy(mended, delimiter), num_columns, delimiter, threads)
        if columns is None:
            raise _blame(mended, where, num_columns, delimiter, first_line)
    if not len(columns[0]):
        raise InputError(f"{where}: holds no points; {REMEDY}")
    return TextTable(columns, tuple(repairs))


def _kernel(data: bytes, num_columns: int, delimiter: str, threads: bool) -> tuple[np.ndarray, ...] | None:
    """The columns, or None where something is not as it should be."""
    columns = numpy_ops.text_numbers(data, num_columns, delimiter=delimiter, threads=None if threads else 1)
    return None if columns is None else tuple(columns)


def _arrow(data: bytes, num_columns: int, delimiter: str, threads: bool) -> tuple[np.ndarray, ...] | None:
    """The same where the kernels are not built for this Python; it is slower, and numbers have no plus sign."""
    import pyarrow as pa
    from pyarrow import csv

    names = [str(index) for index in range(num_columns)]
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(use_threads=threads, column_names=names),
            csv.ParseOptions(delimiter=delimiter, quote_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64()), null_values=[]),
        )
    except pa.ArrowInvalid:
        return None
    return tuple(table.column(index).to_numpy() for index in range(num_columns))


def _tidy(data: bytes, delimiter: str) -> bytes:
    """One blank between numbers, none at either end of a line."""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if delimiter != " ":
        return data
    data = re.sub(rb"[ \t]+", b" ", data).replace(b" \n", b"\n").replace(b"\n ", b"\n")
    return data.strip(b" ")


def _mend(data: bytes, num_columns: int, delimiter: str, first_line: int) -> tuple[bytes, list[str]]:
    """The text with control bytes replaced where that makes a line whole, and a word on each."""
    starts: dict[int, int] = {}
    for match in _CONTROL.finditer(data):
        starts.setdefault(data.rfind(b"\n", 0, match.start()) + 1, match.start())
        if len(starts) > _MOST_REPAIRS:
            return data, []
    parts, repairs, done = [], [], 0
    for start in starts:
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        line = data[start:end]
        mended, what = _mend_line(line, num_columns, delimiter)
        if mended is not None:
            number = data.count(b"\n", 0, start) + first_line
            repairs.append(f"line {number}: control byte read as {what} in '{line.decode('latin-1').strip()!r}'")
            parts += [data[done:start], mended]
            done = end
    return b"".join([*parts, data[done:]]), repairs


def _mend_line(line: bytes, num_columns: int, delimiter: str) -> tuple[bytes | None, str]:
    blank = _CONTROL.sub(delimiter.encode(), line)
    if _fault(blank, num_columns, delimiter) is None:
        return blank, "a blank"
    digits = bytes(byte | 0x20 if 0x10 <= byte <= 0x19 else byte for byte in line)  # 0x30 to 0x39 are the digits
    if _fault(digits, num_columns, delimiter) is None:
        return digits, "a digit with one bit lost"
    return None, ""


def _fault(line: bytes, num_columns: int, delimiter: str) -> str | None:
    """What is wrong with a line; None: nothing."""
    words = line.split() if delimiter == " " else [word.strip() for word in line.strip().split(delimiter.encode())]
    if len(words) != num_columns:
        return f"{len(words)} values where {num_columns} are due"
    for word in words:
        try:
            float(word)
        except ValueError:
            return f"'{word.decode('latin-1')}' is no number"
        if b"_" in word:  # Python reads 1_0
            return f"'{word.decode('latin-1')}' is no number"
    return None


def _blame(data: bytes, where: str, num_columns: int, delimiter: str, first_line: int) -> InputError:
    """The first line that is wrong."""
    seen = False
    for number, line in enumerate(io.BytesIO(data), start=first_line):
        if not line.strip():
            continue
        seen = True
        fault = _fault(line, num_columns, delimiter)
        if fault is not None:
            end = "" if line.endswith(b"\n") else " and the file ends there: truncated"
            return InputError(f"{where}: line {number}: {fault}{end}; {REMEDY}")
    if not seen:
        return InputError(f"{where}: holds no points; {REMEDY}")
    return InputError(f"{where}: is no text of {num_columns} numbers a line; {REMEDY}")


def whole_bytes(
    values: np.ndarray,  # (N,) float64
    where: str,
    name: str,
) -> np.ndarray:  # (N,) uint8
    """Colours that are written as numbers of any kind.

    Raises:
        InputError: a value that is not a whole number from 0 to 255, with its row.
    """
    with np.errstate(invalid="ignore"):
        result = values.astype(np.uint8)
        wrong = result != values
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{where}: line {row + 1}: {name} is {values[row]:g}, from 0 to 255 are possible; {REMEDY}")
    return result
