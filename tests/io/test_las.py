"""LAS and LAZ: what is read, what is refused, and that a copy keeps everything."""

import errno
import struct

import laspy
import numpy as np
import pytest

from pcseg.errors import InputError
from pcseg.io.scan import read_chunks, read_header, write_predictions
from tests.io.copc import write_copc
from tests.io.scans import SAMPLES, file_size_limit, full_disk, left_behind, small_las

WKT = 'PROJCS["Amersfoort / RD New",AUTHORITY["EPSG","28992"]]'


def predictions(n: int, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(0, num_classes, n), rng.random(n).astype(np.float32)


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_chunks_hold_every_point_and_attribute_in_order(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    las = small_las(path, 501, point_format=7, wkt=WKT)
    header = read_header(path)
    assert (header.num_points, header.format, header.crs, header.label_column) == (501, "las", WKT, "classification")
    chunks = list(read_chunks(path, chunk_size=100))
    assert [c.start for c in chunks] == [0, 100, 200, 300, 400, 500] and [len(c) for c in chunks] == [100] * 5 + [1]
    np.testing.assert_array_equal(np.concatenate([c.coords for c in chunks]), las.xyz)
    for name, dtype in header.columns.items():
        values = np.concatenate([c.columns[name] for c in chunks])
        expected = np.asarray(las[name]) if name != "scan_angle" else np.asarray(las.scan_angle) * np.float32(0.006)
        np.testing.assert_array_equal(values, expected, err_msg=name)
        assert values.shape[1:] == dtype.shape, name
    assert {"red", "amplitude", "echo width", "normals", "classification", "gps_time"} <= set(header.columns)


def test_only_the_columns_asked_for_and_a_missing_one_by_name(tmp_path):
    small_las(tmp_path / "a.laz")
    (chunk,) = read_chunks(tmp_path / "a.laz", ["intensity"])
    assert list(chunk.columns) == ["intensity"]
    with pytest.raises(InputError, match=r"a\.laz: has no column 'red'; it has .*intensity"):
        next(read_chunks(tmp_path / "a.laz", ["red"]))


def test_crs_of_geotiff_keys_and_the_shipped_samples_open():
    header = read_header(SAMPLES / "ign_lidarhd_50m" / "77050_627755.laz")
    assert header.crs == "EPSG:2154" and header.num_points == 84524
    counts = [read_header(p).num_points for p in sorted((SAMPLES / "ahn3_delft").glob("*.laz"))]
    assert counts == [640510, 208432]


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize(("version", "point_format"), [("1.2", 3), ("1.4", 6), ("1.4", 8)])
def test_a_copy_keeps_every_attribute_header_and_order(tmp_path, suffix, version, point_format):
    source, target = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    before = small_las(source, 333, version=version, point_format=point_format, wkt=WKT if point_format > 5 else None)
    pred, confidence = predictions(333)
    write_predictions(source, target, pred, confidence, chunk_size=100)
    after = laspy.read(target)
    for name in before.point_format.dimension_names:
        np.testing.assert_array_equal(np.asarray(after[name]), np.asarray(before[name]), err_msg=name)
    np.testing.assert_array_equal(after.X, before.X)
    np.testing.assert_array_equal(after["pred_class"], pred)
    np.testing.assert_array_equal(after["confidence"], confidence)
    assert after["pred_class"].dtype == np.uint8 and after["confidence"].dtype == np.float32
    old, new = before.header, after.header
    np.testing.assert_array_equal(
        [new.scales, new.offsets, new.mins, new.maxs], [old.scales, old.offsets, old.mins, old.maxs]
    )
    assert (new.version, new.point_format.id, new.creation_date) == (old.version, point_format, old.creation_date)
    assert new.system_identifier == "test scanner" and new.global_encoding.wkt == old.global_encoding.wkt
    kept = [v.record_data_bytes() for v in old.vlrs if v.record_id == 2112]
    assert [v.record_data_bytes() for v in new.vlrs if v.record_id == 2112] == kept
    assert left_behind(tmp_path) == [source.name, target.name]


def test_a_copy_numbers_the_things(tmp_path):
    small_las(tmp_path / "a.laz", 120)
    pred, confidence = predictions(120)
    instances = np.arange(120, dtype=np.int64) % 70_000 - 1
    write_predictions(tmp_path / "a.laz", tmp_path / "b.laz", pred, confidence, instances=instances, chunk_size=50)
    after = laspy.read(tmp_path / "b.laz")
    assert after["pred_instance"].dtype == np.int32
    np.testing.assert_array_equal(after["pred_instance"], instances)
    write_predictions(tmp_path / "b.laz", tmp_path / "c.laz", pred, confidence)
    assert "pred_instance" not in laspy.read(tmp_path / "c.laz").point_format.dimension_names
    with pytest.raises(InputError, match=r"has 120 points, got pred_instance of shape \(3,\)"):
        write_predictions(tmp_path / "a.laz", tmp_path / "d.laz", pred, confidence, instances=instances[:3])


def test_evlrs_are_kept_and_an_index_of_the_old_file_is_not(tmp_path):
    las = small_las(tmp_path / "a.laz", 50)
    las.header.vlrs.append(laspy.VLR("copc", 1, "index", bytes(160)))
    las.evlrs = laspy.vlrs.vlrlist.VLRList(  # pyright: ignore
        [laspy.VLR("someone", 7, "kept", b"payload"), laspy.VLR("copc", 1000, "hierarchy", bytes(32))]
    )
    las.write(tmp_path / "a.laz")
    write_predictions(tmp_path / "a.laz", tmp_path / "b.laz", *predictions(50))
    with laspy.open(tmp_path / "b.laz") as reader:
        assert [(v.user_id, v.record_data_bytes()) for v in reader.evlrs or []] == [("someone", b"payload")]
        assert all(v.user_id != "copc" for v in reader.header.vlrs)


def test_copc_is_read_through_and_its_copy_is_plain_laz(tmp_path):
    """The file is COPC to laspy's own reader of it, which finds the nodes by the hierarchy."""
    source, copc, target = tmp_path / "a.laz", tmp_path / "a.copc.laz", tmp_path / "b.laz"
    small_las(source, 3000, point_format=7)
    write_copc(source, copc)
    with laspy.CopcReader.open(copc) as reader:
        nodes, root = reader.query(), reader.query(level=0)
    assert len(root) == 750
    chunks = list(read_chunks(copc, chunk_size=700))
    coords, times = (np.concatenate(parts) for parts in zip(*[(c.coords, c.columns["gps_time"]) for c in chunks]))
    assert read_header(copc).num_points == len(coords) == 3000
    np.testing.assert_array_equal(coords[:750], np.stack([root.x, root.y, root.z], axis=1))
    order = np.argsort(times)
    for name in ("classification", "red", "amplitude"):
        values = np.concatenate([c.columns[name] for c in chunks])
        expected = np.asarray(nodes[name])[np.argsort(np.asarray(nodes.gps_time))]
        np.testing.assert_array_equal(values[order], expected, err_msg=name)
    write_predictions(copc, target, *predictions(3000))
    copied = laspy.read(target)
    assert all(v.user_id != "copc" for v in copied.header.vlrs) and not copied.evlrs
    np.testing.assert_array_equal(copied.xyz, coords)


def test_a_copc_file_that_ends_early(tmp_path):
    source, copc = tmp_path / "a.laz", tmp_path / "a.copc.laz"
    small_las(source, 3000)
    write_copc(source, copc)
    copc.write_bytes(copc.read_bytes()[:-40_000])
    with pytest.raises(InputError, match=r"a\.copc\.laz: "):
        list(read_chunks(copc, chunk_size=700))


def test_overwritten_classification_keeps_the_old_one_even_the_second_time(tmp_path):
    a, b, c = (tmp_path / f"{n}.laz" for n in "abc")
    before = small_las(a, 80, point_format=1, version="1.2")
    pred, confidence = predictions(80)
    pred[3] = -1
    write_predictions(a, b, pred, confidence, codes=[1, 2, 6], overwrite_classification=True)
    once = laspy.read(b)
    expected = np.array([1, 2, 6])[pred]
    expected[3] = before.classification[3]
    np.testing.assert_array_equal(once.classification, expected)
    np.testing.assert_array_equal(once["orig_class"], before.classification)
    np.testing.assert_array_equal(once.withheld, before.withheld)
    assert once["pred_class"][3] == 255
    write_predictions(b, c, (pred + 1) % 3, confidence, codes=[1, 2, 6], overwrite_classification=True)
    twice = laspy.read(c)
    np.testing.assert_array_equal(twice["orig_class"], before.classification)
    assert list(twice.point_format.dimension_names).count("pred_class") == 1


def test_more_than_255_classes_need_two_bytes_and_codes_must_fit(tmp_path):
    small_las(tmp_path / "a.laz", 300, point_format=1, version="1.2")
    pred, confidence = np.arange(300), np.ones(300)
    write_predictions(tmp_path / "a.laz", tmp_path / "b.laz", pred, confidence)
    assert laspy.read(tmp_path / "b.laz")["pred_class"].dtype == np.uint16
    with pytest.raises(InputError, match=r"point format 1 holds class codes 0 to 31.*\[64\]"):
        write_predictions(
            tmp_path / "a.laz", tmp_path / "c.laz", pred * 0, confidence, codes=[64], overwrite_classification=True
        )
    with pytest.raises(InputError, match=r"has 300 points, got pred_class of shape \(5,\)"):
        write_predictions(tmp_path / "a.laz", tmp_path / "c.laz", pred[:5], confidence)
    assert left_behind(tmp_path) == ["a.laz", "b.laz"]


def refused(path) -> str:
    """The error of reading a file to its end."""
    with pytest.raises(InputError) as caught:
        for _ in read_chunks(path, chunk_size=100):
            pass
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_missing_empty_and_other_files_are_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "none.laz")
    (tmp_path / "folder.laz").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.laz")
    (tmp_path / "empty.laz").write_bytes(b"")
    assert "is empty" in refused(tmp_path / "empty.laz")
    (tmp_path / "text.laz").write_text("x y z\n1 2 3\n")
    assert "starts with b'x y '" in refused(tmp_path / "text.laz")
    (tmp_path / "a.obj").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"a\.obj: cannot read '\.obj' files; give one of"):
        read_header(tmp_path / "a.obj")


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, suffix):
    whole = tmp_path / f"a.{suffix}"
    small_las(whole, 400, wkt=WKT)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for size in (3, 20, 100, 226, 300, 376, 420, 600, len(content) // 2, len(content) - 30, len(content) - 1):
        cut.write_bytes(content[:size])
        message = refused(cut)
        assert "truncated" in message or "ends after" in message or "due" in message or "damaged" in message, message


def test_lying_counts_are_refused_before_anything_is_allocated(tmp_path):
    for suffix in ("las", "laz"):
        path = tmp_path / f"a.{suffix}"
        small_las(path, 400)
        content = bytearray(path.read_bytes())
        struct.pack_into("<Q", content, 247, 10**15)
        path.write_bytes(content)
        assert "promises 1000000000000000 points" in refused(path)
        struct.pack_into("<Q", content, 247, 0)
        path.write_bytes(content)
        assert "holds no points" in refused(path)
        struct.pack_into("<Q", content, 247, 400)
        struct.pack_into("<I", content, 100, 10**9)
        path.write_bytes(content)
        assert "VLR" in refused(path)
        struct.pack_into("<I", content, 96, 2**32 - 1)
        path.write_bytes(content)
        assert "points begin at byte 4294967295" in refused(path)


def test_damage_inside_the_points_is_found(tmp_path):
    path = tmp_path / "a.laz"
    small_las(path, 5000)
    content = bytearray(path.read_bytes())
    with laspy.open(path) as reader:
        start = reader.header.offset_to_point_data
    content[start + 8 : start + 8 + 100] = b"\xff" * 100
    content[start + 60 : start + 80] = bytes(20)
    path.write_bytes(content)
    try:
        total = sum(len(c) for c in read_chunks(path))
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert total == 5000  # garbage that still decodes cannot be told from points


def test_scale_of_zero_or_nan_is_refused(tmp_path):
    path = tmp_path / "a.las"
    small_las(path, 10)
    content = bytearray(path.read_bytes())
    for value in (0.0, float("nan"), float("inf")):
        struct.pack_into("<d", content, 131, value)
        path.write_bytes(content)
        assert "scale and offset" in refused(path)


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize("room", [100, 3000])
def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, suffix, room, monkeypatch):
    source, target = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    small_las(source, 2000)
    with full_disk(monkeypatch, room), pytest.raises(OSError) as caught:
        write_predictions(source, target, *predictions(2000))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)
    with file_size_limit(room), pytest.raises(OSError) as caught:
        write_predictions(source, target, *predictions(2000))
    assert caught.value.errno == errno.EFBIG
    assert left_behind(tmp_path) == [source.name]


def test_a_folder_that_cannot_be_written(tmp_path):
    small_las(tmp_path / "a.laz", 20)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError) as caught:
        write_predictions(tmp_path / "a.laz", tmp_path / "file" / "b.laz", *predictions(20))
    assert str(tmp_path / "file" / "b.laz") in str(caught.value)
