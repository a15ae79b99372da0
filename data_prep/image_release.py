"""What the preparers of image data sets share: the files of an image, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.release import Layout, SceneJob
from pcseg.datasets.image_store import (
    ImageRecord,
    checked_labels,
    is_image_there,
    kept_record,
    verify_images,
    write_image,
)
from pcseg.errors import InputError
from pcseg.io.images import read_size, write_mask
from pcseg.io.raw_tree import RawTree

IMAGES = Layout(is_there=is_image_there, verify=verify_images)

DrawMask = Callable[[bytes, str, tuple[int, int]], np.ndarray]
"""A mask of codes (H, W) from the content of a file, its name for messages, and the size of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """An image of a release and what labels it."""

    tree: RawTree
    """Of these files alone."""
    name: str
    image: str  # name in the tree
    mask: str | None
    """Mask, or other file that ``draw`` makes one of; None: no labels."""
    why: str | None = None
    """Why there must be a mask, for the message where there is none."""
    draw: DrawMask | None = None
    objects: str | None = None
    """Mask of the objects' numbers, where the release tells them apart."""


def image_job(
    files: ImageFiles, class_names: Sequence[str], codes: Mapping[int, int], settings: Mapping[str, Any]
) -> SceneJob:
    """The job that prepares one image."""
    from functools import partial

    recipe = {"classes": list(class_names), "codes": {str(k): v for k, v in codes.items()}, **settings}
    return SceneJob(
        name=files.name,
        size=sum(files.tree.sizes.values()),
        prepare=partial(prepare_image, files, tuple(class_names), dict(codes), recipe),
        check=partial(check_image, files, dict(codes)),
    )


def prepare_image(
    files: ImageFiles, class_names: tuple[str, ...], codes: dict[int, int], recipe: dict[str, Any], target: Path
) -> tuple[ImageRecord, bool]:
    """Write one image and its masks, or leave them where they are there already (True)."""
    out = target.parent
    digest = files.tree.digest(files.tree.sizes)
    found = kept_record(out, files.name, digest, recipe)
    if found is not None:
        return found, True
    with ExitStack() as stack:
        image, mask, objects = _opened(files, stack, out)
        record = write_image(
            out,
            files.name,
            image,
            mask,
            objects=objects,
            class_names=class_names,
            codes=codes,
            digest=digest,
            recipe=recipe,
        )
    return record, False


def check_image(files: ImageFiles, codes: dict[int, int]) -> list[str]:
    """Nothing, where image and mask can be read and fit."""
    with ExitStack() as stack:
        image, mask, objects = _opened(files, stack, None)
        size = read_size(image)
        if mask is not None:
            checked_labels(size, mask, objects, codes)
    return []


def _opened(files: ImageFiles, stack: ExitStack, near: Path | None) -> tuple[Path, Path | None, Path | None]:
    """Paths of the image, of its mask, drawn first where it has to be, and of the objects' mask."""
    import tempfile

    tree = files.tree
    if files.mask is None and files.why is not None:
        raise InputError(f"{tree.where(files.image)}: {files.why}, but has no mask; download the masks")
    image = stack.enter_context(tree.file(files.image, near=near))
    if files.mask is None:
        return image, None, None
    objects = None if files.objects is None else stack.enter_context(tree.file(files.objects, near=near))
    if files.draw is None:
        return image, stack.enter_context(tree.file(files.mask, near=near)), objects
    drawn = files.draw(tree.read(files.mask), tree.where(files.mask), read_size(image))
    mask = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pcseg-"))) / f"{files.name}.png"
    write_mask(mask, drawn)
    return image, mask, objects
