"""PCD, E57, text and NumPy files: what was written is read, in parts of any size, and damage is refused by name."""

import struct
from pathlib import Path

import numpy as np
import pytest

from pcseg.datasets.prepare import prepare_scan
from pcseg.errors import InputError
from pcseg.io import scan, text_scan
from pcseg.label_map import LabelMap

COUNT = 57
NO_LZF = "compressed PCD needs python-lzf: pip install pcseg[formats]"


def cloud(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "coords": np.round(rng.random((COUNT, 3)) * 20 - (5, 100, 0), 3),
        "color": rng.integers(0, 256, (COUNT, 3)).astype(np.uint8),
        "intensity": np.round(rng.random(COUNT) * 100, 2).astype(np.float32),
        "class": rng.integers(0, 3, COUNT).astype(np.uint8),
    }


def read(path: Path, chunk_size: int = 10) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    chunks = list(scan.read_chunks(path, chunk_size=chunk_size))
    starts = np.cumsum([0, *[len(chunk) for chunk in chunks]])
    assert [chunk.start for chunk in chunks] == starts[:-1].tolist() and starts[-1] == scan.read_header(path).num_points
    columns = {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in chunks[0].columns}
    promised = {name: dtype.base for name, dtype in scan.read_header(path).columns.items()}
    assert {name: values.dtype for name, values in columns.items()} == promised
    return np.concatenate([chunk.coords for chunk in chunks]), columns


def write_pcd(path: Path, form: str, *, packed: str = "F", points: int | None = None) -> bytes:
    """A PCD file as the Point Cloud Library writes it: padding, packed colours, normals as one field of three."""
    made = cloud()
    rgb = made["color"].astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    fields = [("x", "F", 4, 1), ("y", "F", 4, 1), ("z", "F", 4, 1), ("_", "F", 4, 1), ("rgb", packed, 4, 1)]
    fields += [("intensity", "F", 4, 1), ("label", "U", 2, 1), ("normal", "F", 4, 3)]
    table = np.zeros(
        COUNT,
        [
            (n if n != "_" else "pad", f"<{k.lower()}{s}", (c,))
            if c > 1
            else (n if n != "_" else "pad", f"<{k.lower()}{s}")
            for n, k, s, c in fields
        ],
    )
    for index, axis in enumerate("xyz"):
        table[axis] = made["coords"][:, index]
    table["rgb"] = rgb.view(np.float32) if packed == "F" else rgb
    table["intensity"], table["label"] = made["intensity"], made["class"]
    table["normal"] = np.eye(3)[made["class"]]
    head = ["# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7"]
    for key, place in (("FIELDS", 0), ("SIZE", 2), ("TYPE", 1), ("COUNT", 3)):
        head.append(" ".join([key, *(str(field[place]) for field in fields)]))
    total = COUNT if points is None else points
    head += [f"WIDTH {total}", "HEIGHT 1", "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {total}", f"DATA {form}"]
    data = ("\n".join(head) + "\n").encode()
    if form == "binary":
        data += table.tobytes()
    elif form == "ascii":
        rows = []
        for row in table:
            values = [value for name in table.dtype.names or () for value in np.atleast_1d(row[name]).tolist()]
            rows.append(" ".join(f"{value:.9g}" for value in values))
        data += ("\n".join(rows) + "\n").encode()
    else:
        lzf = pytest.importorskip("lzf", reason=NO_LZF)
        plain = b"".join(np.ascontiguousarray(table[name]).tobytes() for name in table.dtype.names or ())
        compressed = lzf.compress(plain, len(plain) * 2)
        data += struct.pack("<II", len(compressed), len(plain)) + compressed
    path.write_bytes(data)
    return data


@pytest.mark.parametrize(
    ("form", "packed"), [("binary", "F"), ("binary", "U"), ("ascii", "U"), ("binary_compressed", "F")]
)
def test_pcd(tmp_path, form, packed):
    write_pcd(tmp_path / "a.pcd", form, packed=packed)
    made = cloud()
    coords, columns = read(tmp_path / "a.pcd")
    np.testing.assert_allclose(coords, made["coords"], atol=1e-5)
    np.testing.assert_array_equal(np.stack([columns[c] for c in ("red", "green", "blue")], 1), made["color"])
    np.testing.assert_array_equal(columns["intensity"], made["intensity"])
    np.testing.assert_array_equal(columns["normal"], np.eye(3)[made["class"]])
    assert scan.read_header(tmp_path / "a.pcd").label_column == "label" and "_3" not in columns
    scene = prepare_scan(tmp_path / "a.pcd", tmp_path, label_map=LabelMap.from_pairs(["0=a", "1=b", "2=ignore"]))
    np.testing.assert_array_equal(scene.labels, np.array([0, 1, -1])[made["class"]])
    np.testing.assert_array_equal(scene.column("color"), made["color"])


