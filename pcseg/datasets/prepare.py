"""Scans to scene folders, in bounded memory and only where something changed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcseg.datasets.columns import choose_columns
from pcseg.datasets.ground import GroundSettings, fit_ground
from pcseg.datasets.scene_folder import Scene, Source, hash_arrays, write_info
from pcseg.datasets.scene_writer import SceneWriter
from pcseg.errors import InputError
from pcseg.io import scan
from pcseg.io.atomic import replacing_folder
from pcseg.io.digest import sha256_of
from pcseg.io.npy import NpyWriter, read_npy_chunks
from pcseg.label_map import LabelMap
from pcseg.progress import progress_bar

_RECIPE_VERSION = 3  # raise it whenever the same file and settings would give another scene


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePlan:
    """What a scene is made of: the same plan and the same source give the same scene."""

    columns: Mapping[str, tuple[str, ...]]
    """Columns of the scene, and the attributes of the source that each is made from; none: computed."""
    label_map: LabelMap | None = None
    label_column: str | None = None
    """Attribute with the class codes; given wherever there is a label map and the source has labels."""
    ground: GroundSettings = dataclasses.field(default_factory=GroundSettings)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else changes the scene, as JSON knows it."""

    @property
    def recipe(self) -> dict[str, Any]:
        table = None if self.label_map is None else self.label_map.model_dump(mode="json")
        if table is not None:
            table["codes"] = {str(code): name for code, name in table["codes"].items()}
        return {
            "version": _RECIPE_VERSION,
            "label_map": table,
            "label_column": self.label_column,
            "columns": {name: list(parts) for name, parts in self.columns.items()},
            "ground": dataclasses.asdict(self.ground) if "height_above_ground" in self.columns else None,
            **self.settings,
        }


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
            outside the map (named, with their counts), no point with finite coordinates, or a scene of that name which
            was made from another file; a folder of that name which is no scene.
        OSError: the folder cannot be written; what was there before is as it was.
    """
    path, out_dir = Path(path), Path(out_dir)
    header = scan.read_header(path)
    name = name or path.stem
    plan = ScenePlan(
        columns=choose_columns(header, features),
        label_map=label_map,
        label_column=_label_column(header, label_map, label_column),
        ground=ground or GroundSettings(),
    )
    digest = sha256_of(path)
    found = kept_scene(out_dir / name, digest, plan)
    if found is not None:
        return found
    _refuse_other_source(out_dir / name, path, digest)
    with _bar(name, header.num_points, progress) as advance:
        return write_scene(
            out_dir / name,
            plan,
            lambda attributes: scan.read_chunks(path, attributes, chunk_size=chunk_size),
            where=str(path),
            file=path.name,
            digest=digest,
            path=path,
            crs=header.crs,
            advance=advance,
            chunk_size=chunk_size,
        )


def kept_scene(folder: Path, digest: str, plan: ScenePlan) -> Scene | None:
    """The scene in ``folder`` if it is whole and would come out the same."""
    recipe = plan.recipe
    try:
        scene = Scene.open(folder)
        same = scene.info.source is not None and scene.info.source.sha256 == digest and scene.info.recipe == recipe
        if same:
            _ = scene.coords, scene.labels, [scene.column(name) for name in scene.column_names]
    except InputError:
        return None
    return scene if same else None


def _refuse_other_source(folder: Path, path: Path, digest: str) -> None:
    """A scene of the same name but of another file stays; of the same file it may be made anew.

    Files are the same by their bytes or by their place. Scenes that do not record the place go by the name.
    """
    if folder.exists() and not (folder / "scene.json").is_file() and not _is_empty(folder):
        raise InputError(f"{path}: would overwrite {folder}, which is no scene; prepare it into another folder")
    try:
        source = Scene.open(folder).info.source
    except InputError:
        return
    if source is None or source.sha256 == digest:
        return
    same = source.file == path.name if source.path is None else source.path == str(path.resolve())
    if not same:
        raise InputError(
            f"{path}: would overwrite {folder}, the scene of {source.path or source.file}; prepare it into another "
            f"folder, or remove that scene"
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def keep_or_write_scene(
    folder: Path,
    plan: ScenePlan,
    read: Callable[[list[str]], Iterable[scan.ScanChunk]],
    *,
    where: str,
    file: str,
    digest: str,
    notes: Sequence[str] = (),
) -> tuple[Scene, bool]:
    """The scene that :func:`kept_scene` finds, and True; else that of :func:`write_scene`, and False.

    Raises:
        InputError, OSError: as :func:`write_scene`.
    """
    found = kept_scene(folder, digest, plan)
    if found is not None:
        return found, True
    return write_scene(folder, plan, read, where=where, file=file, digest=digest, notes=notes), False


def write_scene(
    folder: Path,
    plan: ScenePlan,
    read: Callable[[list[str]], Iterable[scan.ScanChunk]],
    *,
    where: str,
    file: str,
    digest: str,
    path: Path | None = None,
    crs: str | None = None,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] = lambda count: None,
    measure: Callable[[Path], Sequence[str]] = lambda folder: (),
    chunk_size: int = scan.CHUNK_SIZE,
) -> Scene:
    """Write the scene folder ``folder`` from chunks of points; it appears whole or not at all.

    Args:
        read: called with the attributes that the plan needs; the rows of its chunks follow each other from 0.
        where: the source, for messages; ``file`` is its name in ``scene.json``, ``digest`` its SHA-256, and
            ``path`` where it is, if it is one file.
        notes: what the source's own reader changed; looked at once every chunk is read, so that it may grow until then.
        advance: called with the number of points of each chunk.
        measure: called with the folder of the written arrays; its words join the notes.

    Raises:
        InputError: what ``read`` and :class:`pcseg.datasets.scene_writer.SceneWriter` refuse.
        OSError: the folder cannot be written; what was there before is as it was.
    """
    with replacing_folder(folder) as temporary:
        writer = SceneWriter(temporary, where, plan.columns, plan.label_map, plan.label_column)
        for chunk in read(writer.attributes):
            writer.add(chunk)
            advance(len(chunk))
        info = writer.finish(
            name=folder.name,
            source=Source(
                file=file,
                sha256=digest,
                num_points=writer.num_seen,
                path=None if path is None else str(path.resolve()),
            ),
            recipe=plan.recipe,
            crs=crs,
            notes=notes,
        )
        if "height_above_ground" in plan.columns:
            _write_height(temporary, plan.ground, chunk_size)
        told = (*info.notes, *measure(temporary))
        write_info(temporary, info.model_copy(update={"notes": told, "array_sha256": hash_arrays(temporary)}))
    return Scene.open(folder)


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


@contextlib.contextmanager
def _bar(name: str, total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal; the block gets a function that moves it on."""
    with progress_bar(quiet=not show) as progress:
        task = progress.add_task(f"prepare {name}", total=total)
        yield lambda count: progress.advance(task, count)
