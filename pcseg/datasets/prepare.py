"""Scans to scene folders, in bounded memory and only where something changed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pcseg.datasets.columns import choose_columns
from pcseg.datasets.ground import GroundSettings, fit_ground
from pcseg.datasets.scene_folder import ColumnInfo, Scene, SceneInfo, Source, plain_name, write_info
from pcseg.errors import InputError
from pcseg.io import scan
from pcseg.io.atomic import replacing_folder
from pcseg.io.digest import sha256_of
from pcseg.io.npy import NpyWriter, read_npy_chunks
from pcseg.label_map import LabelMap

_RECIPE_VERSION = 3  # raise it whenever the same file and settings would give another scene
_WIDEST = 1e6  # metres; beyond it float32 cannot tell points 6 cm apart


def prepare_scan(
    path: Path | str,
    out_dir: Path | str,
    *,
    name: str | None = None,
    label_map: LabelMap | None = None,
    label_column: str | None = None,
    features: Sequence[str] | None = None,
    ground: GroundSettings | None = None,
    progress: bool = True,
    chunk_size: int = scan.CHUNK_SIZE,
) -> Scene:
    """Turn a LAS, LAZ or PLY file into the scene folder ``out_dir/name``.

    Memory holds ``chunk_size`` points at a time, whatever the size of the file. Points with a non-finite coordinate are
    dropped and noted. A scene that is already there, made from the same bytes with the same settings, is left alone.

    Args:
        name: of the scene; None: the file's name without its suffix.
        label_map: class table and codes; None: the scene gets no labels.
        label_column: attribute with the class codes; None: the file's usual one.
        features: columns to keep; None: those that :func:`pcseg.datasets.columns.choose_columns` picks.
        ground: settings of the ground model behind ``height_above_ground``; None: the defaults.
        progress: show a bar on the terminal.

    Raises:
        InputError: what :func:`pcseg.io.scan.read_chunks` refuses, a feature the file does not have, class codes
            outside the map (named, with their counts), or no point with finite coordinates.
        OSError: the folder cannot be written; what was there before is as it was.
    """
    path, out_dir = Path(path), Path(out_dir)
    header = scan.read_header(path)
    name = name or path.stem
    columns = choose_columns(header, features)
    label_column = _label_column(header, label_map, label_column)
    recipe = _recipe(label_map, label_column, columns, ground or GroundSettings())
    digest = sha256_of(path)
    found = _prepared(out_dir / name, digest, recipe)
    if found is not None:
        return found
    with _bar(name, header.num_points, progress) as advance, replacing_folder(out_dir / name) as folder:
        writer = _SceneWriter(folder, header, columns, label_map, label_column)
        for chunk in scan.read_chunks(path, writer.attributes, chunk_size=chunk_size):
            writer.add(chunk)
            advance(len(chunk))
        info = writer.finish(
            name=name,
            source=Source(file=path.name, sha256=digest, num_points=header.num_points),
            recipe=recipe,
        )
        if "height_above_ground" in columns:
            _write_height(folder, ground or GroundSettings(), chunk_size)
        write_info(folder, info)
    return Scene.open(out_dir / name)


class _SceneWriter:
    """Writes the arrays of a scene while chunks come in, and gathers what ``scene.json`` says."""

    def __init__(
        self,
        folder: Path,
        header: scan.ScanHeader,
        columns: dict[str, tuple[str, ...]],
        label_map: LabelMap | None,
        label_column: str | None,
    ) -> None:
        self.folder, self.header, self.label_map, self.label_column = folder, header, label_map, label_column
        self.columns = {name: parts for name, parts in columns.items() if parts}
        self.computed = [name for name, parts in columns.items() if not parts]
        wanted = [part for parts in self.columns.values() for part in parts]
        self.attributes: list[str] = list(dict.fromkeys([*wanted, *([label_column] if label_column else [])]))
        self.origin: np.ndarray | None = None
        self.dropped: list[np.ndarray] = []
        self.low, self.high = np.full(3, np.inf), np.full(3, -np.inf)
        self.brightest = 0.0
        self.histogram: Counter[int] = Counter()
        self.unknown: Counter[float] = Counter()
        self.writers: dict[str, NpyWriter] = {"coords": NpyWriter(folder / "coords.npy", np.float32, (3,))}
        if label_column:
            self.writers["labels"] = NpyWriter(folder / "labels.npy", np.int16)

    def add(self, chunk: scan.ScanChunk) -> None:
        finite = np.isfinite(chunk.coords).all(axis=1)
        keep: Any = slice(None)
        if not finite.all():
            self.dropped.append(np.flatnonzero(~finite) + chunk.start)
            keep = finite
        coords = chunk.coords[keep]
        if len(coords) == 0:
            return
        low, high = coords.min(axis=0), coords.max(axis=0)
        if self.origin is None:
            # The middle of the first points, rounded: float32 keeps millimetres for kilometres around. A median, since
            # one stray point must not cost all others their precision.
            self.origin = np.round(np.median(coords, axis=0))
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        if (self.high - self.low).max() > _WIDEST:
            far = np.abs(chunk.coords - self.origin).max(axis=1)
            row = chunk.start + int(np.where(finite, far, 0).argmax())
            raise InputError(
                f"{self.header.path}: point {row} lies more than {_WIDEST:.0f} m from the others; remove stray points"
            )
        self.writers["coords"].append((coords - self.origin).astype(np.float32))
        for name, parts in self.columns.items():
            values = [chunk.columns[part][keep] for part in parts]
            self._column(name, values[0] if len(values) == 1 else np.stack(values, axis=1))
        if self.label_map is not None and self.label_column is not None:
            labels, unknown = self.label_map.apply(chunk.columns[self.label_column][keep])
            self.unknown.update(unknown)
            self.histogram.update(dict(enumerate(np.bincount(labels[labels >= 0]).tolist())))
            self.writers["labels"].append(labels)

    def _column(self, name: str, values: np.ndarray) -> None:
        if name not in self.writers:
            file = self.folder / f"{plain_name(name)}.npy"
            self.writers[name] = NpyWriter(file, values.dtype.newbyteorder("="), values.shape[1:])
        if name == "color":  # NaN aside
            self.brightest = float(np.fmax.reduce(values, axis=None, initial=self.brightest))
        self.writers[name].append(values)

    def finish(self, *, name: str, source: Source, recipe: dict[str, Any]) -> SceneInfo:
        for writer in self.writers.values():
            writer.close()
        path, notes = self.header.path, []
        if self.unknown:
            codes = ", ".join(f"{code:g} ({count} points)" for code, count in sorted(self.unknown.items()))
            raise InputError(
                f"{path}: {self.label_column}: class codes outside the label map: {codes}; add them to the map "
                f"(as a class or as 'ignore') or give a default"
            )
        if self.origin is None:
            raise InputError(f"{path}: none of its {self.header.num_points} points has finite coordinates")
        num_points = self.writers["coords"].rows
        if self.dropped:
            gone = np.concatenate(self.dropped)
            notes.append(f"{len(gone)} of {self.header.num_points} points dropped: non-finite coordinates")
            rows = np.ones(self.header.num_points, bool)
            rows[gone] = False
            np.save(self.folder / "source_rows.npy", np.flatnonzero(rows))
        if "color" in self.writers:
            notes.extend(self._finish_color())
        kept = {plain_name(n): w for n, w in self.writers.items() if n not in ("coords", "labels")}
        columns = {n: ColumnInfo(dtype=w.dtype.name, shape=(w.rows, *w.row_shape)) for n, w in kept.items()}
        for computed in self.computed:
            columns[computed] = ColumnInfo(dtype="float32", shape=(num_points,))
        names = self.label_map.class_names if self.label_map is not None else ()
        return SceneInfo(
            name=name,
            num_points=num_points,
            origin=tuple(self.origin.tolist()),
            crs=self.header.crs,
            source=source,
            class_names=names,
            class_codes=self.label_map.class_codes if self.label_map is not None else (),
            class_histogram={n: self.histogram.get(i, 0) for i, n in enumerate(names)},
            columns=columns,
            notes=tuple(notes),
            recipe=recipe,
        )

    def _finish_color(self) -> list[str]:
        """Colours of 0 everywhere are none; 8 bits stored in 16 and 0 to 255 stored as floats are brought to scale."""
        writer, largest = self.writers["color"], self.brightest
        if largest <= 0:
            del self.writers["color"]
            writer.path.unlink()
            return ["no colour: it is 0 at every point"]
        if writer.dtype.kind in "iu" and writer.dtype.itemsize > 1 and largest <= 255:
            self.writers["color"] = _convert(writer, np.dtype(np.uint8), 1)
            return [f"colour: 8 bits stored in {8 * writer.dtype.itemsize}"]
        if writer.dtype.kind == "f" and largest > 1:
            self.writers["color"] = _convert(writer, np.dtype(np.float32), 1 / 255)
            return ["colour: 0 to 255 stored as floats"]
        return []


def _convert(writer: NpyWriter, dtype: np.dtype, factor: float) -> NpyWriter:
    part = writer.path.with_suffix(".part")
    with NpyWriter(part, dtype, writer.row_shape) as converted:
        for values in read_npy_chunks(writer.path, scan.CHUNK_SIZE):
            converted.append(values if factor == 1 else values * factor)
    part.replace(writer.path)
    converted.path = writer.path
    return converted


def _write_height(folder: Path, settings: GroundSettings, chunk_size: int) -> None:
    def chunks() -> Iterator[np.ndarray]:
        return read_npy_chunks(folder / "coords.npy", chunk_size)

    model = fit_ground(chunks, settings)
    with NpyWriter(folder / "height_above_ground.npy", np.float32) as writer:
        for coords in chunks():
            writer.append(model.height(coords))


def _label_column(header: scan.ScanHeader, label_map: LabelMap | None, name: str | None) -> str | None:
    if label_map is None:
        return None
    name = name or header.label_column
    if name is None:
        has = ", ".join(header.columns) or "only coordinates"
        raise InputError(f"{header.path}: no attribute looks like class codes; name it (it has {has})")
    scan.check_columns(header.path, [name], list(header.columns))
    return name


def _recipe(
    label_map: LabelMap | None, label_column: str | None, columns: dict[str, tuple[str, ...]], ground: GroundSettings
) -> dict[str, Any]:
    table = None if label_map is None else label_map.model_dump(mode="json")
    if table is not None:
        table["codes"] = {str(code): name for code, name in table["codes"].items()}
    return {
        "version": _RECIPE_VERSION,
        "label_map": table,
        "label_column": label_column,
        "columns": {name: list(parts) for name, parts in columns.items()},
        "ground": dataclasses.asdict(ground) if "height_above_ground" in columns else None,
    }


def _prepared(folder: Path, digest: str, recipe: dict[str, Any]) -> Scene | None:
    """The scene in ``folder`` if it is whole and would come out the same."""
    try:
        scene = Scene.open(folder)
        same = scene.info.source is not None and scene.info.source.sha256 == digest and scene.info.recipe == recipe
        if same:
            _ = scene.coords, scene.labels, [scene.column(name) for name in scene.column_names]
    except InputError:
        return None
    return scene if same else None


@contextlib.contextmanager
def _bar(name: str, total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal; the block gets a function that moves it on."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not (show and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(f"prepare {name}", total=total)
        yield lambda count: progress.advance(task, count)