@pytest.mark.parametrize("options", [{"write_ascii": True}, {}, {"compressed": True}])
def test_pcd_of_open3d(tmp_path, options):
    """One written by another library."""
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    if "compressed" in options:
        pytest.importorskip("lzf", reason=NO_LZF)
    made = cloud()
    points = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(made["coords"]))
    points.colors = o3d.utility.Vector3dVector(made["color"] / 255)
    o3d.io.write_point_cloud(str(tmp_path / "a.pcd"), points, **options)
    coords, columns = read(tmp_path / "a.pcd")
    np.testing.assert_allclose(coords, made["coords"], atol=1e-4)
    np.testing.assert_array_equal(np.stack([columns[c] for c in ("red", "green", "blue")], 1), made["color"])


@pytest.mark.parametrize("form", ["binary", "binary_compressed"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"nothing", "is no PCD file"),
        (lambda data: data.replace(b"SIZE 4", b"SIZE x"), "header, lines 1 to 11: does not fit together"),
        (lambda data: data.replace(b"FIELDS x y", b"FIELDS x q"), "points need x, y and z"),
        (lambda data: data.replace(b"POINTS 57", b"POINTS 58"), "58 points, 57 x 1"),
        (lambda data: data.replace(b"57", b"9999999999"), "promises 9999999999 points"),
        (lambda data: data[:-40], "truncated"),
        (lambda data: data.replace(b"57", b"0"), "holds no points"),
    ],
)
def test_damaged_pcd(tmp_path, form, change, message):
    data = write_pcd(tmp_path / "a.pcd", form)
    (tmp_path / "a.pcd").write_bytes(change(data))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.pcd")


def test_damaged_text_of_a_pcd(tmp_path):
    data = write_pcd(tmp_path / "a.pcd", "ascii")
    lines = data.split(b"\n")
    lines[20] = b"1 2 3"
    (tmp_path / "a.pcd").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=r"a\.pcd: line 21: 3 values where 10 are due"):
        read(tmp_path / "a.pcd")
    (tmp_path / "a.pcd").write_bytes(data[: data.rfind(b"\n", 0, -1)])
    with pytest.raises(InputError, match="promises 57 points, 56 lines follow"):
        read(tmp_path / "a.pcd")


def rows(*columns: np.ndarray, sign: str = " ") -> str:
    return (
        "\n".join(
            sign.join(f"{v:g}" if float(v).is_integer() else f"{v:.3f}" for v in row)
            for row in np.column_stack(columns)
        )
        + "\n"
    )


@pytest.mark.parametrize(
    ("name", "head", "sign", "end"),
    [
        ("a.xyz", "", " ", "\n"),
        ("a.txt", "# X Y Z Red Green Blue\n", " ", "\n"),
        ("a.csv", "x,y,z,red,green,blue\n", ",", "\n"),
        ("a.csv", '"x";"y";"z";"red";"green";"blue"\n', ";", "\r\n"),
        ("a.asc", "// x y z red green blue\n\n# another word\n", "\t", "\n"),
        ("a.txt", f"{COUNT}\n", "  ", "\n\n"),
    ],
)
def test_text(tmp_path, name, head, sign, end):
    made = cloud()
    text = rows(made["coords"], made["color"], sign=sign)
    (tmp_path / name).write_bytes((head + text).replace("\n", end).encode())
    coords, columns = read(tmp_path / name)
    np.testing.assert_array_equal(coords, made["coords"])
    np.testing.assert_array_equal(np.stack([columns[c] for c in ("red", "green", "blue")], 1), made["color"])
    scene = prepare_scan(tmp_path / name, tmp_path)
    np.testing.assert_allclose(scene.column("color"), made["color"] / 255, atol=1e-6)


