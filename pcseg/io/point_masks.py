"""Point labels of panoptic segmentation (Fan et al. 2022): a PNG of segment ids that names a few pixels, as a mask."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from pcseg.errors import InputError
from pcseg.io.images import VOID


def point_mask(
    data: bytes,
    where: str,
    shape: tuple[int, int],
    codes: Mapping[int, int],
) -> np.ndarray:  # (H, W) uint8, ``VOID`` where there is no point
    """The classes of the points of one image.

    Args:
        data: an RGB PNG of red + 256 green + 65536 blue; 0: no point.
        shape: height and width of the image.
        codes: code of each segment id of the image.

    Raises:
        InputError: no such PNG, another size, an id without a code.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.mode != "RGB" or (picture.height, picture.width) != shape:
                raise InputError(
                    f"{where}: is {picture.mode}, {picture.width} x {picture.height}; segment ids are RGB, and the "
                    f"image has {shape[1]} x {shape[0]} pixels"
                )
            colors = np.asarray(picture, np.int64)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{where}: no whole PNG ({error}); download it again") from error
    present, place = np.unique(colors @ [1, 256, 65536], return_inverse=True)
    unknown = [number for number in present.tolist() if number not in codes and number != 0]
    if unknown:
        raise InputError(f"{where}: segment {unknown[0]} is not in the JSON; take both from one download")
    table = np.array([codes.get(number, VOID) if number else VOID for number in present.tolist()], np.uint8)
    return table[place.reshape(shape)]
