"""Panoptic labels in COCO's format: a JSON of images and segments, and a PNG of segment ids for each image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pcseg.errors import InputError
from pcseg.ignore import IGNORE
from pcseg.io.atomic import replacing, replacing_folder
from pcseg.io.images import read_image
from pcseg.segments import Segments

VOID = 0
"""Id of pixels that belong to no segment."""
_MAX_ID = 2**24 - 1
_SPREAD = 0x9E3779  # odd, so that its multiples are different colours modulo 2^24


class Category(BaseModel):
    """A class of the data set."""

    model_config = ConfigDict(frozen=True)

    id: int = Field(ge=0)
    name: str
    isthing: bool


class SegmentInfo(BaseModel):
    """A segment of an image, as the JSON describes it."""

    model_config = ConfigDict(frozen=True)

    id: int = Field(ge=1, le=_MAX_ID)
    category_id: int
    iscrowd: bool = False


class _Image(BaseModel):
    id: int | str
    file_name: str
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class _Annotation(BaseModel):
    image_id: int | str
    file_name: str
    segments_info: tuple[SegmentInfo, ...]


class _File(BaseModel):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[Category, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticRecord:
    """What the JSON says of one image."""

    name: str
    """Of the image file, without folders and ending."""
    image_file: str
    png: Path
    height: int
    width: int
    segments: tuple[SegmentInfo, ...]
    json_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticIndex:
    """A JSON of panoptic labels; its PNG files are read one by one."""

    path: Path
    categories: tuple[Category, ...]
    records: dict[str, PanopticRecord]
    """By name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticResult:
    """The panoptic labels of an image, to be written."""

    image_file: str
    image_id: int | str
    segments: Segments
    height: int
    width: int


