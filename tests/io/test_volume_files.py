"""NIfTI volumes: what is read, turned and refused, and that a label volume keeps its volume's header."""

import gzip

import nibabel
import numpy as np
import pytest

from pcseg.errors import InputError
from pcseg.io.volumes import read_label_volume, read_volume, read_volume_header, write_label_volume

RNG = np.random.default_rng(0)


def affine_of(codes: str, spacing=(0.5, 1.0, 3.0)) -> np.ndarray:
    """Of a file whose axes go where ``codes`` say."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        place = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[place, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = (10, -20, 30)
    return affine


def save(path, data: np.ndarray, codes: str = "RAS"):
    nibabel.save(nibabel.Nifti1Image(data, affine_of(codes)), path)
    return path


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_volume_has_its_slices_first(tmp_path, suffix):
    data = RNG.normal(size=(4, 5, 6)).astype(np.float32)
    volume, header = read_volume(save(tmp_path / f"a.{suffix}", data))
    assert volume.dtype == np.float32 and header.shape == volume.shape == (6, 5, 4)
    assert header.spacing == (0.5, 1.0, 3.0) and header.stored_axes == "RAS"
    np.testing.assert_array_equal(volume, data.transpose(2, 1, 0))
    assert read_volume_header(tmp_path / f"a.{suffix}").shape == (6, 5, 4)


@pytest.mark.parametrize("codes", ["LPS", "ASL", "IRP"])
def test_volumes_are_turned_one_way_and_labels_written_back_as_the_file_lies(tmp_path, codes):
    data = RNG.integers(0, 9, (4, 5, 6)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", data, codes)
    volume, header = read_volume(path)
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(volume, np.asarray(canonical.dataobj).transpose(2, 1, 0))
    assert header.spacing == tuple(canonical.header.get_zooms()) and header.stored_axes == codes
    write_label_volume(tmp_path / "b.nii.gz", volume.astype(int), path)
    written = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)
    np.testing.assert_array_equal(written.affine, affine_of(codes))
    assert written.header.get_data_dtype() == np.uint8 and written.header.get_zooms() == (0.5, 1.0, 3.0)
    np.testing.assert_array_equal(read_label_volume(tmp_path / "b.nii.gz", header), volume)


def test_scaled_values_units_and_a_trailing_axis(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24.0).reshape(2, 3, 4, 1), np.diag([1e-3, 1e-3, 2e-3, 1]))
    image.header.set_xyzt_units("meter")
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 1.0)
    nibabel.save(image, tmp_path / "a.nii")
    volume, header = read_volume(tmp_path / "a.nii")
    assert header.spacing == pytest.approx((1, 1, 2)) and header.shape == (4, 3, 2)
    np.testing.assert_allclose(volume, 1 + 0.5 * np.arange(24).reshape(2, 3, 4).transpose(2, 1, 0))
    write_label_volume(tmp_path / "b.nii", np.ones((4, 3, 2), int), tmp_path / "a.nii")
    written = nibabel.load(tmp_path / "b.nii")
    assert written.shape == (2, 3, 4, 1) and (np.asarray(written.dataobj) == 1).all()


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("kept", [0.9, 0.3])
def test_truncated_volumes_are_refused(tmp_path, suffix, kept):
    path = save(tmp_path / f"a.{suffix}", RNG.normal(size=(20, 20, 20)).astype(np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"truncated.*copy or download it again") as refusal:
        read_volume(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_headers_that_promise_more_than_there_is_are_refused_before_allocating(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    content = bytearray(image.to_bytes())
    content[42:48] = np.array([1000, 1000, 1000], np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(content)))
    for name in ("a.nii", "b.nii.gz"):
        with pytest.raises(InputError, match=r"promises 1,000,000,000 bytes of voxels in a file of .*: truncated"):
            read_volume_header(tmp_path / name)
    content[42:48] = np.array([30_000] * 3, np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputError, match="30000 x 30000 x 30000 voxels, more than"):
        read_volume_header(tmp_path / "a.nii")


def test_what_is_no_volume_is_refused(tmp_path):
    save(tmp_path / "series.nii.gz", np.zeros((3, 4, 5, 2), np.float32))
    with pytest.raises(InputError, match=r"series\.nii\.gz: has the shape 3 x 4 x 5 x 2, three axes are needed"):
        read_volume_header(tmp_path / "series.nii.gz")
    save(tmp_path / "flat.nii", np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match="three axes are needed"):
        read_volume_header(tmp_path / "flat.nii")
    save(tmp_path / "complex.nii", np.zeros((3, 4, 5), np.complex64))
    with pytest.raises(InputError, match="no real numbers"):
        read_volume(tmp_path / "complex.nii")
    for name, content in (("a.nii", b"no volume"), ("b.nii.gz", b"no gzip"), ("c.nii", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: is no NIfTI file"):
            read_volume_header(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_volume_header(tmp_path / "d.nii")
    nibabel.save(nibabel.AnalyzeImage(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / "e.img")
    with pytest.raises(InputError, match="AnalyzeImage; save it as NIfTI"):
        read_volume_header(tmp_path / "e.img")


def test_labels_must_fit_their_volume(tmp_path):
    header = read_volume_header(save(tmp_path / "a.nii", np.zeros((4, 5, 6), np.float32)))
    save(tmp_path / "small.nii", np.zeros((4, 5, 5), np.uint8))
    with pytest.raises(InputError, match=r"small\.nii: has 5 x 5 x 4 voxels, its volume 6 x 5 x 4; resample"):
        read_label_volume(tmp_path / "small.nii", header)
    save(tmp_path / "turned.nii", np.zeros((4, 5, 6), np.uint8), "LPS")
    with pytest.raises(InputError, match="is oriented LPS, its volume RAS"):
        read_label_volume(tmp_path / "turned.nii", header)
    for value in (0.5, np.nan, -1.0, 1e9):
        data = np.zeros((4, 5, 6), np.float32)
        data[3, 2, 1] = value
        with pytest.raises(InputError, match=r"half\.nii: voxel \(3, 2, 1\) is .*, no class code"):
            read_label_volume(save(tmp_path / "half.nii", data), header)
    whole = np.full((4, 5, 6), 2, np.float64)
    assert (read_label_volume(save(tmp_path / "whole.nii", whole), header) == 2).all()
    for name, labels in (
        ("b.nii", np.zeros((4, 5, 6), int)),
        ("b.nii", np.full((6, 5, 4), -1)),
        ("b.mha", np.zeros((6, 5, 4), int)),
    ):
        with pytest.raises(InputError, match=rf"{name}: "):
            write_label_volume(tmp_path / name, labels, tmp_path / "a.nii")
        assert not (tmp_path / name).exists()
