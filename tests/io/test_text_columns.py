"""Text of numbers: the same as numpy and Python read, and the line that is wrong."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcseg import numpy_ops
from pcseg.errors import InputError
from pcseg.io.text_columns import parse_columns, whole_bytes


def text(table: np.ndarray, form: str = "%.6g") -> bytes:
    stream = io.BytesIO()
    np.savetxt(stream, table, fmt=form)
    return stream.getvalue()


needs_kernels = pytest.mark.skipif(not numpy_ops.available(), reason="needs pcseg._numpy for this Python")


@pytest.fixture(params=["kernel", "arrow"])
def parser(request, monkeypatch):
    """Both ways to parse: the kernel, and Arrow where it is not built."""
    if request.param == "arrow":
        monkeypatch.setattr(numpy_ops, "available", lambda: False)
    elif not numpy_ops.available():
        pytest.skip("needs pcseg._numpy for this Python")


@pytest.mark.parametrize("form", ["%.3f", "%.8f", "%.17g", "%d", "%.4e"])
@pytest.mark.parametrize("threads", [False, True])
def test_numbers_are_those_that_numpy_reads(form, threads, parser):
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
def test_blanks_may_be_doubled(change, parser):
    table = np.random.default_rng(1).random((20, 3))
    read = parse_columns(change(text(table)), "a.txt", num_columns=3)
    np.testing.assert_allclose(np.stack(read.columns, 1), table, rtol=1e-5)
    assert read.repairs == ()


def test_windows_line_ends_are_told(parser):
    read = parse_columns(b"1 2\r\n3 4\r\n", "a.txt", num_columns=2)
    assert read.columns[1].tolist() == [2, 4] and read.repairs == ("Windows line ends",)


def test_other_delimiters(parser):
    read = parse_columns(b"1, 2,3\n4,5,-6e-1\n", "a.csv", num_columns=3, delimiter=",")
    assert np.stack(read.columns).tolist() == [[1, 4], [2, 5], [3, -0.6]]


DIGITS = st.text("0123456789", max_size=24)
EXPONENTS = st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E+", "e-"]), st.integers(0, 400))
ODD = ["nan", "-NaN", "inf", "-Infinity", "-0", "0e999", "1e", "1e+", ".", "-", "1.2.3", "1-2", "0x1", "infin"]
NUMBERS = st.one_of(
    st.builds("{}{}.{}{}".format, st.sampled_from(["", "-", "+"]), DIGITS, DIGITS, EXPONENTS),
    st.builds("{}{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**9)),
    st.floats().map(repr),
    st.builds("{:.3f}".format, st.floats(-1e4, 1e4)),
    st.sampled_from(ODD),
)


def bits(value: float) -> bytes:
    return b"nan" if value != value else struct.pack("<d", value)


@needs_kernels
@settings(max_examples=600, deadline=None)
@given(words=st.lists(NUMBERS, min_size=1, max_size=3), pad=st.integers(0, 40))
def test_every_number_is_that_of_float(words, pad):
    """Also where the quick ways end: near the end of the text, whatever follows."""
    text = " ".join(words).encode() + b" " * pad + b"\n" * (pad % 2)
    try:
        expected = [bits(float(word)) for word in words]
    except ValueError:
        assert numpy_ops.text_numbers(text, len(words), threads=1) is None
        return
    found = numpy_ops.text_numbers(text, len(words), threads=1)
    assert found is not None and [bits(value) for value in found[:, 0]] == expected


@needs_kernels
@pytest.mark.parametrize("decimals", [0, 3, 6, 8, 12, 17])
def test_roundest_and_closest_numbers(decimals):
    """Values that lie next to the middle between two doubles, and those of every length."""
    rng = np.random.default_rng(decimals)
    words = [f"{value:.{decimals}f}" for value in rng.normal(size=5000) * 10.0 ** rng.integers(-3, 12, 5000)]
    words += [f"{2**53 + step}{'0' * zeros}" for step in range(-3, 4) for zeros in range(30)]
    found = numpy_ops.text_numbers("\n".join(words).encode(), 1, threads=2)
    assert found is not None
    np.testing.assert_array_equal(found[0], [float(word) for word in words])


@needs_kernels
@pytest.mark.parametrize("threads", [1, 3])
def test_long_texts_are_read_in_parts(threads):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(40_000, 3)).round(4)
    gaps = rng.integers(1, 4, len(rows))
    lines = [b"%.4f %.4f\t%.4f" % tuple(row) + b"\n" * int(gap) for row, gap in zip(rows, gaps, strict=True)]
    text = b"".join(lines)  # three parts, and empty lines in all of them
    found = numpy_ops.text_numbers(text, 3, threads=threads)
    assert found is not None and np.array_equal(found.T, rows)
    assert numpy_ops.text_numbers(text.replace(b"\n", b" 7\n", 1), 3, threads=threads) is None
    assert numpy_ops.text_numbers(text + b"1 2", 3, threads=threads) is None


@needs_kernels
def test_what_the_kernel_refuses():
    with pytest.raises(ValueError, match="text_numbers: num_columns must be at least 1, got 0"):
        numpy_ops.text_numbers(b"1", 0)
    for delimiter in ("", "ab", "-", "1", "\n", "é"):
        with pytest.raises(ValueError, match="text_numbers: delimiter must be one character"):
            numpy_ops.text_numbers(b"1", 1, delimiter=delimiter)
    assert numpy_ops.text_numbers(b"\n \r\n", 2, threads=1).shape == (2, 0)


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
