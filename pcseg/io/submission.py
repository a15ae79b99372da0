"""Files that benchmark servers take: the class of every point, in the order of the release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from pcseg.errors import InputError
from pcseg.io.atomic import replacing

Format = Literal["scannet", "sensaturban", "semantickitti"]
_LARGEST: dict[Format, int] = {"scannet": 2**31 - 1, "sensaturban": 255, "semantickitti": 2**16 - 1}
_FRAME = re.compile(r"(\d{2})_(\d{6})")


def write_submission(
    folder: Path,
    name: str,
    codes: np.ndarray,  # (N,) integer
    form: Format,
) -> Path:
    """Write one scene's file; it appears whole or not at all.

    ``scannet``: ``NAME.txt``, one class id a line. ``sensaturban``: ``NAME.label``, one byte a point.
    ``semantickitti``: ``sequences/11/predictions/000123.label`` for the scene ``11_000123``, uint32 a point.

    Raises:
        InputError: a code that the format cannot hold; a scene that is no frame.
        OSError: the file cannot be written.
    """
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    if low < 0 or high > _LARGEST[form]:
        code = low if low < 0 else high
        raise InputError(f"{name}: class code {code} does not fit; {form} takes 0 to {_LARGEST[form]}")
    target = _target(folder, name, form)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary, temporary.open("wb") as file:
        if form == "scannet":
            file.write("".join(f"{code}\n" for code in codes.tolist()).encode())
        else:
            file.write(codes.astype(np.uint8 if form == "sensaturban" else "<u4").data)
    return target


def _target(folder: Path, name: str, form: Format) -> Path:
    if form != "semantickitti":
        return folder / f"{name}{'.txt' if form == 'scannet' else '.label'}"
    frame = _FRAME.fullmatch(name)
    if frame is None:
        raise InputError(
            f"{name}: is no frame of a sequence (11_000123); prepare with python -m data_prep.semantickitti"
        )
    return folder / "sequences" / frame[1] / "predictions" / f"{frame[2]}.label"
