"""Images with panoptic labels in COCO's layout: ``SPLIT/NAME.jpg``, ``panoptic_SPLIT.json`` and ``panoptic_SPLIT/``."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.batch import IGNORE
from pcseg.datasets.array_cache import ArrayCache
from pcseg.datasets.image_folder import ImageScene
from pcseg.datasets.splits import expanded
from pcseg.errors import InputError
from pcseg.io.coco_panoptic import Category, PanopticRecord, read_index, read_segments
from pcseg.segments import Segments

_PREFIX = "panoptic_"


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticImage:
    """A picture as a row source, with the classes and the instances of its segments. Labels are read on access.

    A crowd has its class and no instance; what is void, or of an ignored category, has neither.
    """

    picture: ImageScene
    record: PanopticRecord
    class_of: Mapping[int, int]  # class index, or IGNORE, of each category id
    is_thing: tuple[bool, ...]  # of each class

    @property
    def path(self) -> Path:
        return self.picture.path

    @property
    def name(self) -> str:
        return self.picture.name

    @property
    def num_points(self) -> int:
        return self.picture.num_points

    @property
    def grid_shape(self) -> tuple[int, int]:  # (H, W)
        return self.picture.grid_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.picture.class_names

    @property
    def column_names(self) -> tuple[str, ...]:
        return self.picture.column_names

    @property
    def coords(self) -> np.ndarray:  # (N, 2) float32, pixels (x, y)
        return self.picture.coords

    @property
    def labels(self) -> np.ndarray:  # (N,) int16, class index or IGNORE
        return self._cached("labels")

    @property
    def instances(self) -> np.ndarray:  # (N,) int32, id of the thing or IGNORE
        return self._cached("instances")

    @property
    def segments(self) -> Segments:
        """The truth, crowds included.

        Raises:
            InputError: as :func:`pcseg.io.coco_panoptic.read_segments`.
        """
        return read_segments(self.record, self.class_of)

    def column(self, name: str) -> np.ndarray:  # (N, 3) uint8 or uint16
        """``color``: red, green, blue.

        Raises:
            InputError: another name; an image that cannot be read.
        """
        return self.picture.column(name)

    def _cached(self, kind: str) -> np.ndarray:
        def make() -> np.ndarray:
            segments = self.segments
            if kind == "labels":
                return segments.labels.astype(np.int16)
            return segments.instances(self.is_thing).astype(np.int32)

        return self.picture.cache.get((kind, self.path), make)


def find_panoptic_images(
    root: Path | str,
    patterns: Sequence[str],
    class_names: Sequence[str],
    label_map: Mapping[int, int],
) -> list[PanopticImage]:
    """Images of the panoptic JSON files under ``root`` or ``root/annotations`` that match, in the patterns' order.

    A pattern is matched with ``SPLIT/NAME`` and with ``NAME``: ``train2017/*``, ``0000000*``. ``@LIST`` stands for the
    names in ``root/splits/LIST.txt``. Sizes are those of the JSON; neither pictures nor segments are read.

    Args:
        class_names, label_map: of the run, as ``DataConfig`` has them; codes are category ids.

    Raises:
        InputError: no such file, a pattern that matches nothing, two images of one name, a picture that is missing,
            categories that ``label_map`` lacks, or a class that is a thing in one category and stuff in another.
    """
    root = Path(root)
    files = [f for folder in (root, root / "annotations") for f in sorted(folder.glob(f"{_PREFIX}*.json"))]
    if not files:
        raise InputError(f"{root}: holds no panoptic_SPLIT.json; name a folder in the layout of COCO")
    found: dict[str, tuple[Path, PanopticRecord, tuple[bool, ...]]] = {}
    for file in files:
        split, index = file.stem.removeprefix(_PREFIX), read_index(file)
        kinds = things_of(index.categories, label_map, class_names, where=str(file))
        for name, record in index.records.items():
            found[f"{split}/{name}"] = (root / split / record.image_file, record, kinds)
    chosen: dict[str, str] = {}
    for pattern in expanded(root, patterns):
        matched = [key for key in found if fnmatch.fnmatch(key, pattern) or fnmatch.fnmatch(Path(key).name, pattern)]
        if not matched:
            names = ", ".join(list(found)[:20]) + (", ..." if len(found) > 20 else "")
            raise InputError(f"{root}: no image matches '{pattern}'; there are {names}")
        for key in matched:
            if chosen.setdefault(Path(key).name, key) != key:
                raise InputError(f"{root}: {chosen[Path(key).name]} and {key} have one name; name the split of one")
    cache = ArrayCache()
    images = []
    for name, key in chosen.items():
        path, record, kinds = found[key]
        if not path.is_file():
            raise InputError(f"{path}: no such picture, and {record.json_path.name} has labels of it; put it there")
        picture = ImageScene(
            path=path,
            name=name,
            grid_shape=(record.height, record.width),
            class_names=tuple(class_names),
            cache=cache,
        )
        images.append(PanopticImage(picture=picture, record=record, class_of=dict(label_map), is_thing=kinds))
    return images


def things_of(
    categories: Sequence[Category],
    label_map: Mapping[int, int],
    class_names: Sequence[str],
    *,
    where: str,
) -> tuple[bool, ...]:
    """Which classes are things; one that no category leads to is none.

    Raises:
        InputError: a category that ``label_map`` lacks; a class that is a thing in one category and stuff in another.
    """
    missing = [str(category.id) for category in categories if category.id not in label_map]
    if missing:
        raise InputError(
            f"{where}: label_map lacks the categories {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}; "
            f"add them to data.label_map (-1: ignored)"
        )
    kinds: dict[int, Category] = {}
    for category in categories:
        index = label_map[category.id]
        if index == IGNORE:
            continue
        other = kinds.setdefault(index, category)
        if other.isthing != category.isthing:
            both = (other, category) if other.isthing else (category, other)
            raise InputError(
                f"{where}: the class '{class_names[index]}' stands for '{both[0].name}', a thing, and "
                f"'{both[1].name}', stuff; change data.label_map"
            )
    return tuple(index in kinds and kinds[index].isthing for index in range(len(class_names)))
