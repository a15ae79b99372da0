"""Makes small ScanNet releases: meshes, labels, segments, objects, texts, the label table and the lists of scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SIDE = 12  # vertices along an edge of the floor
ANGLE = 0.3  # radians by which the axis alignment turns
TABLE = (
    # id, raw_category, nyu40id
    (1, "wall", 1),
    (3, "floor", 2),
    (2, "chair", 5),
    (1163, "object", 40),
    (10, "office chair", 5),
    (500, "odd thing", 40),  # of no class of ScanNet200
)
LAYOUT = ("floor", "chair", "wall")  # raw category of each strip of the floor; the last strip belongs to no object


def mesh(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (N, 3), colours (N, 4) and triangles (F, 3) of a bumpy floor of 3.3 m."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1).reshape(-1, 2)
    vertices = np.column_stack([grid * 0.3, 0.02 * rng.random(len(grid))]).astype(np.float32)
    corner = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)[:-1, :-1].reshape(-1)
    lower = np.column_stack([corner, corner + SIDE, corner + 1])
    upper = np.column_stack([corner + SIDE, corner + SIDE + 1, corner + 1])
    colors = np.column_stack([rng.integers(0, 256, (len(grid), 3)), np.full(len(grid), 255)]).astype(np.uint8)
    return vertices, colors, np.concatenate([lower, upper]).astype(np.int32)


def strips() -> np.ndarray:
    """The strip (0 to 3) of each vertex."""
    return np.repeat(np.arange(SIDE) // 3, SIDE)


def write_mesh(
    path: Path, seed: int, *, labels: np.ndarray | None = None, order: str = "<", ascii: bool = False
) -> None:
    """A mesh as ScanNet writes it; with ``labels`` the vertices have ``label``, a ushort."""
    vertices, colors, triangles = mesh(seed)
    fields = [(axis, f"{order}f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue", "alpha")]
    kinds = ["float"] * 3 + ["uchar"] * 4
    if labels is not None:
        fields.append(("label", f"{order}u2"))
        kinds.append("ushort")
    table = np.zeros(len(vertices), np.dtype(fields))
    for index, axis in enumerate("xyz"):
        table[axis] = vertices[:, index]
    for index, color in enumerate(("red", "green", "blue", "alpha")):
        table[color] = colors[:, index]
    if labels is not None:
        table["label"] = labels
    faces = np.zeros(len(triangles), np.dtype([("count", "u1"), ("corners", f"{order}i4", (3,))]))
    faces["count"], faces["corners"] = 3, triangles
    form = "ascii" if ascii else {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    lines = ["ply", f"format {form} 1.0", "comment VCGLIB generated", f"element vertex {len(table)}"]
    lines += [f"property {kind} {field[0]}" for kind, field in zip(kinds, fields, strict=True)]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    if ascii:
        body = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in table.tolist())
        body += "\n" + "\n".join(f"3 {a} {b} {c}" for a, b, c in triangles.tolist()) + "\n"
        path.write_bytes(("\n".join(lines) + "\n" + body).encode())
    else:
        path.write_bytes(("\n".join(lines) + "\n").encode() + table.tobytes() + faces.tobytes())


def segments() -> list[int]:
    """Two segments a strip; their ids are those of vertices, as the segmentator gives them."""
    half = np.tile(np.arange(SIDE) // (SIDE // 2), SIDE)
    return (strips() * 100 + half * 7 + 5).tolist()


def groups(layout: tuple[str, ...] = LAYOUT) -> list[dict]:
    return [
        {"id": index, "objectId": index, "segments": [index * 100 + 5, index * 100 + 12], "label": label}
        for index, label in enumerate(layout)
    ]


def nyu40(layout: tuple[str, ...] = LAYOUT) -> np.ndarray:
    codes = {raw: nyu for _, raw, nyu in TABLE}
    return np.array([*(codes[raw] for raw in layout), 0])[strips()]


def write_scene(root: Path, scene: str, seed: int, *, labelled: bool = True, layout: tuple[str, ...] = LAYOUT) -> Path:
    folder = root / scene
    folder.mkdir(parents=True)
    write_mesh(folder / f"{scene}_vh_clean_2.ply", seed)
    cos, sin = np.cos(ANGLE), np.sin(ANGLE)
    turn = [cos, -sin, 0, 1.5, sin, cos, 0, -2.0, 0, 0, 1, 0.25, 0, 0, 0, 1]
    text = "axisAlignment = " + " ".join(f"{value:f}" for value in turn) + " \n" if labelled else ""
    (folder / f"{scene}.txt").write_text(text + "colorHeight = 968\nnumDepthFrames = 1\nsceneType = Office\n")
    if labelled:
        write_mesh(folder / f"{scene}_vh_clean_2.labels.ply", seed, labels=nyu40(layout))
        whole = {"params": {"kThresh": "0.0001"}, "sceneId": scene, "segIndices": segments()}
        (folder / f"{scene}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(whole))
        objects = {"sceneId": f"scannet.{scene}", "appId": "Aggregator.v2", "segGroups": groups(layout)}
        (folder / f"{scene}.aggregation.json").write_text(json.dumps({**objects, "segGroups": groups(layout)[:1]}))
        (folder / f"{scene}_vh_clean.aggregation.json").write_text(json.dumps(objects))
    return folder


def write_release(root: Path) -> Path:
    """Two scenes to train on, one to validate on and one without labels."""
    release = root / "scannet"
    for seed, scene in enumerate(("scene0000_00", "scene0000_01", "scene0011_00")):
        write_scene(release / "scans", scene, seed)
    write_scene(release / "scans_test", "scene0707_00", 7, labelled=False)
    head = "id\traw_category\tcategory\tcount\tnyu40id\tnyu40class\n"
    rows = "".join(f"{code}\t{raw}\t{raw}\t{code + 5}\t{nyu}\t{raw}\n" for code, raw, nyu in TABLE)
    (release / "scannetv2-labels.combined.tsv").write_text(head + rows)
    lists = {"train": ("scene0000_00", "scene0000_01"), "val": ("scene0011_00",), "test": ("scene0707_00",)}
    (release / "Tasks").mkdir()
    for name, scenes in lists.items():
        (release / "Tasks" / f"scannetv2_{name}.txt").write_text("\n".join(scenes) + "\n")
    return release


def write_point_lists(release: Path, count: int) -> dict[str, np.ndarray]:
    """Lists of labelled points as the Data-Efficient benchmark has them, of the scenes to train on; sorted rows."""
    import torch

    rng = np.random.default_rng(count)
    lists = {scene: rng.permutation(SIDE * SIDE)[:count] for scene in ("scene0000_00", "scene0000_01")}
    (release / "points").mkdir()
    torch.save({scene: rows.tolist() for scene, rows in lists.items()}, release / f"points/points{count}")
    return {scene: np.sort(rows) for scene, rows in lists.items()}
