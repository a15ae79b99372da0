"""NIfTI volumes as arrays, through nibabel."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcseg.errors import InputError
from pcseg.io.atomic import replacing

SUFFIXES = (".nii", ".nii.gz")
MAX_VOXELS = 2**30
_DEFLATE_LIMIT = 1040  # a byte of a .gz cannot become more
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_REMEDY = "copy or download it again"


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What a NIfTI file says before its voxels.

    Arrays are turned so that x goes to the patient's right, y to the front, z to the head ("RAS"), as nearly as whole
    turns allow: volumes that are stored differently then have the same coordinates.
    """

    shape: tuple[int, int, int]  # (D, H, W): extents along z, y, x
    spacing: tuple[float, float, float]  # (x, y, z) millimetres
    affine: np.ndarray  # (4, 4) float64, the file's own: from its indices to the scanner's millimetres
    stored_axes: str  # where the file's own three axes go, such as "LPS"


def read_volume_header(path: Path | str) -> VolumeHeader:
    """Shape, spacing, affine and orientation, without decoding the voxels.

    Raises:
        InputError: missing, no NIfTI file, not of three axes, a spacing that is not positive, more voxels than
            ``MAX_VOXELS`` or than a file of that size can hold.
    """
    return _open(Path(path))[1]


def read_volume(path: Path | str) -> tuple[np.ndarray, VolumeHeader]:  # (D, H, W) float32
    """Signal, scaled as the header says.

    Raises:
        InputError: what :func:`read_volume_header` refuses; truncated or damaged data; voxels that are no real numbers.
    """
    path = Path(path)
    image, header = _open(path)
    return np.ascontiguousarray(_voxels(path, image, header), np.float32), header


def read_label_volume(path: Path | str, like: VolumeHeader) -> np.ndarray:  # (D, H, W) int32
    """Class codes of a volume, voxel by voxel as both files store them.

    Args:
        like: the header of the volume.

    Raises:
        InputError: what :func:`read_volume` refuses; another size or orientation than the volume; values that are no
            integers from 0 to 65,535, with the first voxel that has one.
    """
    path = Path(path)
    image, header = _open(path)
    if header.shape != like.shape:
        raise InputError(
            f"{path}: has {_by(header.shape)} voxels, its volume {_by(like.shape)}; resample it to the volume's grid"
        )
    if header.stored_axes != like.stored_axes:
        raise InputError(
            f"{path}: is oriented {header.stored_axes}, its volume {like.stored_axes}; save it with the volume's header"
        )
    values = _voxels(path, image, header)
    with np.errstate(invalid="ignore"):
        codes = values.astype(np.int32)
    wrong = (codes != values) | (values < 0) | (values > 65535)
    if wrong.any():
        z, y, x = np.argwhere(wrong)[0].tolist()
        raise InputError(f"{path}: voxel ({x}, {y}, {z}) is {values[z, y, x]:g}, no class code; save whole numbers")
    return np.ascontiguousarray(codes)


def write_label_volume(
    path: Path | str,
    labels: np.ndarray,  # (D, H, W) integers from 0 to 65,535
    like: Path | str,
) -> None:
    """Write class codes with the header, affine and axes of the volume ``like``, as uint8 or uint16.

    Raises:
        InputError: a path that is no .nii or .nii.gz, another shape than the volume's, a code outside the range.
        OSError: the file cannot be written; it appears whole or not at all.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 65535:
        raise InputError(f"{path}: class codes from {low} to {high}; NIfTI files are written with 0 to 65535")
    _write(Path(path), labels, np.uint8 if high <= 255 else np.uint16, Path(like))


def write_volume(
    path: Path | str,
    values: np.ndarray,  # (D, H, W) float
    like: Path | str,
) -> None:
    """Write numbers, such as confidences, with the header, affine and axes of the volume ``like``, as float32.

    Raises:
        InputError, OSError: as :func:`write_label_volume`.
    """
    _write(Path(path), values, np.float32, Path(like))


def _write(path: Path, values: np.ndarray, dtype: type, like: Path) -> None:
    import nibabel
    from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

    source, header = _open(like)
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: volumes are written as .nii or .nii.gz; rename it")
    if values.shape != header.shape:
        raise InputError(f"{path}: {_by(values.shape)} labels for the {_by(header.shape)} voxels of {like}")
    new = source.header.copy()
    new.set_data_dtype(dtype)
    new.set_slope_inter(1, 0)
    back = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(header.stored_axes))
    data = np.asarray(apply_orientation(values.transpose(2, 1, 0), back), dtype).reshape(source.shape)
    content = nibabel.Nifti1Image(data, source.affine, new).to_bytes()
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)


def _open(path: Path) -> tuple[Any, VolumeHeader]:
    import nibabel
    from nibabel.orientations import aff2axcodes, axcodes2ornt

    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give a .nii or .nii.gz file")
    try:
        loaded = nibabel.load(path)
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{path}: is no NIfTI file; {_REMEDY}") from error
    except Exception as error:  # nibabel's many readers raise what they like
        raise InputError(f"{path}: is no NIfTI file that can be read ({_line(error)}); {_REMEDY}") from error
    if not isinstance(loaded, nibabel.Nifti1Image):  # NIfTI-2 is a subclass
        raise InputError(f"{path}: is of type {type(loaded).__name__}; save it as NIfTI (.nii or .nii.gz)")
    image: Any = loaded
    affine = np.asarray(image.affine, np.float64)
    full = tuple(int(extent) for extent in image.shape)
    if len(full) < 3 or min(full) < 1 or math.prod(full[3:]) != 1:
        raise InputError(f"{path}: has the shape {_by(full)}, three axes are needed; save one volume a file")
    count = math.prod(full)
    if count > MAX_VOXELS:
        raise InputError(f"{path}: has {_by(full)} voxels, more than {MAX_VOXELS:,}; cut it into parts")
    size, needed = path.stat().st_size, count * image.header.get_data_dtype().itemsize
    if needed > size * (_DEFLATE_LIMIT if path.suffix == ".gz" else 1):
        raise InputError(f"{path}: promises {needed:,} bytes of voxels in a file of {size:,}: truncated; {_REMEDY}")
    unit = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    spacing = tuple(float(np.float32(step * unit)) for step in image.header.get_zooms()[:3])
    if not all(step > 0 and math.isfinite(step) for step in spacing) or not np.isfinite(affine).all():
        raise InputError(f"{path}: has the spacing {spacing}; set the header's pixdim to millimetres")
    codes = aff2axcodes(affine)
    axes = "RAS" if None in codes else "".join(codes)  # an affine that names no axes turns none
    target = [int(axis) for axis in axcodes2ornt(axes)[:, 0]]  # where each of the file's axes goes
    x, y, z = (target.index(axis) for axis in range(3))
    shape = (full[z], full[y], full[x])
    return image, VolumeHeader(shape, (spacing[x], spacing[y], spacing[z]), affine, axes)


def _voxels(path: Path, image: Any, header: VolumeHeader) -> np.ndarray:  # (D, H, W)
    from nibabel.orientations import apply_orientation, axcodes2ornt

    dtype = image.header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: has voxels of type {dtype}, no real numbers; save one channel as a volume")
    try:
        data = np.asanyarray(image.dataobj)
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{path}: is truncated or damaged ({_line(error)}); {_REMEDY}") from error
    except Exception as error:  # gzip, zlib and nibabel at damaged data
        raise InputError(f"{path}: is truncated or damaged ({_line(error)}); {_REMEDY}") from error
    return apply_orientation(data.reshape(data.shape[:3]), axcodes2ornt(header.stored_axes)).transpose(2, 1, 0)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
