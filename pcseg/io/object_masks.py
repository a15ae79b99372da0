"""Objects as PASCAL VOC keeps them: a PNG with the number of each object, beside a PNG of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pcseg.errors import InputError
from pcseg.ignore import IGNORE
from pcseg.io.images import read_mask


def read_objects(
    path: Path | str,
    labels: np.ndarray,  # (H, W) integer, class index of each pixel or IGNORE
) -> np.ndarray:  # (H, W) int32, number of the object or IGNORE
    """Grey values or palette indices of an object mask; 0 stands for no object, and pixels without a label have none.

    VOC's border of 255 has no label either, so it needs no rule of its own.

    Raises:
        InputError: what :func:`pcseg.io.images.read_mask` refuses; a mask of another size; an object that lies in two
            classes, with a pixel of the second.
    """
    path = Path(path)
    objects = read_mask(path)
    if objects.shape != labels.shape:
        raise InputError(
            f"{path}: has {objects.shape[1]} x {objects.shape[0]} pixels, the class mask has "
            f"{labels.shape[1]} x {labels.shape[0]}; give both the image's size"
        )
    instances = np.where((objects > 0) & (labels != IGNORE), objects, IGNORE).astype(np.int32)
    check_one_class(instances.reshape(-1), labels.reshape(-1), where=str(path), width=labels.shape[1])
    return instances


def check_one_class(
    instances: np.ndarray,  # (N,) integer, or IGNORE
    labels: np.ndarray,  # (N,) integer, or IGNORE
    *,
    where: str,
    width: int | None = None,
) -> None:
    """Refuse an instance whose labelled rows are of two classes.

    Args:
        where: the source, for the message.
        width: of the image, where rows are pixels.

    Raises:
        InputError: there is one; the message names it, both classes and a row or pixel of the second.
    """
    rows = np.flatnonzero((instances != IGNORE) & (labels != IGNORE))
    known, classes = instances[rows], labels[rows]
    ids, first, place = np.unique(known, return_index=True, return_inverse=True)
    wrong = np.flatnonzero(classes != classes[first][place.reshape(-1)])
    if not len(wrong):
        return
    number, row = int(known[wrong[0]]), int(rows[wrong[0]])
    at = f"row {row}" if width is None else f"pixel ({row % width}, {row // width})"
    both = int(classes[first][np.searchsorted(ids, number)]), int(classes[wrong[0]])
    raise InputError(
        f"{where}: the instance {number} is used in two classes, {both[0]} and {both[1]} ({at}); "
        f"give each its own number, or make the labels agree"
    )
