"""The arrays of a scene, written while points come in, and what ``scene.json`` says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcseg.datasets.ground import extent
from pcseg.datasets.scene_folder import ColumnInfo, SceneInfo, Source, plain_name
from pcseg.errors import InputError
from pcseg.io.npy import NpyWriter, read_npy_chunks
from pcseg.io.scan import CHUNK_SIZE, ScanChunk
from pcseg.label_map import LabelMap

_WIDEST = 1e6  # metres; beyond it float32 cannot tell points 6 cm apart


class SceneWriter:
    """Writes ``coords.npy``, ``labels.npy`` and the columns into a folder; memory holds a chunk at a time."""

    def __init__(
        self,
        folder: Path,
        where: str,
        columns: Mapping[str, tuple[str, ...]],
        label_map: LabelMap | None,
        label_column: str | None,
    ) -> None:
        """Columns of the scene lead to the attributes of a chunk that each is made from, or to none: computed later.

        Args:
            where: the source, for messages.
        """
        self.folder, self.where, self.label_map, self.label_column = folder, where, label_map, label_column
        self.columns = {name: parts for name, parts in columns.items() if parts}
        self.computed = [name for name, parts in columns.items() if not parts]
        wanted = [part for parts in self.columns.values() for part in parts]
        self.attributes: list[str] = list(dict.fromkeys([*wanted, *([label_column] if label_column else [])]))
        self.num_seen = 0
        self.origin: np.ndarray | None = None
        self.dropped: list[np.ndarray] = []
        self.low, self.high = np.full(3, np.inf), np.full(3, -np.inf)
        self.brightest = 0.0
        self.histogram: Counter[int] = Counter()
        self.unknown: Counter[float] = Counter()
        self.writers: dict[str, NpyWriter] = {"coords": NpyWriter(folder / "coords.npy", np.float32, (3,))}
        if label_column:
            self.writers["labels"] = NpyWriter(folder / "labels.npy", np.int16)

    def add(self, chunk: ScanChunk) -> None:
        """Write points; those with a non-finite coordinate are left out and counted.

        Raises:
            InputError: a point far from the others.
            OSError: the disk is full.
        """
        self.num_seen = chunk.start + len(chunk)
        keep: Any = slice(None)
        finite = np.isfinite(chunk.coords)
        if not finite.all():
            finite = finite.all(axis=1)
            self.dropped.append(np.flatnonzero(~finite) + chunk.start)
            keep = finite
        coords = chunk.coords[keep]
        if len(coords) == 0:
            return
        low, high = extent(coords)
        if self.origin is None:
            # The middle of the first points, rounded: float32 keeps millimetres for kilometres around. A median, since
            # one stray point must not cost all others their precision.
            self.origin = np.round(np.median(coords, axis=0))
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        if (self.high - self.low).max() > _WIDEST:
            far = np.abs(chunk.coords - self.origin).max(axis=1)
            row = chunk.start + int(np.where(np.isfinite(far), far, 0).argmax())
            raise InputError(
                f"{self.where}: point {row} lies more than {_WIDEST:.0f} m from the others; remove stray points"
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

    def finish(
        self,
        *,
        name: str,
        source: Source,
        recipe: dict[str, Any],
        crs: str | None = None,
        notes: Sequence[str] = (),
    ) -> SceneInfo:
        """Close the arrays and say what they hold; ``notes`` come before those on what was dropped or changed here.

        Raises:
            InputError: class codes outside the map, with their counts; no point with finite coordinates.
        """
        for writer in self.writers.values():
            writer.close()
        all_notes = list(notes)
        if self.unknown:
            codes = ", ".join(f"{code:g} ({count} points)" for code, count in sorted(self.unknown.items()))
            raise InputError(
                f"{self.where}: {self.label_column}: class codes outside the label map: {codes}; add them to the map "
                f"(as a class or as 'ignore') or give a default"
            )
        if self.origin is None:
            raise InputError(f"{self.where}: none of its {self.num_seen} points has finite coordinates")
        num_points = self.writers["coords"].rows
        if self.dropped:
            gone = np.concatenate(self.dropped)
            all_notes.append(f"{len(gone)} of {self.num_seen} points dropped: non-finite coordinates")
            rows = np.ones(self.num_seen, bool)
            rows[gone] = False
            np.save(self.folder / "source_rows.npy", np.flatnonzero(rows))
        if "color" in self.writers:
            all_notes.extend(self._finish_color())
        kept = {plain_name(n): w for n, w in self.writers.items() if n not in ("coords", "labels")}
        columns = {n: ColumnInfo(dtype=w.dtype.name, shape=(w.rows, *w.row_shape)) for n, w in kept.items()}
        for computed in self.computed:
            columns[computed] = ColumnInfo(dtype="float32", shape=(num_points,))
        names = self.label_map.class_names if self.label_map is not None else ()
        return SceneInfo(
            name=name,
            num_points=num_points,
            origin=tuple(self.origin.tolist()),
            crs=crs,
            source=source,
            class_names=names,
            class_codes=self.label_map.class_codes if self.label_map is not None else (),
            class_histogram={n: self.histogram.get(i, 0) for i, n in enumerate(names)},
            columns=columns,
            notes=tuple(all_notes),
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
        for values in read_npy_chunks(writer.path, CHUNK_SIZE):
            converted.append(values if factor == 1 else values * factor)
    part.replace(writer.path)
    converted.path = writer.path
    return converted