def read_index(path: Path | str, png_folder: Path | None = None) -> PanopticIndex:
    """Read and check a panoptic JSON.

    Args:
        png_folder: None: the folder beside the JSON that is named like it.

    Raises:
        InputError: no such file, no JSON of that format, a category, image or annotation twice, an annotation without
            image, a segment of no category, or a segment id twice in an image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a panoptic JSON")
    try:
        table = _File.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "text"
        raise InputError(f"{path}: {place}: {first['msg']}; expected COCO's panoptic format") from error
    _once(path, "categories", (category.id for category in table.categories))
    _once(path, "images", (image.id for image in table.images))
    _once(path, "annotations of image", (annotation.image_id for annotation in table.annotations))
    images = {image.id: image for image in table.images}
    known = {category.id for category in table.categories}
    folder = path.with_suffix("") if png_folder is None else png_folder
    records: dict[str, PanopticRecord] = {}
    for annotation in table.annotations:
        image = images.get(annotation.image_id)
        if image is None:
            raise InputError(f"{path}: annotations: image {annotation.image_id} is not among the images; complete it")
        where = f"{path}: image {image.id}"
        _check_segments(where, annotation.segments_info, known)
        for name in (image.file_name, annotation.file_name):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise InputError(f"{where}: file_name '{name}' leads out of its folder; correct it")
        name = PurePosixPath(image.file_name).stem
        if name in records:
            raise InputError(f"{where}: another image has the name '{name}' too; rename one")
        records[name] = PanopticRecord(
            name=name,
            image_file=image.file_name,
            png=folder / annotation.file_name,
            height=image.height,
            width=image.width,
            segments=annotation.segments_info,
            json_path=path,
        )
    return PanopticIndex(path=path, categories=table.categories, records=records)


def _once(path: Path, what: str, ids: Iterable[int | str]) -> None:
    twice = [key for key, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(f"{path}: {what} {twice[0]} is there twice; remove one")


def _check_segments(where: str, segments: Sequence[SegmentInfo], known: set[int]) -> None:
    seen: dict[int, int] = {}
    for segment in segments:
        if segment.category_id not in known:
            raise InputError(
                f"{where}: segment {segment.id} has the category {segment.category_id}, which categories lack"
            )
        if segment.id in seen:
            both = seen[segment.id], segment.category_id
            used = f"is used in the categories {both[0]} and {both[1]}" if both[0] != both[1] else "is there twice"
            raise InputError(f"{where}: segment id {segment.id} {used}; give each segment an id of its own")
        seen[segment.id] = segment.category_id


def read_segments(
    record: PanopticRecord,
    class_of: Mapping[int, int],  # class index, or IGNORE: void, of each category id
) -> Segments:  # N = height * width, row y * width + x
    """The segments of an image, in the order of the JSON; those of ignored categories are void.

    Raises:
        InputError: a PNG that cannot be read, of another size, with an id that the JSON lacks or without one that it
            has, or a category that ``class_of`` lacks.
    """
    ids = read_ids(record.png)
    if ids.shape != (record.height, record.width):
        raise InputError(
            f"{record.png}: has {ids.shape[1]} x {ids.shape[0]} pixels, {record.json_path.name} says "
            f"{record.width} x {record.height}; they belong to different images"
        )
    present, place = np.unique(ids, return_inverse=True)
    listed = np.array([VOID, *(segment.id for segment in record.segments)])
    stray, gone = np.setdiff1d(present, listed), np.setdiff1d(listed[1:], present)
    if len(stray):
        y, x = np.argwhere(ids == stray[0])[0].tolist()
        raise InputError(
            f"{record.png}: pixel ({x}, {y}) has the segment id {stray[0]}, which {record.json_path.name} lacks; "
            f"add it to segments_info, or make it {VOID}"
        )
    if len(gone):
        raise InputError(
            f"{record.json_path}: image '{record.name}': segment {gone[0]} has no pixel in {record.png.name}; remove it"
        )
    numbers = dict.fromkeys([VOID], IGNORE)
    kept = []
    for segment in record.segments:
        if segment.category_id not in class_of:
            raise InputError(
                f"{record.json_path}: image '{record.name}': label_map lacks the category {segment.category_id}; "
                f"add it to data.label_map (-1: ignored)"
            )
        index = class_of[segment.category_id]
        numbers[segment.id] = IGNORE if index == IGNORE else len(kept)
        if index != IGNORE:
            kept.append((index, segment.iscrowd))
    table = np.array([numbers[int(key)] for key in present], np.int64)
    return Segments(
        ids=table[place.reshape(-1)],
        classes=np.array([index for index, _ in kept], np.int64),
        crowd=np.array([crowd for _, crowd in kept], bool),
    )


def read_ids(path: Path) -> np.ndarray:  # (H, W) int32
    """Segment ids of a panoptic PNG: red + 256 green + 65536 blue.

    Raises:
        InputError: what :func:`pcseg.io.images.read_image` refuses; a picture without colours or of 16 bits.
    """
    colors = read_image(path, keep_grey=True)
    if colors.shape[2] != 3 or colors.dtype != np.uint8:
        raise InputError(f"{path}: segment ids are colours of 8 bits a channel; save it as an RGB picture")
    red, green, blue = np.moveaxis(colors.astype(np.int32), 2, 0)
    return red + 256 * green + 65536 * blue


def write_panoptic(
    path: Path | str,
    categories: Sequence[Category],
    results: Iterable[PanopticResult],
) -> None:
    """Write ``NAME.json`` and, beside it, the folder ``NAME`` with a PNG for each image; memory holds one image.

    Segments without a pixel are left out, since the format cannot hold them. The folder appears whole, and the JSON
    after it; what was there is replaced.

    Args:
        path: of the JSON.
        categories: of each class, in the order of class indices.

    Raises:
        InputError: a segment of no category, ids that do not fill the image, or two images of one name.
        OSError: the files cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"{path}: name the JSON file to write, like predictions.json")
    images, annotations = [], []
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(path.with_suffix("")) as folder:
        for result in results:
            png = f"{PurePosixPath(result.image_file).stem}.png"
            if (folder / png).exists():
                raise InputError(f"{path}: two images would be written as {png}; rename one")
            ids = _color_ids(path, result, len(categories))
            _write_png(folder / png, ids)
            found = _describe(ids, result.segments, categories)
            images.append(
                {
                    "id": result.image_id,
                    "file_name": result.image_file,
                    "height": result.height,
                    "width": result.width,
                }
            )
            annotations.append({"image_id": result.image_id, "file_name": png, "segments_info": found})
    kinds = [{"id": c.id, "name": c.name, "isthing": int(c.isthing)} for c in categories]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"images": images, "annotations": annotations, "categories": kinds}) + "\n")


def _color_ids(path: Path, result: PanopticResult, num_classes: int) -> np.ndarray:  # (H, W) int32
    segments, size = result.segments, (result.height, result.width)
    if len(segments.ids) != size[0] * size[1]:
        raise InputError(f"{path}: {result.image_file}: {len(segments.ids)} rows are no {size[1]} x {size[0]} pixels")
    if len(segments) > _MAX_ID or (len(segments) and segments.classes.max() >= num_classes):
        raise InputError(f"{path}: {result.image_file}: a class beyond the {num_classes} categories")
    numbers = (np.arange(1, len(segments) + 1) * _SPREAD) & _MAX_ID  # far apart, to look at
    return np.append(numbers, VOID)[segments.ids].reshape(size).astype(np.int32)


def _describe(ids: np.ndarray, segments: Segments, categories: Sequence[Category]) -> list[dict]:
    """``segments_info``: id, category, crowd, area and box (x, y, width, height) of each segment that has pixels."""
    from scipy import ndimage

    numbers = segments.ids.reshape(ids.shape)
    found = []
    areas = segments.areas
    boxes = ndimage.find_objects(numbers + 1, max_label=len(segments))
    for number, box in enumerate(boxes):
        if box is None:
            continue
        rows, columns = box
        first = np.argmax(numbers[box] == number)
        found.append(
            {
                "id": int(ids[box].reshape(-1)[first]),
                "category_id": categories[int(segments.classes[number])].id,
                "iscrowd": int(segments.crowd[number]),
                "area": int(areas[number]),
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
            }
        )
    return found


def _write_png(path: Path, ids: np.ndarray) -> None:
    from PIL import Image

    colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    Image.fromarray(colors).save(path, format="PNG")
