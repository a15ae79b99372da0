"""Masks from drawn annotations.

python -m data_prep.annotations drawn/*.json --images DIR --label-map road=0 car=1 person=ignore
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
import yaml

from pcseg.datasets.image_folder import read_classes
from pcseg.errors import InputError, run_command
from pcseg.io.annotations import ImageShapes, Shape, draw_shapes, read_annotations
from pcseg.io.atomic import replacing
from pcseg.io.images import SUFFIXES, VOID, read_size, write_mask
from pcseg.label_map import IGNORED


@dataclass(frozen=True)
class Options:
    """Write the masks of an image folder from LabelMe .json files or CVAT .xml files ("CVAT for images 1.1").

    Polygons, rectangles and circles are filled; lines and points are drawn over them; the rest of an image is void.
    """

    annotations: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files, or folders of them."""
    images: Path
    """The image folder: pictures in images/, masks go to masks/ and, where there is none, a classes.json."""
    label_map: tuple[str, ...] = ()
    """Code of each label, as pairs: road=0 car=1 sky=ignore; or a YAML file that maps labels to codes."""
    config: Path | None = None
    """Or a run's config: labels are its class names, codes those of its label_map."""
    radius: float = 0.0
    """Lines and points take the pixels no further than this; 0: those that they run through."""
    rest: str = IGNORED
    """Code of the pixels where nothing was drawn."""
    overwrite: bool = False
    """Replace masks that are there."""


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(
        Options, args=argv, prog="python -m data_prep.annotations", description=Options.__doc__, config=()
    )
    for path in convert(options):
        print(path)


def convert(options: Options) -> list[Path]:
    """Write the masks; nothing is written before everything has been checked and drawn once. Returns their paths.

    Raises:
        InputError: no annotation, a label without a code (all are listed), an image that is not there, is of another
            size or annotated twice, a mask that is there already.
        OSError: a mask cannot be written.
    """
    if not 0 <= options.radius < float("inf"):
        raise InputError(f"--radius: must be 0 or more, got {options.radius:g}")
    codes, rest = _codes(options), _code(options.rest, "--rest")
    annotated = [image for path in _files(options.annotations) for image in read_annotations(path)]
    if rest == VOID:
        annotated = [image for image in annotated if image.shapes]
    if not annotated:
        raise InputError("nothing was drawn in these files; give LabelMe .json or CVAT .xml files with shapes")
    unknown = Counter(shape.label for image in annotated for shape in image.shapes if shape.label not in codes)
    if unknown:
        listed = ", ".join(f"{label} ({count} shapes)" for label, count in sorted(unknown.items()))
        raise InputError(f"labels without a code: {listed}; add them to --label-map, as LABEL=CODE or LABEL=ignore")
    targets = _targets(annotated, options.images, overwrite=options.overwrite)
    for image in annotated:
        missed: list[Shape] = []
        draw_shapes(image, codes, rest=rest, radius=options.radius, missed=missed.append)
        for label, count in Counter(shape.label for shape in missed).items():
            shapes = "a shape" if count == 1 else f"{count} shapes"
            print(f"{image.where}: {shapes} of '{label}' left out: no pixel's centre lies inside", file=sys.stderr)
    _write_classes(options.images / "classes.json", codes, rest)
    (options.images / "masks").mkdir(exist_ok=True)
    for image, target in zip(annotated, targets, strict=True):
        write_mask(target, draw_shapes(image, codes, rest=rest, radius=options.radius))
    return targets


def _files(given: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in given:
        inside = sorted([*path.glob("*.json"), *path.glob("*.xml")]) if path.is_dir() else [path]
        found = [file for file in inside if file.name != "classes.json"]  # of the image folder itself
        if not found:
            raise InputError(f"{path}: holds no .json and no .xml file")
        files += found
    return files


def _codes(options: Options) -> dict[str, int]:
    """The code of each label.

    Raises:
        InputError: neither a label map nor a config, or a code that is none.
    """
    given = options.label_map
    if not given and options.config is None:
        raise InputError("say what code each label has: --label-map road=0 car=1, or --config RUN.py")
    if not given:
        from pcseg.config_file import load_config

        assert options.config is not None
        data = load_config(options.config).data
        return dict(zip(data.class_names, data.class_codes, strict=True)) | {IGNORED: VOID}
    if len(given) == 1 and "=" not in given[0]:
        return {str(label): _code(code, f"{given[0]}: {label}") for label, code in _table(Path(given[0])).items()}
    codes = {}
    for pair in given:
        label, equals, code = pair.rpartition("=")
        if not equals or not label:
            raise InputError(f"--label-map: '{pair}' is no pair like road=0")
        codes[label] = _code(code, f"--label-map: {label}")
    return codes


def _table(path: Path) -> Mapping:
    if not path.is_file():
        raise InputError(f"{path}: no such label map; give a YAML file or pairs like road=0")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no YAML: {error}") from error
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply to be a label map") from None
    if not isinstance(table, Mapping) or not table:
        raise InputError(f"{path}: expected a table of labels and codes, such as 'road: 0'")
    return table


def _code(value: object, where: str) -> int:
    if value == IGNORED:
        return VOID
    text = str(value)
    if not (text.isascii() and text.isdecimal() and int(text) < VOID):
        raise InputError(f"{where}: '{text}' is no code; give one from 0 to {VOID - 1}, or {IGNORED}")
    return int(text)


def _targets(annotated: Sequence[ImageShapes], root: Path, *, overwrite: bool) -> list[Path]:
    """The mask of each image, checked against the picture."""
    targets: dict[Path, str] = {}
    for image in annotated:
        picture = root / "images" / image.image
        if picture.suffix.lower() not in SUFFIXES or not picture.is_file():
            raise InputError(f"{image.where}: the picture {picture} is not there; put it there, or mend --images")
        height, width = read_size(picture)
        if (height, width) != image.size:
            raise InputError(
                f"{image.where}: was drawn on {image.size[1]} x {image.size[0]} pixels, {picture} has {width} x "
                f"{height}; give the picture that was drawn on"
            )
        target = root / "masks" / f"{picture.stem}.png"
        if target in targets:
            raise InputError(f"{image.where}: {target} is the mask of {targets[target]} too; give each image once")
        if target.exists() and not overwrite:
            raise InputError(f"{target}: is there already; --overwrite replaces it")
        targets[target] = image.where
    return list(targets)


def _write_classes(path: Path, codes: Mapping[str, int], rest: int) -> None:
    """Names of the codes, so that a run need not say that void is ignored.

    Raises:
        InputError: there is one that calls void otherwise, or gives colours to codes.
    """
    if path.exists():
        ignored, colors = read_classes(path)
        if colors is not None or VOID not in ignored:
            raise InputError(f"{path}: must name {VOID} '{IGNORED}' and no colours, to fit these masks; change it")
        return
    names: dict[int, str] = {}
    for label, code in sorted(codes.items(), key=lambda pair: pair[1]):
        names.setdefault(code, label)
    names[VOID] = IGNORED
    names.setdefault(rest, "rest")
    with replacing(path) as temporary:
        text = json.dumps({str(code): name for code, name in sorted(names.items())}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
