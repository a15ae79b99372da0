"""Lists of names beside prepared data: ``splits/train.txt``, ``splits/val.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pcseg.errors import InputError

SPLITS = "splits"
"""Folder of the lists, under the folder of the data."""


def expanded(root: Path, patterns: Iterable[str]) -> list[str]:
    """Patterns with each ``@NAME`` replaced by the names in ``root/splits/NAME.txt``, one a line.

    Raises:
        InputError: no such list, with those there are, or an empty one.
    """
    result: list[str] = []
    for pattern in patterns:
        if not pattern.startswith("@"):
            result.append(pattern)
            continue
        file = root / SPLITS / f"{pattern[1:]}.txt"
        if not re.fullmatch(r"\w[\w.-]*", pattern[1:]) or not file.is_file():
            has = ", ".join(f"@{path.stem}" for path in sorted((root / SPLITS).glob("*.txt"))) or "none"
            raise InputError(f"{root}: has no list '{pattern}'; it has {has}")
        names = file.read_text(encoding="utf-8").split()
        if not names:
            raise InputError(f"{file}: names nothing; prepare what it should name")
        result += names
    return result