def test_text_with_more_columns(tmp_path):
    made = cloud()
    text = rows(made["coords"], made["intensity"], made["color"])
    (tmp_path / "a.pts").write_text(f"{COUNT}\n{text}")
    assert list(read(tmp_path / "a.pts")[1]) == ["intensity", "red", "green", "blue"]
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(InputError, match=r"a\.xyz: has 7 columns without names; put a first line"):
        read(tmp_path / "a.xyz")
    (tmp_path / "b.xyz").write_text("#x y z amplitude r g label\n" + text)
    assert scan.read_header(tmp_path / "b.xyz").label_column == "label"
    for head, message in (
        ("x y z r\n", "names 4 columns .*, its first point has 7"),
        ("x y z a a b c\n", "names 7 columns"),
        ("hello world\n", "line 1: cannot read 'hello world'"),
    ):
        (tmp_path / "c.txt").write_text(head + text)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "c.txt")
    lines = text.split("\n")
    lines[40] = lines[40].rpartition(" ")[0]
    (tmp_path / "a.pts").write_text(f"{COUNT}\n" + "\n".join(lines))
    with pytest.raises(InputError, match=r"a\.pts: line 42: 6 values where 7 are due"):
        read(tmp_path / "a.pts")
    for content, message in (("", "is empty"), ("# nothing\n\n", "holds no points")):
        (tmp_path / "d.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "d.txt")


def test_npy(tmp_path):
    made = cloud()
    table = np.column_stack([made["coords"], made["color"], made["class"]])
    np.save(tmp_path / "a.npy", table)
    coords, columns = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(coords, made["coords"])
    np.testing.assert_array_equal(columns["class"], made["class"])
    fields = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("label", "u1"), ("normals", "f4", (3,))]
    record = np.zeros(COUNT, fields)
    for index, axis in enumerate("xyz"):
        record[axis] = made["coords"][:, index]
    record["label"], record["normals"] = made["class"], np.eye(3)[made["class"]]
    np.save(tmp_path / "b.npy", record)
    scene = prepare_scan(tmp_path / "b.npy", tmp_path, label_map=LabelMap.from_pairs(["0=a", "1=b", "2=c"]))
    np.testing.assert_array_equal(scene.labels, made["class"])
    np.testing.assert_array_equal(scene.column("normals"), np.eye(3)[made["class"]])
    for values, message in (
        (np.zeros((5, 5)), "give a structured array with x, y and z"),
        (np.zeros(5), "give a structured array"),
        (np.zeros((0, 3)), "holds no points|no whole"),
        (np.array([["a", "b", "c"]]), "give a structured array"),
    ):
        np.save(tmp_path / "c.npy", values)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"d\.npy: no whole array file"):
        read(tmp_path / "d.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a\.npy: no whole array file"):
        read(tmp_path / "a.npy")


def write_e57(path: Path, *, scans: int = 1) -> None:
    pye57 = pytest.importorskip("pye57")
    made = cloud()
    file = pye57.E57(str(path), mode="w")
    for index in range(scans):
        data = {f"cartesian{axis}": made["coords"][:, i].copy() for i, axis in enumerate("XYZ")}
        data |= {f"color{name}": made["color"][:, i].copy() for i, name in enumerate(("Red", "Green", "Blue"))}
        data["intensity"] = made["intensity"].copy()
        data["cartesianInvalidState"] = (np.arange(COUNT) % 10 == 3).astype(np.int8)
        # A quarter turn about the vertical axis.
        rotation = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)]) if index else np.array([1.0, 0, 0, 0])
        file.write_scan_raw(data, rotation=rotation, translation=np.array([index * 100.0, 0, 0]))
    file.close()


def test_e57(tmp_path):
    write_e57(tmp_path / "a.e57", scans=2)
    made = cloud()
    coords, columns = read(tmp_path / "a.e57")
    valid = np.tile(np.arange(COUNT) % 10 != 3, 2)
    assert np.isnan(coords[~valid]).all() and len(coords) == 2 * COUNT
    turned = made["coords"] @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]).T + (100, 0, 0)
    expected = np.concatenate([made["coords"], turned])
    np.testing.assert_allclose(coords[valid], expected[valid], atol=1e-6)
    np.testing.assert_array_equal(np.stack([columns[c] for c in ("red", "green", "blue")], 1)[:COUNT], made["color"])
    np.testing.assert_allclose(columns["intensity"][:COUNT], made["intensity"], atol=1e-4)
    scene = prepare_scan(tmp_path / "a.e57", tmp_path)
    assert scene.num_points == valid.sum() and "12 of 114 points dropped" in scene.info.notes[0]
    assert scene.column("color").dtype == np.uint8
    data = (tmp_path / "a.e57").read_bytes()
    for content, message in (
        (b"nothing at all", "is no E57 file"),
        (data[:100], r"a\.e57: cannot be opened"),
        (data[: len(data) // 2], r"a\.e57: "),
    ):
        (tmp_path / "a.e57").write_bytes(content)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "a.e57")
        assert (tmp_path / "a.e57").exists()


def test_what_cannot_be_written_into_is_said(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"predictions can be written into \.las, \.laz and \.ply"):
        scan.write_predictions(tmp_path / "a.npy", tmp_path / "b.npy", np.zeros(5, int), np.zeros(5))
    with pytest.raises(InputError, match=r"cannot read '\.docx' files; give one of \.las"):
        scan.read_header(tmp_path / "a.docx")


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 22])
@pytest.mark.parametrize("end", ["", "\n", "\n \n\t\r\n", "\n5 6 7", "\n5 6 7 \t"])
def test_points_of_a_text_are_counted_without_empty_lines(tmp_path, monkeypatch, block, end):
    monkeypatch.setattr(text_scan, "_BLOCK", block)
    path = tmp_path / "a.xyz"
    text = "1 2 3\n\n4 5 6\r\n \t\r\n\n\n7 8 9 \n\t1 1 1" + end
    path.write_bytes(text.encode())
    assert scan.read_header(path).num_points == sum(bool(line.strip()) for line in text.split("\n"))
