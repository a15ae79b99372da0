"""Files and folders appear whole or not at all."""

import errno

import pytest

from pcseg.io.atomic import replacing, replacing_folder
from tests.io.scans import file_size_limit, left_behind


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old" and temporary.parent == tmp_path
    assert target.read_text() == "new" and left_behind(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_happens_the_old_file_stays_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and left_behind(tmp_path) == ["a.txt"]


def test_a_full_disk_names_the_target_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.bin"
    with pytest.raises(OSError) as caught, replacing(target) as temporary, file_size_limit(100):
        temporary.write_bytes(bytes(1000))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(target)
    assert left_behind(tmp_path) == []


def test_a_missing_folder_names_the_target(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "none" / "a.bin") as temporary:
        temporary.write_bytes(b"x")
    assert caught.value.filename == str(tmp_path / "none" / "a.bin")


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "deep" / "scene"
    for content in ("one", "two"):
        with replacing_folder(target) as temporary:
            (temporary / f"{content}.txt").write_text(content)
    assert left_behind(target) == ["two.txt"] and left_behind(tmp_path / "deep") == ["scene"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    target = tmp_path / "scene"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(RuntimeError), replacing_folder(target) as temporary:
        (temporary / "new.txt").write_text("half")
        raise RuntimeError
    assert left_behind(target) == ["old.txt"] and left_behind(tmp_path) == ["scene"]
