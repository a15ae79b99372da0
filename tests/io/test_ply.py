"""PLY: every layout reads alike, lies are refused, copies keep everything."""

import errno

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from pcseg.errors import InputError
from pcseg.io.ply import write_ply
from pcseg.io.scan import read_chunks, read_header, write_predictions
from tests.io.scans import file_size_limit, full_disk, left_behind

LAYOUTS = [("ascii", "="), ("binary", "<"), ("binary", ">")]


def small_ply(path, num_points: int = 57, *, layout=("binary", "<"), faces: int = 3, label: str = "class", **edit):
    """A mesh or a cloud with every kind of property, written by plyfile."""
    rng = np.random.default_rng(0)
    fields = [("x", "f8"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    fields += [("nx", "f4"), ("ny", "f4"), ("nz", "f4"), ("time", "f8"), ("echo", "i2"), ("id", "i4"), ("far", "u4")]
    fields += [(label, "u1")] if label else []
    vertices = np.zeros(num_points, fields)
    for name, kind in fields:
        random = rng.random(num_points) * 100
        vertices[name] = random if kind[0] == "f" else (rng.integers(0, 3, num_points) if name == label else random)
    vertices["x"] += 84900.123
    vertices["far"] = 2**32 - 1
    for name, values in edit.items():
        vertices[name] = values
    elements = [PlyElement.describe(vertices, "vertex")]
    if faces:
        face = np.empty(faces, [("vertex_indices", "O"), ("quality", "f4")])
        face["vertex_indices"] = [np.arange(3 + i % 2, dtype="i4") for i in range(faces)]
        face["quality"] = 0.5
        elements.append(PlyElement.describe(face, "face"))
    text = layout[0] == "ascii"
    PlyData(elements, text=text, byte_order=layout[1], comments=["made by a test"]).write(path)
    return vertices


def predictions(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 3, n), rng.random(n).astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("faces", [0, 4])
def test_every_layout_gives_the_same_columns(tmp_path, layout, faces):
    path = tmp_path / "a.ply"
    vertices = small_ply(path, layout=layout, faces=faces)
    header = read_header(path)
    assert (header.num_points, header.format, header.label_column, header.crs) == (57, "ply", "class", None)
    chunks = list(read_chunks(path, chunk_size=10))
    assert [c.start for c in chunks] == list(range(0, 57, 10))
    coords = np.concatenate([c.coords for c in chunks])
    np.testing.assert_allclose(coords, np.stack([vertices[a] for a in "xyz"], 1), rtol=1e-7)
    assert coords.dtype == np.float64
    for name, dtype in header.columns.items():
        values = np.concatenate([c.columns[name] for c in chunks])
        assert values.dtype == dtype and values.dtype.isnative
        np.testing.assert_allclose(values, vertices[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_numbers_the_things(tmp_path, layout):
    small_ply(tmp_path / "a.ply", layout=layout)
    pred, confidence = predictions(57)
    instances = np.arange(57) - 1
    write_predictions(tmp_path / "a.ply", tmp_path / "b.ply", pred, confidence, instances=instances, chunk_size=10)
    after = PlyData.read(tmp_path / "b.ply")["vertex"]
    np.testing.assert_array_equal(after["pred_instance"], instances)
    np.testing.assert_array_equal(after["pred_class"], pred)
    write_predictions(tmp_path / "b.ply", tmp_path / "c.ply", pred, confidence)
    assert "pred_instance" not in PlyData.read(tmp_path / "c.ply")["vertex"].data.dtype.names


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("faces", [0, 4])
def test_a_copy_keeps_every_property_face_and_comment(tmp_path, layout, faces):
    source, target = tmp_path / "a.ply", tmp_path / "b.ply"
    small_ply(source, layout=layout, faces=faces)
    pred, confidence = predictions(57)
    pred[5] = -1
    write_predictions(source, target, pred, confidence, chunk_size=10)
    before, after = PlyData.read(source), PlyData.read(target)
    for name in before["vertex"].data.dtype.names:
        np.testing.assert_array_equal(after["vertex"][name], before["vertex"][name], err_msg=name)
    np.testing.assert_array_equal(after["vertex"]["pred_class"], np.where(pred < 0, 255, pred))
    np.testing.assert_allclose(after["vertex"]["confidence"], confidence, rtol=1e-5)
    assert after.comments == ["made by a test"] and after.text == before.text and after.byte_order == before.byte_order
    if faces:
        for a, b in zip(before["face"], after["face"], strict=True):
            np.testing.assert_array_equal(a["vertex_indices"], b["vertex_indices"])
    again = tmp_path / "c.ply"
    write_predictions(target, again, pred * 0 + 1, confidence)
    vertex = PlyData.read(again)["vertex"]
    assert [p.name for p in vertex.properties].count("pred_class") == 1 and (vertex["pred_class"] == 1).all()
    np.testing.assert_array_equal(vertex["x"], before["vertex"]["x"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("label", ["class", "scalar_Classification", None])
def test_overwriting_keeps_the_old_classes(tmp_path, layout, label):
    source, target = tmp_path / "a.ply", tmp_path / "b.ply"
    vertices = small_ply(source, layout=layout, label=label or "")
    pred, confidence = predictions(57)
    write_predictions(source, target, pred, confidence, codes=[1, 2, 6], overwrite_classification=True)
    vertex = PlyData.read(target)["vertex"]
    np.testing.assert_array_equal(vertex[label or "classification"], np.array([1, 2, 6])[pred])
    if label:
        np.testing.assert_array_equal(vertex["orig_class"], vertices[label])
        with pytest.raises(InputError, match=r"property .* is of type uchar, the class table has \[1, 300\]"):
            write_predictions(source, target, pred * 0, confidence, codes=[1, 300], overwrite_classification=True)
    with pytest.raises(InputError, match="only be copied to the same format"):
        write_predictions(source, tmp_path / "b.laz", pred, confidence)


def test_what_is_written_in_parts_reads_back(tmp_path):
    path = tmp_path / "a.ply"
    parts = [{"x": np.arange(3.0) + i, "y": np.zeros(3), "z": np.ones(3), "red": np.full(3, i)} for i in (0, 7)]
    types = {"x": np.float64, "y": np.float32, "z": np.float32, "red": np.uint8}
    write_ply(path, types, 6, parts, comments=["hello"])
    vertex = PlyData.read(path)["vertex"]
    assert vertex["x"].tolist() == [0, 1, 2, 7, 8, 9] and vertex["red"].tolist() == [0, 0, 0, 7, 7, 7]


def refused(path) -> str:
    with pytest.raises(InputError) as caught:
        for _ in read_chunks(path, chunk_size=10):
            pass
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("said", "reason"), [(58, "58"), (10**12, "promises 1000000000000"), (40, "40"), (0, "no points")]
)
def test_a_lying_vertex_count_is_refused(tmp_path, layout, said, reason):
    path = tmp_path / "a.ply"
    small_ply(path, layout=layout, faces=0)
    path.write_bytes(path.read_bytes().replace(b"element vertex 57", b"element vertex %d" % said))
    assert reason in refused(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_short_anywhere_is_refused(tmp_path, layout):
    small_ply(tmp_path / "a.ply", layout=layout, faces=0)
    content = (tmp_path / "a.ply").read_bytes()
    for size in (2, 3, 30, 200, len(content) // 2, len(content) - 60):
        (tmp_path / "cut.ply").write_bytes(content[:size])
        refused(tmp_path / "cut.ply")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"x y z\n1 2 3\n", "starts with b'x y '"),
        (b"plywood\n", "no PLY file"),
        (b"ply\nformat ascii 1.0\n", "no 'end_header'"),
        (b"ply\nformat foo 1.0\nend_header\n", "header line 2"),
        (b"ply\nformat ascii 1.0\nelement vertex x\nend_header\n", "header line 3: cannot read 'element vertex x'"),
        (b"ply\nformat ascii 1.0\nelement vertex -5\nend_header\n", "header line 3"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "header line 3"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n", "header line 4"),
        (b"ply\nformat ascii 1.0\nelement face 0\nproperty int a\nend_header\n", "no vertices; it has face"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nproperty int x\nend_header\n1 1\n", "one twice"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nend_header\n1\n", "need x, y and z; they have x"),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nproperty int y\nproperty int z\n"
            b"property list uchar int a\nend_header\n1 1 1 1 1\n",
            "vertices with lists",
        ),
    ],
)
def test_headers_that_are_none(tmp_path, content, reason):
    (tmp_path / "a.ply").write_bytes(content)
    assert reason in refused(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("1 2 3\n44 55\n", "3 numbers a line expected"),
        ("1 2 3\n4 5 six\n", "3 numbers a line expected"),
        ("1 2 3 4\n4 5 6 7\n", "(4 values a line)"),
        ("1 2 3\n4 5 300\n", "z outside uchar"),
        ("1 2 3\n\n     \n", "ends after 1"),
        ("1 2 3\n4 5 6\n7 8 9\n", "more lines follow"),
    ],
)
def test_text_that_does_not_fit(tmp_path, lines, reason):
    head = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty uchar z\nend_header\n"
    (tmp_path / "a.ply").write_text(head + lines)
    assert reason in refused(tmp_path / "a.ply")


def test_windows_line_ends_blank_lines_and_elements_before_the_vertices(tmp_path):
    text = (
        "ply\r\nformat ascii 1.0\r\ncomment caf\u00e9\r\nelement camera 2\r\nproperty float f\r\nelement vertex 2\r\n"
        "property float x\r\nproperty float y\r\nproperty float z\r\nend_header\r\n7\r\n8\r\n1 2 3\r\n\r\n4 5 6\r\n"
    )
    (tmp_path / "a.ply").write_bytes(text.encode("latin-1"))
    (chunk,) = read_chunks(tmp_path / "a.ply")
    assert chunk.coords.tolist() == [[1, 2, 3], [4, 5, 6]]
    write_predictions(tmp_path / "a.ply", tmp_path / "b.ply", np.array([0, 1]), np.array([0.5, 1.0]))
    (copied,) = read_chunks(tmp_path / "b.ply")
    assert copied.coords.tolist() == chunk.coords.tolist() and copied.columns["pred_class"].tolist() == [0, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("room", [10, 1000])
def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, layout, room, monkeypatch):
    source, target = tmp_path / "a.ply", tmp_path / "b.ply"
    small_ply(source, layout=layout)
    with full_disk(monkeypatch, room), pytest.raises(OSError) as caught:
        write_predictions(source, target, *predictions(57))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)
    with file_size_limit(room), pytest.raises(OSError) as caught:
        write_predictions(source, target, *predictions(57))
    assert caught.value.errno == errno.EFBIG and left_behind(tmp_path) == ["a.ply"]
