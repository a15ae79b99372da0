"""Pictures and class masks as arrays, through Pillow."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcseg.errors import InputError
from pcseg.io.atomic import replacing

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
"""Of pictures that are looked for."""
MAX_PIXELS = 89_000_000
"""Larger pictures are refused: a small file can promise any number of pixels."""
VOID = 255
"""Code that masks keep for "no class"."""
_REMEDY = "save it again from its source"
_ORIENTATION = 0x0112  # EXIF tag
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_LOW_BIT_STEP = {2: 85, 4: 17}  # Pillow spreads grey values of few bits over 0 to 255

Color = tuple[int, int, int]


def read_image(path: Path | str, *, keep_grey: bool = False) -> np.ndarray:  # (H, W, 3) uint8 or uint16
    """A picture, upright as its EXIF orientation says.

    Grey values are repeated in three channels, so that a network trained on colour reads them. Grey of 16 bits stays
    uint16; colour of 16 bits a channel arrives with its upper 8. Transparency is laid over black: a transparent pixel
    is black, and stays in the picture (mark it in the mask where it should not be learnt).

    Args:
        keep_grey: give a grey picture as (H, W, 1).

    Raises:
        InputError: missing, no picture, damaged, larger than ``MAX_PIXELS``, of several pages, or of values that are no
            colours (floating point, Lab).
    """
    path = Path(path)
    with _opened(path) as image:
        grey = _grey_values(path, image)
        if grey is None:
            return np.ascontiguousarray(_colors(path, _decoded(path, image)))
    return grey[..., None] if keep_grey else np.repeat(grey[..., None], 3, axis=2)


def read_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of a picture as :func:`read_image` and :func:`read_mask` give it, from its header alone.

    Raises:
        InputError: missing, no picture, larger than ``MAX_PIXELS``, or of several pages.
    """
    with _opened(Path(path)) as image:
        width, height = image.size
        # Pillow turns TIFF files by itself, the size that it reports included.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if turned else (height, width)


def read_mask(
    path: Path | str,
    colors: Mapping[Color, int] | None = None,
) -> np.ndarray:  # (H, W) int32
    """The class code of each pixel: grey value or palette index, or what its colour stands for in ``colors``.

    A picture of three channels that are all alike counts as grey. Transparency is not looked at.

    Raises:
        InputError: what :func:`read_image` refuses; a JPEG, whose colours are not exact; colours without a table; a
            colour that the table lacks, with the first pixel that has it.
    """
    path = Path(path)
    with _opened(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise InputError(f"{path}: JPEG blurs class codes; save the mask as PNG")
        if colors is None and image.mode == "P":
            return np.asarray(_decoded(path, image)).astype(np.int32)
        grey = _grey_values(path, image)
        if grey is None:
            rgb = np.asarray(_decoded(path, image).convert("RGB"))
            if colors is None and (rgb == rgb[..., :1]).all():
                grey = rgb[..., 0]
        else:
            rgb = np.repeat(grey[..., None], 3, axis=2)
    if colors is not None:
        return _codes_of(path, rgb, colors)
    if grey is None:
        raise InputError(
            f"{path}: is a mask of colours; say in classes.json what they stand for, or save class codes as grey values"
        )
    return grey.astype(np.int32)


def write_mask(
    path: Path | str,
    mask: np.ndarray,  # (H, W) integer
    palette: Sequence[Sequence[int]] | np.ndarray | None = None,  # (K, 3) colours of the codes 0 to K - 1
) -> None:
    """Write a PNG of class indices: 8 bits, with a palette to look at, or 16 bits of grey where a code exceeds 255.

    Args:
        mask: codes from 0 to 65,535; -1 (no class) becomes ``VOID``, shown black.
        palette: None: colours of :func:`pcseg.io.palette.class_colors`.

    Raises:
        InputError: a code outside that range, or ``VOID`` as the code of a class beside -1.
        OSError: the file cannot be written; it appears whole or not at all.
    """
    from PIL import Image

    from pcseg.io.palette import class_colors

    path = Path(path)
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if mask.ndim != 2 or not mask.size or low < -1 or high > 65535:
        raise InputError(f"{path}: a mask is (H, W) codes from -1 to 65535, got {mask.shape} from {low} to {high}")
    if low == -1 and (high > VOID or (mask == VOID).any()):
        raise InputError(f"{path}: the mask uses the codes -1 and {high}, but -1 is written as {VOID}; renumber it")
    codes = np.where(mask == -1, VOID, mask)
    if high > 255:
        image = Image.fromarray(codes.astype(np.uint16))
    else:
        image = Image.fromarray(codes.astype(np.uint8)).convert("L")
        table = np.zeros((256, 3), np.uint8)
        given = class_colors([str(code) for code in range(VOID)]) if palette is None else np.asarray(palette, np.uint8)
        table[: len(given)] = given[:256]
        image.putpalette(table.tobytes())
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose header is read and checked."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise InputError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give a picture file")
    refusal = f"{path}: has more than {MAX_PIXELS // 10**6} million pixels; cut it into parts"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(refusal) from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: is no picture that can be read; {_REMEDY} as PNG") from None
    except Exception as error:
        raise _damage(path, error) from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(refusal)
        # Phones keep previews as further pages of a JPEG ("MPO"); the first is the picture.
        pages = _pages(path, image)
        if pages > 1 and image.format != "MPO":
            raise InputError(f"{path}: holds {pages} pages or frames; save each as a file of its own")
        yield image


