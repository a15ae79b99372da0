"""Images and masks prepared from a release: the image folder, with a record of each image's source beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pcseg.datasets.paired_files import class_indices
from pcseg.errors import InputError
from pcseg.ignore import IGNORE
from pcseg.io.atomic import replacing
from pcseg.io.digest import sha256_of
from pcseg.io.images import read_mask, read_size
from pcseg.io.object_masks import read_objects

RECORDS = "records"


class ImageRecord(BaseModel):
    """The content of ``records/NAME.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str
    num_points: int
    """Pixels."""
    source_sha256: str
    recipe: dict[str, Any]
    class_histogram: dict[str, int] = {}
    """Pixels of each class."""
    files: dict[str, str]
    """SHA-256 of each file, by its name under the folder."""
    notes: tuple[str, ...] = ()


def kept_record(out: Path, name: str, digest: str, recipe: Mapping[str, Any]) -> ImageRecord | None:
    """The record of an image that is there, whole, and would come out the same."""
    try:
        record = ImageRecord.model_validate_json((out / RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    same = record.source_sha256 == digest and record.recipe == dict(recipe)
    return record if same and all((out / file).is_file() for file in record.files) else None


def write_image(
    out: Path,
    name: str,
    image: Path,
    mask: Path | None,
    *,
    objects: Path | None = None,
    class_names: Sequence[str],
    codes: Mapping[int, int],
    digest: str,
    recipe: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> ImageRecord:
    """Copy an image, its mask of codes and that of its objects into the folder, checked; the record is written last.

    Args:
        objects: numbers of objects as VOC keeps them; only beside a mask.
        codes: class index, or IGNORE, of each code of the mask.

    Raises:
        InputError: a picture that cannot be read, a mask of another size or with an unknown code, an object that lies
            in two classes.
        OSError: the folder cannot be written.
    """
    height, width = read_size(image)
    counts = np.zeros(len(class_names), np.int64)
    if mask is not None:
        labels = checked_labels((height, width), mask, objects, codes)
        counts = np.bincount(labels[labels != IGNORE], minlength=len(class_names))
    files = {f"images/{name}{image.suffix.lower()}": image}
    if mask is not None:
        files[f"masks/{name}.png"] = mask
        if objects is not None:
            files[f"instances/{name}.png"] = objects
    for target, source in files.items():
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        with replacing(out / target) as temporary, source.open("rb") as data, temporary.open("wb") as file:
            while block := data.read(1 << 20):
                file.write(block)
    record = ImageRecord(
        name=name,
        num_points=height * width,
        source_sha256=digest,
        recipe=dict(recipe),
        class_histogram=dict(zip(class_names, counts.tolist(), strict=True)) if mask is not None else {},
        files={target: sha256_of(out / target) for target in files},
        notes=tuple(notes),
    )
    (out / RECORDS).mkdir(exist_ok=True)
    with replacing(out / RECORDS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    return record


def checked_labels(
    size: tuple[int, int], mask: Path, objects: Path | None, codes: Mapping[int, int]
) -> np.ndarray:  # (H * W,) class index, or IGNORE
    """The labels of a mask of codes that fits an image of ``size``, and that the objects' mask agrees with.

    Raises:
        InputError: a mask of another size or with an unknown code, an object that lies in two classes.
    """
    found = read_mask(mask)
    if found.shape != size:
        raise InputError(
            f"{mask}: has {found.shape[1]} x {found.shape[0]} pixels, the image has {size[1]} x {size[0]}; "
            f"download both again"
        )
    labels = class_indices(found, codes, where=mask, unit="pixel")
    if objects is not None:
        read_objects(objects, labels.reshape(size))
    return labels


def is_image_there(out: Path, name: str) -> bool:
    return (out / RECORDS / f"{name}.json").is_file()


def verify_images(out: Path) -> dict[str, list[str]]:
    """What is wrong with each image of a folder; an empty list: nothing.

    Raises:
        InputError: no such folder, or none with records.
    """
    records = sorted((out / RECORDS).glob("*.json")) if (out / RECORDS).is_dir() else []
    if not records:
        raise InputError(f"{out}: holds no {RECORDS} of prepared images; prepare some first")
    problems: dict[str, list[str]] = {}
    for file in records:
        found: list[str] = []
        try:
            record = ImageRecord.model_validate_json(file.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError):
            problems[file.stem] = [f"{file}: is no record; prepare the image again"]
            continue
        for name, digest in record.files.items():
            if not (out / name).is_file():
                found.append(f"{out / name}: is missing; prepare the image again")
            elif sha256_of(out / name) != digest:
                found.append(f"{out / name}: has changed since it was written; prepare the image again")
        problems[file.stem] = found
    return problems
