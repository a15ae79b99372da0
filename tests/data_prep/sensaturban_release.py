"""Makes small SensatUrban releases: PLY blocks in the genuine layout, those of the test server without classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BLOCKS = (
    "birmingham_block_0",
    "birmingham_block_1",
    "birmingham_block_2",
    "cambridge_block_0",
    "cambridge_block_7",
    "cambridge_block_15",
)
TEST = ("birmingham_block_2", "cambridge_block_15")


def block(seed: int, num_points: int = 800) -> np.ndarray:
    """Points of 24 m x 18 m as the release stores them."""
    rng = np.random.default_rng(seed)
    fields = [(axis, "<f4") for axis in "xyz"] + [(name, "u1") for name in ("red", "green", "blue", "class")]
    table = np.zeros(num_points, np.dtype(fields))
    table["class"] = rng.choice([0, 1, 2, 7, 9, 12], num_points)
    table["x"], table["y"] = rng.random(num_points) * 24 + 300, rng.random(num_points) * 18 - 40
    table["z"] = 50 + rng.random(num_points) * 0.1 + np.where(table["class"] == 2, 6, 0)
    for color in ("red", "green", "blue"):
        table[color] = rng.integers(0, 256, num_points)
    return table


def write_block(path: Path, table: np.ndarray, *, order: str = "<") -> None:
    names = {"f4": "float", "u1": "uchar"}
    kinds = [(name, table.dtype[name].str[1:]) for name in table.dtype.names or ()]
    table = table.astype([(name, (order if kind != "u1" else "|") + kind) for name, kind in kinds])
    form = {"<": "little", ">": "big"}[order]
    lines = ["ply", f"format binary_{form}_endian 1.0", f"element vertex {len(table)}"]
    lines += [*(f"property {names[kind]} {name}" for name, kind in kinds), "end_header"]
    path.write_bytes(("\n".join(lines) + "\n").encode() + table.tobytes())


def write_release(root: Path) -> Path:
    release = root / "SensatUrban"
    for seed, name in enumerate(BLOCKS):
        folder = release / ("test" if name in TEST else "train")
        folder.mkdir(parents=True, exist_ok=True)
        table = block(seed)
        if name in TEST:
            table = table[["x", "y", "z", "red", "green", "blue"]].copy()
            kept = [(n, table.dtype[n].str) for n in table.dtype.names or ()]
            packed = np.zeros(len(table), kept)
            for column, _ in kept:
                packed[column] = table[column]
            table = packed
        write_block(folder / f"{name}.ply", table)
    return release