def _pages(path: Path, image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception as error:
        raise _damage(path, error) from error


def _decoded(path: Path, image: Image.Image) -> Image.Image:
    """All pixels, upright."""
    from PIL import Image

    turn = _orientation(image) if image.format != "TIFF" else 1
    operations = (
        *(None, None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM),
        *(Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90),
    )
    try:
        image.load()
    except Exception as error:
        raise _damage(path, error) from error
    operation = operations[turn]
    return image if operation is None else image.transpose(operation)


def _damage(path: Path, error: Exception) -> Exception:
    """Decoders raise what they like at damaged data; the system's own refusals stay what they are."""
    if (isinstance(error, OSError) and error.errno is not None) or isinstance(error, MemoryError):
        return error
    return InputError(f"{path}: is damaged: {' '.join(str(error).split()) or type(error).__name__}; {_REMEDY}")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, without decoding."""
    # A PNG may keep its EXIF data behind the pixels; there it is not looked for, since that would decode them.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF data that cannot be read say nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _grey_values(path: Path, image: Image.Image) -> np.ndarray | None:  # (H, W) uint8 or uint16
    """Values of a picture of one channel; None: it has colours, a palette or transparency."""
    mode = image.mode
    if mode == "1":
        return np.asarray(_decoded(path, image)).astype(np.uint8)
    if mode == "L":
        step = _LOW_BIT_STEP.get(_png_bits(path, image), 1)
        return np.asarray(_decoded(path, image)) // np.uint8(step)
    if mode in _GREY_16:
        return np.asarray(_decoded(path, image)).astype(np.uint16)
    if mode == "I":
        values = np.asarray(_decoded(path, image))
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise InputError(f"{path}: holds values from {values.min()} to {values.max()}; save it with 8 or 16 bits")
        return values.astype(np.uint16)
    if mode in ("F", "LAB"):
        raise InputError(f"{path}: holds values of kind '{mode}', no colours; save it with 8 or 16 bits a channel")
    return None


def _png_bits(path: Path, image: Image.Image) -> int:
    """Bits a value of a PNG, else 8."""
    if image.format != "PNG":
        return 8
    with path.open("rb") as file:
        return file.read(25)[24]


def _colors(path: Path, image: Image.Image) -> np.ndarray:  # (H, W, 3) uint8
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3:]
    if (alpha == 255).all():
        return rgba[..., :3]
    return ((rgba[..., :3].astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


def _codes_of(path: Path, rgb: np.ndarray, colors: Mapping[Color, int]) -> np.ndarray:  # (H, W) int32
    """Codes by colour."""
    wide = rgb.astype(np.int64)
    keys = (wide[..., 0] << 32) | (wide[..., 1] << 16) | wide[..., 2]
    present, place = np.unique(keys, return_inverse=True)
    place = place.reshape(keys.shape)
    codes = np.zeros(len(present), np.int32)
    for index, key in enumerate(present.tolist()):
        color = (key >> 32, key >> 16 & 0xFFFF, key & 0xFFFF)
        if color not in colors:
            y, x = np.argwhere(place == index)[0].tolist()
            raise InputError(
                f"{path}: pixel ({x}, {y}) has the colour {color}, which stands for no class; add it to classes.json"
            )
        codes[index] = colors[color]
    return codes[place]
