"""Writes small COPC files (copc.io, version 1.0), which laspy only reads."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import laspy
import lazrs
import numpy as np

KEY, ENTRY = struct.Struct("<4i"), struct.Struct("<Qii")
EVLR_HEAD = 60


def write_copc(source: Path, target: Path) -> None:
    """The points of a LAS or LAZ file in an octree of two levels: every fourth at the root, the rest in its children.

    Each node is a chunk of its own, of as many points as it has; the index comes first among the VLRs, the hierarchy
    last in the file.
    """
    las = laspy.read(source)
    header = las.header
    low, high = las.xyz.min(axis=0), las.xyz.max(axis=0)
    center, half = (low + high) / 2, float((high - low).max() / 2)
    octant = (las.xyz >= center).astype(int)
    nodes = {(0, 0, 0, 0): np.arange(0, len(las), 4)}
    rest = np.delete(np.arange(len(las)), nodes[0, 0, 0, 0])
    for place in np.unique(octant[rest], axis=0).tolist():
        nodes[(1, *place)] = rest[(octant[rest] == place).all(axis=1)]

    vlr = lazrs.LazVlr.new_for_compression(header.point_format.id, header.point_format.num_extra_bytes, True)  # pyright: ignore
    others = [v for v in header.vlrs if v.user_id not in ("copc", "laszip encoded")]
    out = io.BytesIO()

    def write_head(hierarchy: int) -> None:
        info = struct.pack("<5d2Q2d", *center, half, half / 8, hierarchy, len(nodes) * (KEY.size + ENTRY.size), 0, 1)
        header.vlrs = laspy.vlrs.vlrlist.VLRList(  # pyright: ignore
            [
                laspy.VLR("copc", 1, "copc info", info + bytes(160 - len(info))),
                laspy.VLR("laszip encoded", 22204, "", vlr.record_data()),
                *others,
            ]
        )
        header.start_of_first_evlr, header.number_of_evlrs = hierarchy - EVLR_HEAD, 1
        out.seek(0)
        header.write_to(out)

    header.set_compressed(True)
    write_head(EVLR_HEAD)
    compressor = lazrs.LasZipCompressor(out, vlr)  # pyright: ignore
    compressor.reserve_offset_to_chunk_table()
    entries = []
    for key, rows in nodes.items():
        start = out.tell()
        compressor.compress_many(np.frombuffer(las.points.array[rows].tobytes(), np.uint8))
        compressor.finish_current_chunk()
        entries.append(KEY.pack(*key) + ENTRY.pack(start, out.tell() - start, len(rows)))
    compressor.done()
    end = out.seek(0, io.SEEK_END)
    hierarchy = b"".join(entries)
    out.write(struct.pack("<H16sHQ32s", 0, b"copc", 1000, len(hierarchy), b"EPT Hierarchy") + hierarchy)
    write_head(end + EVLR_HEAD)
    target.write_bytes(out.getvalue())
