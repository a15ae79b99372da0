"""Folders of data files and, beside them, label files of the same names."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pcseg.datasets.releases import preparing
from pcseg.datasets.splits import expanded
from pcseg.errors import InputError
from pcseg.ignore import IGNORE


def pairs_of(
    root: Path,
    patterns: Sequence[str],
    *,
    kind: str,
    suffixes: Sequence[str],
    label_folder: str,
    label_suffixes: Sequence[str],
) -> list[tuple[str, Path, Path | None]]:
    """(name, file, label file or None) of the files under ``root/images`` whose names match.

    The order is that of the patterns and then of the names; each comes once. A pattern ``@NAME`` stands for the names
    in ``root/splits/NAME.txt``.

    Args:
        kind: what the files are, for messages: "image".

    Raises:
        InputError: no such folder, nothing in it, a name twice, or a pattern that matches nothing.
    """
    folder = root / "images"
    if not root.is_dir() and (command := preparing(root, scenes=False)) is not None:
        raise InputError(f"{root}: no such folder; prepare {kind}s with {command}")
    if not folder.is_dir():
        raise InputError(f"{root}: has no folder 'images'; put the {kind}s into {folder}, labels into {label_folder}/")
    files = _by_name(folder, suffixes)
    if not files:
        raise InputError(f"{folder}: holds no {kind}; give files that end in {', '.join(suffixes)}")
    labels = _by_name(root / label_folder, label_suffixes) if (root / label_folder).is_dir() else {}
    chosen: dict[str, None] = {}
    for pattern in expanded(root, patterns):
        found = fnmatch.filter(files, pattern)
        if not found:
            names = ", ".join(list(files)[:20]) + (", ..." if len(files) > 20 else "")
            raise InputError(f"{folder}: no {kind} matches '{pattern}'; there are {names}")
        chosen.update(dict.fromkeys(found))
    return [(name, files[name], labels.get(name)) for name in chosen]


def _by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files by their names without ending, sorted.

    Raises:
        InputError: two files of one name.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((s for s in sorted(suffixes, key=len, reverse=True) if path.name.lower().endswith(s)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name[: -len(ending)]
        if name in files:
            raise InputError(f"{folder}: {files[name].name} and {path.name} have one name; rename or remove one")
        files[name] = path
    return files


def class_indices(
    codes: np.ndarray,  # (H, W) or (D, H, W) int32, >= 0
    label_map: Mapping[int, int],  # index, or IGNORE, of each code
    *,
    where: Path,
    unit: str,
) -> np.ndarray:  # (N,) int16
    """Codes of a label file as class indices or IGNORE.

    Raises:
        InputError: a code that the map lacks, with the first pixel or voxel (``unit``) that has it.
    """
    table = np.full(int(codes.max(initial=0)) + 1, np.iinfo(np.int16).min, np.int16)
    for code, index in label_map.items():
        if 0 <= code < len(table):
            table[code] = index
    indices = table[codes]
    unknown = indices < IGNORE
    if unknown.any():
        place = np.argwhere(unknown)[0]
        at = ", ".join(map(str, place[::-1].tolist()))
        raise InputError(
            f"{where}: {unit} ({at}) has the class code {codes[tuple(place)]}, which label_map lacks; "
            f"add it to data.label_map (-1: ignored)"
        )
    return indices.reshape(-1)


def grid_coords(
    shape: Sequence[int],  # (H, W) or (D, H, W)
    spacing: Sequence[float],  # (x, y) or (x, y, z)
) -> np.ndarray:  # (N, D) float32, rows in C order
    """Coordinates (x, y) or (x, y, z) of the cells of a grid."""
    coords = np.empty((*shape, len(shape)), np.float32)
    for axis, (extent, step) in enumerate(zip(reversed(list(shape)), spacing, strict=True)):
        across = [1] * len(shape)
        across[len(shape) - 1 - axis] = extent
        coords[..., axis] = (np.arange(extent, dtype=np.float32) * np.float32(step)).reshape(across)
    return coords.reshape(-1, len(shape))
