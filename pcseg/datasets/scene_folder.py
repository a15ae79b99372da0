"""Scenes on disk: one folder each, one ``.npy`` an attribute, ``scene.json`` beside them (``data_prep/format.md``)."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pcseg.datasets.releases import preparing
from pcseg.datasets.splits import expanded
from pcseg.errors import InputError
from pcseg.io.digest import sha256_of
from pcseg.io.npy import open_npy

FORMAT = 1
INSTANCES = "instances"
"""The column of instance ids, which are labels as well."""
RESERVED = ("coords", "labels", "source_rows")
"""Array names with a meaning of their own; every other ``.npy`` is a column."""
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"


class Source(BaseModel):
    """The file that a scene was prepared from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    sha256: str
    num_points: int = Field(ge=0)
    """Points of the file, dropped ones included."""
    path: str | None = None
    """Where the file was, where a scene has the name of one file; another file of that name does not replace it."""


class ColumnInfo(BaseModel):
    """Type and shape of an array."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    shape: tuple[int, ...]


class SceneInfo(BaseModel):
    """The content of ``scene.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    name: str
    num_points: int = Field(ge=1)
    origin: tuple[float, float, float] | tuple[float, float]
    """Add it to the coordinates to be back in the file's frame. As many as the coordinates have dimensions."""
    crs: str | None = None
    source: Source | None = None
    class_names: tuple[str, ...] = ()
    class_codes: tuple[int, ...] = ()
    """Code of each class in the file; empty: the class indices."""
    class_histogram: dict[str, int] = {}
    columns: dict[str, ColumnInfo] = {}
    array_sha256: dict[str, str] = {}
    """SHA-256 of each array file, by its name without ``.npy``; empty where a scene was made by hand."""
    notes: tuple[str, ...] = ()
    """What preparation changed or left out, for a human."""
    recipe: dict[str, Any] = {}
    """What the scene was prepared with; another recipe makes another scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A prepared scene; arrays are memory-mapped on access and never loaded whole by it."""

    path: Path
    info: SceneInfo

    @classmethod
    def open(cls, path: Path | str) -> Scene:
        """Read and check ``scene.json``; arrays are checked against it when they are opened.

        Raises:
            InputError: no scene there, or a ``scene.json`` of another format.
        """
        path = Path(path)
        file = path / "scene.json"
        if not file.is_file():
            raise InputError(f"{path}: is no scene folder (no scene.json); prepare one with python -m data_prep.las")
        try:
            info = SceneInfo.model_validate_json(file.read_text())
        except (ValidationError, UnicodeDecodeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            place = ".".join(map(str, first["loc"])) or "text"
            raise InputError(f"{file}: {place}: {first['msg']}; prepare the scene again") from error
        for name in info.columns:
            if not _plain(name):
                raise InputError(f"{file}: columns: '{name}' is no plain name; prepare the scene again")
        return cls(path=path, info=info)

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def num_points(self) -> int:
        return self.info.num_points

    @property
    def notes(self) -> tuple[str, ...]:
        return self.info.notes

    @property
    def grid_shape(self) -> None:
        return None

    @property
    def origin(self) -> np.ndarray:  # (D,) float64
        return np.asarray(self.info.origin, np.float64)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.info.class_names

    @property
    def codes(self) -> dict[int, str]:
        """Class name, or ``ignore``, of each code that the source's labels are known to have been read with."""
        if "label_map" in self.info.recipe:
            table = self.info.recipe["label_map"]
            codes = table.get("codes") if isinstance(table, dict) else None
            return {int(c): str(n) for c, n in codes.items() if c.isdecimal()} if isinstance(codes, dict) else {}
        if self.info.recipe or len(self.info.class_codes) != len(self.class_names):
            return {}
        return dict(zip(self.info.class_codes, self.class_names, strict=False))  # a scene made by hand

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(self.info.columns)

    @property
    def coords(self) -> np.ndarray:  # (N, D) float32
        return self._array("coords", (self.num_points, len(self.info.origin)), "float32")

    @property
    def labels(self) -> np.ndarray | None:  # (N,) int16, class index or IGNORE
        if not (self.path / "labels.npy").exists():
            return None
        return self._array("labels", (self.num_points,), "int16")

    @property
    def instances(self) -> np.ndarray | None:  # (N,) signed integer, id of the thing or IGNORE
        """The column ``instances``.

        Raises:
            InputError: it holds no integers, or several a point.
        """
        if INSTANCES not in self.info.columns:
            return None
        ids = self.column(INSTANCES)
        if ids.ndim != 1 or ids.dtype.kind != "i":
            raise InputError(
                f"{self.path}: the column '{INSTANCES}' must be one signed integer a point, "
                f"got {ids.dtype} {ids.shape}; prepare the scene again"
            )
        return ids

    @property
    def source_rows(self) -> np.ndarray | None:  # (N,) int64
        """Row of each point in the source file; None: every point of the file is here, in its order."""
        if not (self.path / "source_rows.npy").exists():
            return None
        return self._array("source_rows", (self.num_points,), "int64")

    def column(self, name: str) -> np.ndarray:  # (N,) or (N, k)
        """An attribute by name.

        Raises:
            InputError: the scene has no such column, with the list of those it has.
        """
        if name not in self.info.columns:
            has = ", ".join(self.info.columns) or "only coordinates"
            raise InputError(f"{self.path}: has no column '{name}'; it has {has}")
        info = self.info.columns[name]
        return self._array(name, info.shape, info.dtype)

    def to_source(
        self,
        values: np.ndarray,  # (N, ...) one row a point of the scene
        fill: float,
    ) -> np.ndarray:  # (M, ...) one row a point of the source file
        """Values in the order of the source file; points that preparation dropped get ``fill``."""
        rows = self.source_rows
        if rows is None or self.info.source is None:
            return values
        whole = np.full((self.info.source.num_points, *values.shape[1:]), fill, values.dtype)
        whole[rows] = values
        return whole

    def _array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        file = self.path / f"{name}.npy"
        array = open_npy(file)
        if array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
            raise InputError(
                f"{file}: scene.json says {dtype} {tuple(shape)}, the file holds {array.dtype} {array.shape}; "
                f"prepare the scene again"
            )
        return array


def write_info(folder: Path, info: SceneInfo) -> None:
    """Write ``scene.json``, last of all: a folder without it is no scene."""
    (folder / "scene.json").write_text(json.dumps(info.model_dump(mode="json"), indent=1) + "\n")


def hash_arrays(folder: Path) -> dict[str, str]:
    """SHA-256 of every array file in a folder, by its name without ``.npy``."""
    return {file.stem: sha256_of(file) for file in sorted(folder.glob("*.npy"))}


def find_scenes(root: Path | str, patterns: Sequence[str] = ("*",)) -> list[Scene]:
    """Scenes under a folder whose names match, in the order of the patterns and then of the names; each once.

    A pattern ``@NAME`` stands for the names in the file ``splits/NAME.txt`` under the folder, one a line.

    Raises:
        InputError: no such folder, no such list, or a pattern that matches no scene, with the names there are.
    """
    root = Path(root)
    if not root.is_dir():
        command = preparing(root, scenes=True) or "python -m data_prep.las"
        raise InputError(f"{root}: no such folder; prepare scenes with {command}")
    names = sorted(p.name for p in root.iterdir() if not p.name.startswith(".") and (p / "scene.json").is_file())
    chosen: dict[str, None] = {}
    for pattern in expanded(root, patterns):
        found = fnmatch.filter(names, pattern)
        if not found:
            raise InputError(f"{root}: no scene matches '{pattern}'; there are {', '.join(names) or 'none'}")
        chosen.update(dict.fromkeys(found))
    return [Scene.open(root / name) for name in chosen]


def _plain(name: str) -> bool:
    return re.match(_NAME, name) is not None and name not in RESERVED


def plain_name(name: str) -> str:
    """A column name that is safe as a file name: other characters become ``_``."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".-") or "column"
    return f"{name}_" if name in RESERVED else name
