"""Makes small S3DIS releases: the same folders, names and text as the genuine ones, and the same defects on demand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ALIGNED = "Stanford3dDataset_v1.2_Aligned_Version"
PLAIN = "Stanford3dDataset_v1.2"
OBJECTS = ("ceiling_1", "floor_1", "wall_1", "wall_2", "wall_10", "chair_1", "clutter_1")
PER_OBJECT = 60


def objects(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Points (n, 3) in metres with three decimals and colours (n, 3) of each object of a room of 4 m x 3 m x 2.5 m."""
    rng = np.random.default_rng(seed)
    made = {}
    for index, name in enumerate(OBJECTS):
        points = rng.random((PER_OBJECT + index, 3)) * (4.0, 3.0, 2.5)
        kind = name.split("_")[0]
        if kind in ("ceiling", "floor"):
            points[:, 2] = 2.5 if kind == "ceiling" else 0.0
        elif kind == "wall":
            points[:, index % 2] = 0.0
        else:
            points[:, 2] *= 0.3
        points += (-20.0 + seed, 30.0, 0.0)
        made[name] = np.round(points, 3), rng.integers(0, 256, points.shape)
    return made


def lines(points: np.ndarray, colors: np.ndarray, *, floats: bool = False) -> list[bytes]:
    color = "%.6f" if floats else "%d"
    form = f"%.3f %.3f %.3f {color} {color} {color}\n"
    return [(form % (*p, *c)).encode() for p, c in zip(points.tolist(), colors.tolist(), strict=True)]


def write_room(top: Path, area: str, room: str, seed: int, *, floats: bool = False) -> Path:
    """``top/area/room`` with its text and ``Annotations``; returns the latter."""
    folder = top / area / room / "Annotations"
    folder.mkdir(parents=True)
    whole = []
    for name, (points, colors) in objects(seed).items():
        text = lines(points, colors, floats=floats)
        (folder / f"{name}.txt").write_bytes(b"".join(text))
        whole += text
    (folder.parent / f"{room}.txt").write_bytes(b"".join(whole))
    return folder


def write_release(root: Path, *, top: str = ALIGNED) -> Path:
    """Three rooms in three areas, with what lies about in the genuine folders."""
    release = root / top
    for seed, (area, room) in enumerate((("Area_1", "office_1"), ("Area_2", "hallway_12"), ("Area_5", "office_2"))):
        write_room(release, area, room, seed)
    (release / "Area_1" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (release / "Area_5" / "office_2" / "Annotations" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    if top == ALIGNED:
        (release / "Area_1" / "Area_1_alignmentAngle.txt").write_text("## Global alignment angle per disjoint space\n")
    return release


def replace_line(file: Path, number: int, old: bytes, new: bytes) -> None:
    """Change part of a line, counted from 1."""
    text = file.read_bytes().splitlines(keepends=True)
    assert old in text[number - 1]
    text[number - 1] = text[number - 1].replace(old, new, 1)
    file.write_bytes(b"".join(text))
