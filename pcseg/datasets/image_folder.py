"""Images on disk: ``images/NAME.jpg`` with, where there are labels, ``masks/NAME.png`` (``data_prep/format.md``).

Where objects are told apart, ``instances/NAME.png`` numbers them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pcseg.datasets.array_cache import ArrayCache
from pcseg.datasets.paired_files import class_indices, grid_coords, pairs_of
from pcseg.errors import InputError
from pcseg.ignore import IGNORE
from pcseg.io.images import SUFFIXES, Color, read_image, read_mask, read_size
from pcseg.io.object_masks import read_objects
from pcseg.label_map import IGNORED


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScene:
    """An image as a row source: one row a pixel, row ``y * W + x``. Decoded on access, and kept in the cache."""

    path: Path
    name: str
    grid_shape: tuple[int, int]  # (H, W)
    class_names: tuple[str, ...]
    mask_path: Path | None = None  # None: no labels
    objects_path: Path | None = None  # None: no instances
    label_map: Mapping[int, int] = field(default_factory=dict)  # index, or IGNORE, of each code
    mask_colors: Mapping[Color, int] | None = None  # code of each colour; None: masks hold codes
    cache: ArrayCache = field(default_factory=ArrayCache, repr=False, compare=False)

    @property
    def num_points(self) -> int:
        return self.grid_shape[0] * self.grid_shape[1]

    @property
    def column_names(self) -> tuple[str, ...]:
        return ("color",)

    @property
    def coords(self) -> np.ndarray:  # (N, 2) float32, pixels (x, y)
        return grid_coords(self.grid_shape, (1.0, 1.0))

    @property
    def labels(self) -> np.ndarray | None:  # (N,) int16, class index or IGNORE
        """Raises:
        InputError: a mask that cannot be read, of another size, or with a code or colour of no class.
        """
        return None if self.mask_path is None else self.cache.get(("labels", self.path), self._read_labels)

    @property
    def instances(self) -> np.ndarray | None:  # (N,) int32, number of the object or IGNORE
        """Raises:
        InputError: as :func:`pcseg.io.object_masks.read_objects`, and what ``labels`` raises.
        """
        return None if self.objects_path is None else self.cache.get(("instances", self.path), self._read_instances)

    def column(self, name: str) -> np.ndarray:  # (N, 3) uint8 or uint16
        """``color``: red, green, blue.

        Raises:
            InputError: another name; an image that cannot be read.
        """
        if name != "color":
            raise InputError(f"{self.path}: has no column '{name}'; images have color")
        return self.cache.get(("color", self.path), self._read_color)

    def _read_color(self) -> np.ndarray:
        image = read_image(self.path)
        self._check_size(self.path, image.shape[:2])
        return image.reshape(-1, 3)

    def _read_labels(self) -> np.ndarray:
        assert self.mask_path is not None
        codes = read_mask(self.mask_path, self.mask_colors)
        self._check_size(self.mask_path, codes.shape)
        return class_indices(codes, self.label_map, where=self.mask_path, unit="pixel")

    def _read_instances(self) -> np.ndarray:
        labels = self.labels
        assert self.objects_path is not None and labels is not None
        return read_objects(self.objects_path, labels.reshape(self.grid_shape)).reshape(-1)

    def _check_size(self, path: Path, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self.grid_shape:
            height, width = self.grid_shape
            raise InputError(
                f"{path}: has {shape[1]} x {shape[0]} pixels, the image {self.path.name} has {width} x {height} "
                f"(upright, as its EXIF orientation says); give it the image's size"
            )


def find_images(
    root: Path | str,
    patterns: Sequence[str],
    class_names: Sequence[str],
    label_map: Mapping[int, int],
) -> list[ImageScene]:
    """Images under ``root/images`` whose names (without ending) match, in the order of the patterns; each once.

    Sizes are read, pixels are not. ``root/classes.json``, where there is one, adds colours and ignored codes.

    Args:
        class_names, label_map: of the run, as ``DataConfig`` has them.

    Raises:
        InputError: no folder ``images``, no image in it, two of one name, a pattern that matches nothing, an image that
            cannot be read, or a classes.json that says nothing.
    """
    root = Path(root)
    found = pairs_of(root, patterns, kind="image", suffixes=SUFFIXES, label_folder="masks", label_suffixes=(".png",))
    ignored, colors = read_classes(root / "classes.json")
    codes = dict.fromkeys(ignored, IGNORE) | dict(label_map)
    cache = ArrayCache()
    return [
        ImageScene(
            path=path,
            name=name,
            grid_shape=read_size(path),
            class_names=tuple(class_names),
            mask_path=mask,
            objects_path=_objects_of(root, name) if mask is not None else None,
            label_map=codes,
            mask_colors=colors,
            cache=cache,
        )
        for name, path, mask in found
    ]


def _objects_of(root: Path, name: str) -> Path | None:
    path = root / "instances" / f"{name}.png"
    return path if path.is_file() else None


def read_classes(path: Path) -> tuple[list[int], dict[Color, int] | None]:
    """Codes named "ignore", and the code of each colour (None: no colours), of a classes.json; nothing without a file.

    The file maps each code to a name, or to ``{"name": ..., "color": [r, g, b]}`` (a colour may also be ``"#rrggbb"``).

    Raises:
        InputError: a file that reads otherwise, some codes with and some without a colour, or a colour twice.
    """
    if not path.is_file():
        return [], None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: no JSON: {error}; correct it") from error
    if not isinstance(table, dict) or not table:
        raise InputError(f'{path}: expected {{"0": "building", ...}}: a name, or a name and a color, of each code')
    ignored, colors = [], {}
    for key, value in table.items():
        entry = {"name": value} if isinstance(value, str) else value
        fits = isinstance(entry, dict) and isinstance(entry.get("name"), str) and set(entry) <= {"name", "color"}
        if not fits or not re.fullmatch("[0-9]{1,5}", key):
            raise InputError(f'{path}: \'{key}\': expected a code with a name, or {{"name": ..., "color": [r, g, b]}}')
        if entry["name"] == IGNORED:
            ignored.append(int(key))
        if "color" in entry:
            color = _color(entry["color"])
            if color is None or color in colors:
                raise InputError(
                    f"{path}: '{key}': the color {entry['color']} is {'no color' if color is None else 'there twice'}; "
                    f"give each code its own, as [r, g, b] from 0 to 255 or '#rrggbb'"
                )
            colors[color] = int(key)
    if colors and len(colors) < len(table):
        raise InputError(
            f"{path}: only {len(colors)} of {len(table)} codes have a color; give all of them one, or none"
        )
    return ignored, colors or None


def _color(value: object) -> Color | None:
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value[1:])
        return red, green, blue
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return None
