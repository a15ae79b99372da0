"""Which attributes of a file become which columns of a scene."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcseg.errors import InputError
from pcseg.io.scan import RESULTS, ScanHeader

COMPOSITE = {
    "color": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
    "normals": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("NormalX", "NormalY", "NormalZ")),
}
"""Columns of several values a point, and the names under which files keep the parts."""

COMPUTED = ("height_above_ground",)
"""Columns made from the coordinates."""

DERIVED = {
    "ones": (),
    "return_ratio": ("return_number", "number_of_returns"),
    "imagenet_color": ("color",),
    "opponent_color": ("color",),
}
"""Features that need no column of their own, and the columns they are made from."""

_BOOKKEEPING = frozenset(
    (
        *("scan_direction_flag", "edge_of_flight_line", "scan_angle", "scanner_channel", "point_source_id", "gps_time"),
        *("classification", "synthetic", "key_point", "withheld", "overlap", "user_data"),
        *("wavepacket_index", "wavepacket_offset", "wavepacket_size", "return_point_wave_location"),
        *("x_t", "y_t", "z_t"),
    )
)
_RESULTS = frozenset((*RESULTS, "orig_class"))


def columns_of(features: Iterable[str]) -> tuple[str, ...]:
    """The scene columns that features need, each once."""
    return tuple(dict.fromkeys(column for feature in features for column in DERIVED.get(feature, (feature,))))


def choose_columns(header: ScanHeader, features: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Scene columns and the file's attributes each is made from; ``COMPUTED`` ones are made from none.

    Args:
        features: names to keep; None: whatever describes a point rather than the flight, the sensor's bookkeeping, the
            class, or an earlier prediction.

    Raises:
        InputError: a feature that the file cannot give, with the list of what it has.
    """
    composites = {
        name: parts
        for name, variants in COMPOSITE.items()
        if (parts := next((v for v in variants if set(v) <= set(header.columns)), None))
    }
    parts_of_composites = {part for parts in composites.values() for part in parts}
    if features is None:
        hidden = _RESULTS | {header.label_column} | (_BOOKKEEPING if header.format == "las" else {"alpha"})
        chosen = {name: (name,) for name in header.columns if name not in hidden and name not in parts_of_composites}
        return {"height_above_ground": (), **composites, **chosen}
    result: dict[str, tuple[str, ...]] = {}
    for name in columns_of(features):
        if name in COMPUTED:
            result[name] = ()
        elif name in composites:
            result[name] = composites[name]
        elif name in header.columns:
            result[name] = (name,)
        else:
            has = ", ".join([*COMPUTED, *composites, *(c for c in header.columns if c not in parts_of_composites)])
            raise InputError(f"{header.path}: has no column '{name}'; it has {has}; leave the feature out")
    return result
