"""The mask file of weak labels: which rows of a data set's scenes may show their label, drawn once and kept."""

from __future__ import annotations

import bisect
import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from pcseg.config.base import Config
from pcseg.datasets.hidden_labels import HiddenLabels
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.voxel_grid import grid_of
from pcseg.datasets.weak_recipes import AnyRecipe, Recipe
from pcseg.errors import InputError
from pcseg.ignore import IGNORE
from pcseg.io.atomic import replacing

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error)
MOST_SHARE = 0.5
"""Of rows with a label, where labels count as few."""
FIRST_SCENES = 50
_COMMAND = "python -m pcseg.weaken CONFIG RECIPE"
_AGAIN = f"draw it again with {_COMMAND}"


class MaskScene(Config):
    """A scene that the mask is of, and how much of it is visible."""

    name: str
    num_points: int = Field(ge=0)
    labels_sha256: str
    """Of all its labels, hidden ones too: :func:`labels_sha256`."""
    num_rows: int = Field(ge=0)
    """Rows whose label may be seen."""
    class_counts: tuple[int, ...]
    """Visible labels of each class."""
    num_voxels: int | None = None
    num_visible_voxels: int | None = None
    """Voxels with a visible label."""


class MaskInfo(Config):
    """The JSON text of a mask file."""

    format: Literal[1] = 1
    recipe: AnyRecipe
    seed: int
    voxel_size: float | None
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    """Visible labels of each class in all scenes."""
    ratio_points: float
    """Visible labels over all rows."""
    ratio_voxels: float | None
    """Voxels with a visible label over all voxels."""
    rows_sha256: str
    scenes: tuple[MaskScene, ...]
    """In the order of their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakLabels:
    """Visible rows of some scenes. A pure function of scenes, recipe and seed made it; nothing changes it."""

    info: MaskInfo
    rows: Mapping[str, np.ndarray] = field(repr=False)  # (n,) int64 ascending, of each scene
    path: Path | None = None  # where it was read from

    @classmethod
    def of_rows(
        cls,
        sources: Sequence[RowSource],
        rows: Mapping[str, np.ndarray],  # (n,) integer, of each scene by name
        recipe: Recipe,
        *,
        seed: int,
        voxel_size: float | None = None,
    ) -> WeakLabels:
        """A mask that shows given rows, in any order and any number of times.

        Args:
            voxel_size: counts visible voxels, too; None: not known.

        Raises:
            InputError: no scene, a scene without labels, scenes of different classes or of one name, a row that a scene
                does not have.
        """
        check_sources(sources)
        scenes, kept = [], {}
        for source in sorted(sources, key=lambda source: source.name):
            kept[source.name] = _ascending(source, rows[source.name])
            scenes.append(_described(source, kept[source.name], voxel_size))
        counts, ratio_points, ratio_voxels = _totals(scenes)
        info = MaskInfo(
            recipe=recipe,
            seed=seed,
            voxel_size=voxel_size,
            class_names=tuple(sources[0].class_names),
            class_counts=counts,
            ratio_points=ratio_points,
            ratio_voxels=ratio_voxels,
            rows_sha256=_rows_sha256(kept.values()),
            scenes=tuple(scenes),
        )
        return cls(info=info, rows=kept)

    @classmethod
    def load(cls, path: Path | str) -> WeakLabels:
        """Read a mask file.

        Raises:
            InputError: missing, damaged, or no mask file of this format.
        """
        path = Path(path)
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name the mask file in it")
        if not path.is_file():
            raise InputError(f"{path}: no such mask file; draw one with {_COMMAND} -o {path}")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                text, packed, offsets = (np.asarray(arrays[name]) for name in ("info", "rows", "offsets"))
            info = MaskInfo.model_validate_json(text.tobytes())
        except (ValidationError, ValueError, LookupError, EOFError, TypeError, AttributeError, *_ZIP_ERRORS) as error:
            raise InputError(f"{path}: is no mask file of weak labels, or a damaged one; {_AGAIN}") from error
        lengths = [scene.num_rows for scene in info.scenes]
        fits = packed.dtype == offsets.dtype == np.int64 and packed.ndim == offsets.ndim == 1
        fits = fits and np.array_equal(offsets, np.cumsum([0, *lengths])) and len(packed) == offsets[-1]
        parts = np.split(packed, offsets[1:-1]) if fits else []
        if not fits or _rows_sha256(parts) != info.rows_sha256:
            raise InputError(f"{path}: its rows are not those that it was written with; {_AGAIN}")
        rows = {scene.name: part for scene, part in zip(info.scenes, parts, strict=True)}
        return cls(info=info, rows=rows, path=path)

    def save(self, path: Path | str) -> None:
        """Write the mask file; equal masks become equal bytes.

        Raises:
            OSError: it cannot be written; what was there before is as it was.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [self.rows[scene.name] for scene in self.info.scenes]
        arrays = {
            "info": np.frombuffer(self.info.model_dump_json(indent=1).encode(), np.uint8),
            "rows": np.concatenate(parts) if parts else np.zeros(0, np.int64),
            "offsets": np.cumsum([0, *map(len, parts)], dtype=np.int64),
        }
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def rows_of(self, scene: RowSource) -> np.ndarray:  # (n,) int64 ascending
        """Rows of a scene whose label may be seen.

        Raises:
            InputError: the mask is not of this scene, or of this scene with other labels.
        """
        place = bisect.bisect_left(self.info.scenes, scene.name, key=lambda entry: entry.name)
        where = f"the mask file {self.path}" if self.path is not None else "the mask of weak labels"
        if scene.name not in self.rows:
            raise InputError(f"{scene.path}: {where} does not name it, it is of another data set; {_AGAIN}")
        entry = self.info.scenes[place]
        if scene.labels is None:
            raise InputError(f"{scene.path}: has no labels, and {where} is of labelled scenes")
        if entry.num_points != scene.num_points:
            raise InputError(
                f"{scene.path}: has {scene.num_points:,} rows, and {entry.num_points:,} when {where} was drawn; the "
                f"mask file is of another data set, or the scene was prepared anew: {_AGAIN}"
            )
        if self.info.class_names != tuple(scene.class_names) or entry.labels_sha256 != labels_sha256(scene.labels):
            raise InputError(
                f"{scene.path}: has other labels than when {where} was drawn; the mask file is of another data set, or "
                f"the scene was labelled anew: {_AGAIN}"
            )
        return self.rows[scene.name]

    def visible(self, scene: RowSource) -> np.ndarray:  # (N,) bool
        """Whose label may be seen.

        Raises:
            InputError: as :meth:`rows_of`.
        """
        return self.hide(scene).visible

    def hide(self, scene: RowSource) -> HiddenLabels:
        """The scene without the labels that may not be seen.

        Raises:
            InputError: as :meth:`rows_of`.
        """
        return HiddenLabels(scene, self.rows_of(scene))

    @property
    def sha256(self) -> str:
        """What tells this mask from others."""
        return hashlib.sha256(self.info.model_dump_json().encode()).hexdigest()

    def summary(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """What to print beside a number that was reached with these labels, as plain values.

        Args:
            names: of the scenes that are meant; None: all.
        """
        info, wanted = self.info, None if names is None else set(names)
        scenes = [scene for scene in info.scenes if wanted is None or scene.name in wanted]
        counts, ratio_points, ratio_voxels = _totals(scenes)
        return {
            "recipe": info.recipe.model_dump(mode="json"),
            "seed": info.seed,
            "voxel_size": info.voxel_size,
            "labels": dict(zip(info.class_names, counts, strict=True)),
            **_by_scene([sum(scene.class_counts) for scene in scenes]),
            "ratio_points": ratio_points,
            "ratio_voxels": ratio_voxels,
            "sha256": self.sha256,
        }


def no_labels(class_names: Sequence[str], scenes: int) -> dict[str, Any]:
    """What :meth:`WeakLabels.summary` would be of a run that sees no label at all."""
    return {
        "recipe": {"kind": "none"},
        "seed": 0,
        "voxel_size": None,
        "labels": dict.fromkeys(class_names, 0),
        **_by_scene([0] * scenes),
        "ratio_points": 0.0,
        "ratio_voxels": None,
        "sha256": None,
    }


def own_labels(
    class_names: Sequence[str],
    scenes: Iterable[np.ndarray],  # (N,) class index or IGNORE each
) -> dict[str, Any] | None:
    """What :meth:`WeakLabels.summary` would be of data that carry few labels themselves; None: most rows have one.

    Whether they are few is told from the first scenes; the others are read only then.
    """
    counts, labelled, rows = np.zeros(len(class_names), np.int64), [], 0
    for number, labels in enumerate(scenes, start=1):
        shown = np.bincount(labels[labels != IGNORE], minlength=len(class_names))
        counts, rows = counts + shown, rows + len(labels)
        labelled.append(int(shown.sum()))
        if number == FIRST_SCENES and sum(labelled) > MOST_SHARE * rows:
            return None
    if sum(labelled) > MOST_SHARE * rows:
        return None
    return no_labels(class_names, 0) | {
        "recipe": {"kind": "own"},
        "labels": dict(zip(class_names, counts.tolist(), strict=True)),
        **_by_scene(labelled),
        "ratio_points": sum(labelled) / max(rows, 1),
    }


def _by_scene(labelled: Sequence[int]) -> dict[str, Any]:
    """How the labels lie in scenes, from their number in each."""
    few = {"least": min(labelled), "median": float(np.median(labelled)), "most": max(labelled)} if labelled else None
    return {"scenes": len(labelled), "labelled_scenes": sum(n > 0 for n in labelled), "labels_a_scene": few}


def describe_summary(summary: Mapping[str, Any]) -> str:
    """:meth:`WeakLabels.summary` in one line."""
    kind = summary["recipe"]["kind"]
    if kind == "none":
        return "no labels"
    settings = [
        f"{name} {value}"
        for name, value in summary["recipe"].items()
        if name not in ("kind", "ids") and value is not None
    ]
    number = sum(summary["labels"].values())
    text = f"{kind} ({', '.join(settings)}), seed {summary['seed']}" if settings else f"{kind}, seed {summary['seed']}"
    text = "labels of their own" if kind == "own" else text
    text += f": {number:,} labels, {summary['ratio_points']:.4%} of all rows"
    if summary["ratio_voxels"] is not None:
        text += f", {summary['ratio_voxels']:.4%} of all voxels"
    if (few := summary.get("labels_a_scene")) and summary["scenes"] > 1:
        text += f", {few['least']:,} to {few['most']:,} a scene (median {few['median']:g})"
    if kind == "scenes":
        text += f", {summary['labelled_scenes']} of {summary['scenes']} scenes"
    if summary.get("lost"):
        text += f"; {summary['lost']:,} of them lie in the strip held out or beside it, and were not seen"
    return text


def labels_sha256(
    labels: np.ndarray,  # (N,) int16
) -> str:
    """Of their number and their bytes, the lower one first."""
    digest = hashlib.sha256(np.int64(len(labels)).astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(labels, "<i2").data)
    return digest.hexdigest()


def check_sources(sources: Sequence[RowSource]) -> None:
    """Refuse what no mask can be drawn of.

    Raises:
        InputError: no scene, a scene without labels, scenes of different classes or of one name.
    """
    if not sources:
        raise InputError("no scene to draw labels of; name one")
    names: dict[str, Path] = {}
    for source in sources:
        if source.labels is None:
            raise InputError(f"{source.path}: has no labels to draw from; label it, or leave it out with --scenes")
        if source.class_names != sources[0].class_names:
            raise InputError(
                f"{source.path}: has other classes than {sources[0].path}; prepare both with one label map"
            )
        if source.name in names:
            raise InputError(f"{source.path}: has the name of {names[source.name]}; rename one")
        names[source.name] = source.path


def _ascending(source: RowSource, rows: np.ndarray) -> np.ndarray:  # (n,) int64
    unique = np.unique(np.asarray(rows, np.int64))
    if len(unique) and not 0 <= unique[0] <= unique[-1] < source.num_points:
        wrong = unique[0] if unique[0] < 0 else unique[-1]
        raise InputError(f"{source.path}: has {source.num_points:,} rows, and row {wrong} is to be visible")
    return unique


def _described(source: RowSource, rows: np.ndarray, voxel_size: float | None) -> MaskScene:
    labels = source.labels
    assert labels is not None
    shown = np.asarray(labels[rows])
    voxels: tuple[int | None, int | None] = (None, None)
    if voxel_size is not None:
        grid, _ = grid_of(source.coords, voxel_size, where=source.path, what=f"the voxel size {voxel_size:g}")
        voxels = len(grid.point_offsets) - 1, len(np.unique(grid.voxel_of_point.numpy()[rows[shown >= 0]]))
    return MaskScene(
        name=source.name,
        num_points=source.num_points,
        labels_sha256=labels_sha256(labels),
        num_rows=len(rows),
        class_counts=tuple(np.bincount(shown[shown >= 0], minlength=len(source.class_names)).tolist()),
        num_voxels=voxels[0],
        num_visible_voxels=voxels[1],
    )


def _totals(scenes: Sequence[MaskScene]) -> tuple[tuple[int, ...], float, float | None]:
    """Visible labels of each class, and their share of all rows and of all voxels."""
    counts = tuple(map(sum, zip(*(scene.class_counts for scene in scenes), strict=True)))
    voxels = sum(scene.num_voxels or 0 for scene in scenes)
    shown = sum(scene.num_visible_voxels or 0 for scene in scenes)
    return counts, sum(counts) / max(sum(scene.num_points for scene in scenes), 1), shown / voxels if voxels else None


def _rows_sha256(parts: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.int64(len(part)).astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(part, "<i8").data)
    return digest.hexdigest()
