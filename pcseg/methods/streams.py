"""What a step of training gives to a method: batches by name.

``labelled`` carries labels, IGNORE where there is none. Where a method asks for views, ``weak_view`` and
``strong_view`` (and ``strong_view_2``) come from the same scenes without any label, and ``rows`` of a strong view names
for each of its rows the row of ``weak_view`` that it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pcseg.batch import PointBatch
from pcseg.pyramid import Level

Streams = Mapping[str, PointBatch]
StreamLevels = Mapping[str, Sequence[Level]]


def ramp(progress: float, warmup: float) -> float:
    """Factor that rises from 0 to 1 over the first ``warmup`` of a run."""
    return min(1.0, progress / warmup) if warmup > 0 else 1.0
