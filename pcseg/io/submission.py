"""Files that benchmark servers take: the class of every point, in the order of the release."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from pcseg.errors import InputError
from pcseg.io.atomic import replacing

Format = Literal["scannet", "sensaturban"]
SUFFIXES: dict[Format, str] = {"scannet": ".txt", "sensaturban": ".label"}


def write_submission(
    folder: Path,
    name: str,
    codes: np.ndarray,  # (N,) integer
    form: Format,
) -> Path:
    """Write one scene's file; it appears whole or not at all.

    ``scannet``: ``NAME.txt``, one class id a line. ``sensaturban``: ``NAME.label``, one byte a point.

    Raises:
        InputError: a code that the format cannot hold.
        OSError: the file cannot be written.
    """
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    largest = 255 if form == "sensaturban" else 2**31 - 1
    if low < 0 or high > largest:
        raise InputError(f"{name}: class code {low if low < 0 else high} does not fit; {form} takes 0 to {largest}")
    target = folder / f"{name}{SUFFIXES[form]}"
    with replacing(target) as temporary, temporary.open("wb") as file:
        if form == "sensaturban":
            file.write(codes.astype(np.uint8).data)
        else:
            file.write("".join(f"{code}\n" for code in codes.tolist()).encode())
    return target
