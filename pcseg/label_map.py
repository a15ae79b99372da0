"""From the class codes of a file to class indices, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pcseg.errors import InputError
from pcseg.ignore import IGNORE

IGNORED = "ignore"
"""The name that stands for no class at all."""


class LabelMap(BaseModel):
    """A class table and the file codes that lead to it.

    Raises:
        ValueError: a code that leads to an unknown class, a class twice, or no class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_names: tuple[str, ...]
    codes: dict[int, str]
    """Class name, or ``ignore``, of each code of the file."""
    default: str | None = None
    """Class name, or ``ignore``, of every other code; None refuses it."""

    @model_validator(mode="after")
    def _names_fit(self) -> LabelMap:
        if not self.class_names or len(set(self.class_names)) < len(self.class_names) or IGNORED in self.class_names:
            raise ValueError(f"class_names must differ, be at least one and none '{IGNORED}', got {self.class_names}")
        for name in (*self.codes.values(), self.default or IGNORED):
            if name != IGNORED and name not in self.class_names:
                raise ValueError(f"'{name}' is no class; the classes are {', '.join(self.class_names)}")
        return self

    @property
    def class_codes(self) -> tuple[int, ...]:
        """The code to write for each class: its lowest one, or its index where no code leads to it."""
        return tuple(
            min((code for code, name in self.codes.items() if name == wanted), default=index)
            for index, wanted in enumerate(self.class_names)
        )

    def apply(
        self,
        codes: np.ndarray,  # (N,) any numeric type
    ) -> tuple[np.ndarray, dict[float, int]]:
        """Class indices (N,) int16, and the codes outside the map with their counts (those rows are IGNORE)."""
        present, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
        table = np.full(len(present), IGNORE, np.int16)
        unknown: dict[float, int] = {}
        for index, (code, count) in enumerate(zip(present.tolist(), counts.tolist(), strict=True)):
            name = self.codes.get(code, self.default)
            if name is None:
                unknown[code] = count
            elif name != IGNORED:
                table[index] = self.class_names.index(name)
        return table[place.reshape(-1)], unknown

    @classmethod
    def from_indices(cls, class_names: Sequence[str], indices: Mapping[int, int]) -> LabelMap:
        """From a class table and the class index, or IGNORE, of each code, as a run's config holds them."""
        codes = {code: IGNORED if index == IGNORE else class_names[index] for code, index in indices.items()}
        return cls(class_names=tuple(class_names), codes=codes)

    @classmethod
    def from_table(cls, table: Mapping, *, where: str = "label map") -> LabelMap:
        """From ``{classes: [...], codes: {code: name}, default: name}``; without ``classes`` the names in code order.

        Raises:
            InputError: a key or value that does not fit, naming ``where``.
        """
        rest = sorted(set(table) - {"classes", "codes", "default"})
        codes = table.get("codes")
        if rest or not isinstance(codes, Mapping):
            raise InputError(f"{where}: expected the keys classes, codes and default, got {sorted(map(str, table))}")
        names = table.get("classes") or list(dict.fromkeys(n for n in codes.values() if n != IGNORED))
        try:
            return cls(class_names=tuple(names), codes=dict(codes), default=table.get("default"))
        except (ValidationError, TypeError) as error:
            raise InputError(f"{where}: {_reason(error)}") from error

    @classmethod
    def from_file(cls, path: Path | str) -> LabelMap:
        """From a YAML file of the keys that :meth:`from_table` takes.

        Raises:
            InputError: the file is missing, no YAML, or does not fit.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such label map; give a YAML file or pairs like 2=ground")
        try:
            text = path.read_text()
            table = yaml.safe_load(text)
            twice = _twice(yaml.compose(text, yaml.SafeLoader))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: no YAML: {error}") from error
        if not isinstance(table, Mapping):
            raise InputError(f"{path}: expected a table with the keys classes, codes and default")
        if twice:
            raise InputError(f"{path}, line {twice.start_mark.line + 1}: '{twice.value}' is said twice; leave one")
        return cls.from_table(table, where=str(path))

    @classmethod
    def from_pairs(cls, pairs: Iterable[str], *, classes: Sequence[str] | None = None) -> LabelMap:
        """From pairs like ``2=ground``, ``9=ignore``, ``default=ignore``.

        Raises:
            InputError: a pair that does not read so, or two classes of one code.
        """
        said: dict[str, str] = {}
        for pair in pairs:
            code, equals, name = pair.partition("=")
            if not equals or not name:
                raise InputError(f"label map: '{pair}' is no pair like 2=ground")
            if code == "default":
                key = code
            else:
                try:
                    key = str(int(code))
                except ValueError:
                    raise InputError(f"label map: '{code}' in '{pair}' is no integer class code") from None
            if said.setdefault(key, name) != name:
                raise InputError(f"label map: {key}={said[key]} and {pair} contradict each other; leave one")
        default = said.pop("default", None)
        codes = {int(key): name for key, name in said.items()}
        return cls.from_table({"classes": list(classes or ()), "codes": codes, "default": default})


def _twice(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """The first key that a table or a table in it says again; YAML would take the last one."""
    if not isinstance(node, yaml.MappingNode):
        return None
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                return key
            seen.add(key.value)
        if (found := _twice(value)) is not None:
            return found
    return None


def _reason(error: ValidationError | TypeError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
    return str(error)
