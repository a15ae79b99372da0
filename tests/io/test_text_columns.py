"""Text of numbers: the same as numpy reads, and the line that is wrong."""

import io

import numpy as np
import pytest

from pcseg.errors import InputError
from pcseg.io.text_columns import parse_columns, whole_bytes


def text(table: np.ndarray, form: str = "%.6g") -> bytes:
    stream = io.BytesIO()
    np.savetxt(stream, table, fmt=form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["%.3f", "%.17g", "%d", "%+.4e"])
@pytest.mark.parametrize("threads", [False, True])
def test_numbers_are_those_that_numpy_reads(form, threads):
    table = np.random.default_rng(0).normal(scale=1e3, size=(500, 4))
    data = text(table, form)
    read = parse_columns(data, "a.txt", num_columns=4, threads=threads)
    np.testing.assert_array_equal(np.stack(read.columns, 1), np.loadtxt(io.BytesIO(data)))
    assert read.repairs == () and len(read) == 500 and read.columns[0].dtype == np.float64


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.rstrip(b"\n"),
        lambda data: data.replace(b" ", b"\t"),
        lambda data: data.replace(b" ", b"   ").replace(b"\n", b" \n "),
        lambda data: data.replace(b"\n", b"\n\n"),
        lambda data: b"\n" + data,
    ],
)
def test_blanks_may_be_doubled(change):
    table = np.random.default_rng(1).random((20, 3))
    read = parse_columns(change(text(table)), "a.txt", num_columns=3)
    np.testing.assert_allclose(np.stack(read.columns, 1), table, rtol=1e-5)
    assert read.repairs == ()


def test_windows_line_ends_are_told():
    read = parse_columns(b"1 2\r\n3 4\r\n", "a.txt", num_columns=2)
    assert read.columns[1].tolist() == [2, 4] and read.repairs == ("Windows line ends",)


def test_other_delimiters():
    read = parse_columns(b"1, 2,3\n4,5,-6e-1\n", "a.csv", num_columns=3, delimiter=",")
    assert np.stack(read.columns).tolist() == [[1, 4], [2, 5], [3, -0.6]]


@pytest.mark.parametrize(
    ("line", "values", "what"),
    [
        (b"1 2\x103", [1, 2, 3], "a blank"),
        (b"1\x002 3", [1, 2, 3], "a blank"),
        (b"1 2.0\x1000 3", [1, 2, 3], "a digit with one bit lost"),
        (b"1 2.\x175 3", [1, 2.75, 3], "a digit with one bit lost"),
    ],
)
def test_control_bytes_are_read_as_what_they_were(line, values, what):
    read = parse_columns(b"7 8 9\n" + line + b"\n4 5 6\n", "a.txt", num_columns=3)
    assert [column[1] for column in read.columns] == values and read.columns[2].tolist()[::2] == [9, 6]
    assert len(read.repairs) == 1 and read.repairs[0].startswith(f"line 2: control byte read as {what} in ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1 2 3\n4 5\n6 7 8\n", "a.txt: line 2: 2 values where 3 are due; "),
        (b"1 2 3\n\n4 5 6 7\n", "a.txt: line 3: 4 values where 3 are due; "),
        (b"1 2 3\r\n4 5 6\r\n7 8", "a.txt: line 3: 2 values where 3 are due and the file ends there: truncated"),
        (b"1 2 3\n4 5 six\n", "a.txt: line 2: 'six' is no number"),
        (b"1 2 3\n4 5 1_0\n", "a.txt: line 2: '1_0' is no number"),
        (b"1 2 3\n4 5 \xff\n", "a.txt: line 2: '\xff' is no number"),
        (b"1 2 3\n4\x01\x0256\n", "a.txt: line 2: "),
        (b"", "a.txt: holds no points"),
        (b"\n \n", "a.txt: holds no points"),
        (bytes(5000), "a.txt: line 1: "),
    ],
)
def test_the_line_that_is_wrong_is_named(data, message):
    with pytest.raises(InputError) as caught:
        parse_columns(data, "a.txt", num_columns=3)
    assert message in str(caught.value) and len(str(caught.value)) < 6000


def test_colours_are_whole_numbers_of_a_byte():
    assert whole_bytes(np.array([0.0, 255.0, 7.0]), "a", "red").tolist() == [0, 255, 7]
    for wrong in (256.0, -1.0, 0.5, np.nan, np.inf):
        with pytest.raises(InputError, match="a: line 2: red is "):
            whole_bytes(np.array([1.0, wrong]), "a", "red")
