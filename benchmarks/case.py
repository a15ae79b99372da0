"""One comparison of an op with its peers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op on one input. All callables do the same work, on the same input, in this process."""

    op: str
    variant: str
    """The op's settings: ``"self k=16"``."""
    input: str
    rows: int
    """Points, pixels or queries: what times are given per."""
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]] = field(default_factory=dict)
    bytes_moved: int = 0
    """The least memory traffic: every input read once, every output written once."""
    flops: int = 0
    """The least floating-point operations."""
    check: Callable[[], None] | None = None
    """Raises where our result is wrong; run once, not timed."""


def optional(module: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
