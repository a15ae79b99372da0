"""S3DIS as it is released: a room is a folder ``Annotations`` with one text file an object, ``x y z r g b`` a line.

``Stanford3dDataset_v1.2`` and ``Stanford3dDataset_v1.2_Aligned_Version`` have the same files; in the second one rooms
are turned so that their walls follow the axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from pcseg.errors import InputError
from pcseg.io.raw_tree import RawTree
from pcseg.io.scan import ScanChunk
from pcseg.io.text_columns import parse_columns, whole_bytes

_ROOM = re.compile(r"^(?P<top>(?:.*/)?)(?P<area>Area_[1-6])/(?P<room>[^/]+_\d+)/(?P<file>.+)$")
_OBJECT = re.compile(r"^Annotations/(?P<kind>[A-Za-z]+)_(?P<number>\d+)\.txt$")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """The files of one room."""

    area: str  # Area_1
    room: str  # office_1
    objects: tuple[str, ...]  # by class and number; names in the tree
    texts: tuple[str, ...]  # all points of the room once more, without objects; names in the tree

    @property
    def name(self) -> str:
        return f"{self.area}_{self.room}"


def find_rooms(tree: RawTree) -> list[Room]:
    """Every room of a release, by name; one whose annotations are missing has no objects.

    Raises:
        InputError: no room at all, or rooms in several places: two releases in one folder.
    """
    objects: dict[tuple[str, str], list[tuple[str, int, str]]] = {}
    texts: dict[tuple[str, str], list[str]] = {}
    tops: dict[str, None] = {}
    for name in tree.sizes:
        match = _ROOM.match(name)
        if match is None or PurePosixPath(name).name.startswith("."):
            continue
        key = match["area"], match["room"]
        found = _OBJECT.match(match["file"])
        if found is not None:
            objects.setdefault(key, []).append((found["kind"], int(found["number"]), name))
        elif "/" not in match["file"] and name.endswith(".txt"):
            texts.setdefault(key, []).append(name)
        else:
            continue
        tops[match["top"]] = None
    if not tops:
        raise InputError(
            f"{tree.path}: holds no S3DIS rooms (Area_N/ROOM/Annotations/CLASS_N.txt); "
            f"name the folder or zip file of Stanford3dDataset_v1.2 or its aligned version"
        )
    if len(tops) > 1:
        raise InputError(
            f"{tree.path}: rooms lie in {' and in '.join(t or '.' for t in sorted(tops))}; name one of them"
        )
    return [
        Room(*key, tuple(name for _, _, name in sorted(objects.get(key, []))), tuple(sorted(texts.get(key, []))))
        for key in sorted(objects.keys() | texts.keys())
    ]


def is_aligned(tree: RawTree) -> bool:
    """Whether this is the version whose rooms follow the axes: it says so in its name, or tells the angles."""
    named = any("aligned" in part.lower() for part in (tree.path.resolve().name, *list(tree.sizes)[:1]))
    return named or any(name.endswith("_alignmentAngle.txt") for name in tree.sizes)


def read_objects(
    tree: RawTree, room: Room, codes: Mapping[str, int], notes: list[str], *, threads: bool = False
) -> Iterator[ScanChunk]:
    """The objects of a room, one chunk each, with ``red``, ``green``, ``blue``, ``class`` and ``instances``.

    An object's instance is its place in the order of the files.

    Args:
        codes: class index of each name that object files carry.
        notes: gets a word on everything that was mended, while the chunks are read.

    Raises:
        InputError: no object file, one of an unknown class, a line that cannot be mended (named), a colour outside
            0 to 255.
    """
    if not room.objects:
        raise InputError(
            f"{tree.path}: {room.area}/{room.room}: has no Annotations/CLASS_N.txt; download the room again"
        )
    start, floats = 0, 0
    for instance, name in enumerate(room.objects):
        kind = PurePosixPath(name).stem.rpartition("_")[0]
        if kind not in codes:
            raise InputError(f"{tree.where(name)}: '{kind}' is no class; the classes are {', '.join(codes)}")
        data = tree.read(name)
        table = parse_columns(data, tree.where(name), num_columns=6, threads=threads)
        notes.extend(f"{PurePosixPath(name).name}: {repair}" for repair in table.repairs)
        floats += b"." in b"".join(data[: data.find(b"\n")].split()[3:])
        count = len(table)
        colors = {
            color: whole_bytes(values, tree.where(name), color)
            for color, values in zip(("red", "green", "blue"), table.columns[3:], strict=True)
        }
        yield ScanChunk(
            start=start,
            coords=np.stack(table.columns[:3], axis=1),
            columns={
                **colors,
                "class": np.full(count, codes[kind], np.uint8),
                "instances": np.full(count, instance, np.int32),
            },
        )
        start += count
    if floats:
        notes.append("colours are written as floats")
    expected = _lines_of_text(tree, room)
    if expected is not None and expected != start:
        notes.append(f"the room's text has {expected} points, its annotations have {start}: an object may be missing")


def check_room(tree: RawTree, room: Room, codes: Mapping[str, int]) -> list[str]:
    """What is wrong or was mended in the files of a room; everything is read, the room's own text too.

    Raises:
        InputError: as :func:`read_objects`.
    """
    notes: list[str] = []
    for _ in read_objects(tree, room, codes, notes):
        pass
    if not room.texts:
        notes.append("the room's text is missing; it is not needed")
    for name in room.texts:
        if PurePosixPath(name).stem != room.room:
            notes.append(f"the room's text is named {PurePosixPath(name).name}")
        table = parse_columns(tree.read(name), tree.where(name), num_columns=6)
        notes.extend(f"{PurePosixPath(name).name}: {repair}" for repair in table.repairs)
    return notes


def _lines_of_text(tree: RawTree, room: Room) -> int | None:
    """Points that the room's text promises, blank lines apart; None where there is not exactly one text."""
    if len(room.texts) != 1:
        return None
    count, last = 0, b"\n"
    with tree.stream(room.texts[0]) as file:
        while block := file.read(_BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")
