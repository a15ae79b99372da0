"""``python -m pcseg.metrics.combine RUN... -o FILE``: one score from runs that were scored on different parts.

The confusion matrices are summed, and the scores are computed once from the sum, as cross-validated protocols ask for
(S3DIS 6-fold). That is not the mean of the runs' scores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcseg.config_file import load_config, parse_command
from pcseg.errors import InputError, run_command
from pcseg.io.atomic import replacing
from pcseg.metrics.confusion import scores

PROG = "python -m pcseg.metrics.combine RUN..."


def combine(paths: Sequence[Path], *, name: str | None = None) -> dict[str, Any]:
    """The content of a ``metrics.json`` for the runs together.

    Args:
        paths: ``metrics.json`` files, or run folders that hold one.
        name: of the protocol; None: "N-fold".

    Raises:
        InputError: fewer than two runs, one named twice, a file that holds no confusion matrix, other classes, another
            protocol of evaluation, or runs whose configs score the same scenes.
    """
    files = [path / "metrics.json" if path.is_dir() else path for path in paths]
    if len(files) < 2:
        raise InputError("name at least two runs or metrics.json files to combine")
    loaded = [_load(file) for file in files]
    total = np.zeros_like(loaded[0][1])
    scored: dict[tuple[str, ...], Path] = {}
    seen: set[Path] = set()
    for file, (values, confusion) in zip(files, loaded, strict=True):
        if file.resolve() in seen:
            raise InputError(f"{file}: is named twice")
        seen.add(file.resolve())
        for key, told in (("iou", "classes"), ("protocol", "protocol")):
            first, here = _comparable(loaded[0][0][key]), _comparable(values[key])
            if first != here:
                raise InputError(f"{file}: {told} {here}, {files[0]} has {first}; combine like with like")
        scenes = _scored_scenes(file)
        if scenes is not None and scenes in scored:
            raise InputError(f"{file}: was scored on the same scenes as {scored[scenes]}: {', '.join(scenes)}")
        if scenes is not None:
            scored[scenes] = file
        total += confusion
    found, first = scores(total), loaded[0][0]
    iou = dict(zip(first["iou"], (_number(value) for value in found.iou.tolist()), strict=True))
    title = name or f"{len(files)}-fold"
    return {
        "protocol": f"{first['protocol']}, {title}: confusion matrices of {len(files)} runs summed",
        "miou": _number(found.miou),
        "macc": _number(found.macc),
        "oa": _number(found.oa),
        "iou": iou,
        "confusion": total.tolist(),
        "num_points": int(total.sum()),
        "runs": [str(path) for path in paths],
    }


def _load(file: Path) -> tuple[dict[str, Any], np.ndarray]:
    if not file.is_file():
        raise InputError(f"{file}: no such file; evaluate the run first")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        confusion = np.asarray(values["confusion"], np.int64)
        if confusion.shape != (len(values["iou"]),) * 2 or not isinstance(values["protocol"], str):
            raise ValueError(f"confusion has the shape {confusion.shape}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: is no metrics.json of an evaluation ({error}); evaluate the run again") from error
    return values, confusion


def _comparable(value: Any) -> str:
    return ", ".join(value) if isinstance(value, dict) else str(value)


def _scored_scenes(file: Path) -> tuple[str, ...] | None:
    """Validation scenes of the run whose metrics these are; None: there is no config beside them."""
    config = file.with_name("config.yaml")
    return load_config(config).data.val_scenes if config.is_file() else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True)
class CombineOptions:
    """Sum the confusion matrices of several runs and score the sum: S3DIS 6-fold, for instance."""

    out: Path | None = None
    """File to write."""
    name: str | None = None
    """Of the protocol; else N-fold."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = ["--out" if text == "-o" else text for text in (sys.argv[1:] if argv is None else argv)]
    count = next((index for index, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    options, _ = parse_command(CombineOptions, arguments[count:], prog=PROG)
    result = combine([Path(text) for text in arguments[:count]], name=options.name)
    if options.out is not None:
        with replacing(options.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, value in result["iou"].items():
        print(f"{name}: IoU {'-' if value is None else f'{value:.4f}'}")
    print(f"{result['protocol']}: mIoU {result['miou']:.4f}, mAcc {result['macc']:.4f}, OA {result['oa']:.4f}")


if __name__ == "__main__":
    run_command(main)
