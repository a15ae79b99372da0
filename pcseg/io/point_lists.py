"""Lists of labelled points, as the Data-Efficient benchmark of ScanNet releases them: saved by torch, read safely."""

from __future__ import annotations

import codecs
import io
from typing import Any

import numpy as np

from pcseg.errors import InputError

_RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]


def read_point_lists(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Point indices (n,) int64, ascending and each once, by the names of the scenes.

    Only numbers, text, lists, tables, tensors and numpy arrays are made: a file that asks for anything else is refused,
    and no code of it is run.

    Raises:
        InputError: no such file of torch, or something else than a table of scenes with their points.
    """
    import torch

    kinds = [type(np.dtype(kind)) for kind in (np.int32, np.int64, np.uint32, np.uint64)]
    allowed: list[Any] = [np.ndarray, np.dtype, *kinds, (codecs.encode, "_codecs.encode")]
    # The one function under its names in numpy 1 and 2.
    allowed += [(_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(allowed):
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever an unpickler meets in a file that is no pickle
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: is no list of points that can be read safely ({reason})") from error
    if not isinstance(found, dict) or not found:
        raise InputError(f"{where}: holds {type(found).__name__}, not a table of scenes and their points")
    return {str(name): _rows(values, f"{where}: {name}") for name, values in found.items()}


def _rows(values: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: is no list of point indices") from error
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array) or int(array.min()) < 0:
        raise InputError(f"{where}: is no list of point indices (shape {array.shape}, {array.dtype})")
    return np.unique(array.astype(np.int64))
