"""``python -m pcseg.weaken CONFIG RECIPE -o FILE``: draws the few labels that training sees into a mask file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pcseg.config import TrainConfig
from pcseg.config_file import leading_path, load_config, parse_command
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_part import open_sources
from pcseg.datasets.voxel_scene import check_trainable
from pcseg.datasets.weak_draw import draw_labels
from pcseg.datasets.weak_labels import WeakLabels, describe_summary
from pcseg.datasets.weak_recipes import (
    RECIPES,
    BlocksRecipe,
    ClicksRecipe,
    ListRecipe,
    Recipe,
    ScenesRecipe,
    ScribblesRecipe,
)
from pcseg.errors import InputError, run_command
from pcseg.io.atomic import check_writable
from pcseg.progress import progress_bar

if TYPE_CHECKING:
    from rich.table import Table

PROG = "python -m pcseg.weaken CONFIG RECIPE"
RADIUS_IN_VOXELS = 5.0
"""Distance within which points belong to one object, where none is given. On AHN3, whose voxels have 0.4 m, strokes
then show 1.4 % of the points; with one voxel the scan falls to pieces, and they show a sixth of it."""
MANY = 0.1
"""Share of the rows beyond which strokes are no longer few labels; full scribbles of images show about 3 %."""
FAR = 2.0
"""Times its ratio that blocks may show before that is told."""
WIDE = 10_000
MAX_SCENES = 20
"""Lines of the table; further scenes are only counted."""
_BY_NAME = {recipe.model_fields["kind"].default: recipe for recipe in RECIPES}


@dataclass(frozen=True)
class WeakenOptions:
    """Draw weak labels of the training scenes of CONFIG and keep them in a mask file (--data.weak-labels FILE).

    RECIPE is ratio, points, clicks, scribbles, blocks, scenes or list; its own options: RECIPE --help.
    """

    out: Path
    """The mask file."""
    seed: int = 0
    """Another seed draws other labels."""
    voxel_size: float | None = None
    """The recipes ratio and points draw voxels of this size; 0: rows. Else the config's voxels for scans, and rows for
    images and volumes."""
    data: Path | None = None
    """Folder of the scenes; else the one of the config."""
    scenes: tuple[str, ...] = ()
    """Names or patterns; else the training scenes of the config."""
    overwrite: bool = False
    """Replace a mask file of another recipe, seed or data set."""


def main(argv: Sequence[str] | None = None) -> None:
    path, rest = leading_path(argv, "a config", WeakenOptions, prog=PROG)
    known = ", ".join(_BY_NAME)
    if not rest or rest[0] not in _BY_NAME:
        if {"-h", "--help"} & set(rest):
            parse_command(WeakenOptions, ["--help"], prog=PROG)
        got = f"'{rest[0]}'" if rest else "nothing"
        raise InputError(f"the second argument is a recipe, one of {known}; got {got}: {PROG} -o FILE")
    options, recipe = _parsed(rest[0], ["--out" if text == "-o" else text for text in rest[1:]])
    weaken(load_config(path), recipe, options)


def weaken(config: TrainConfig, recipe: Recipe, options: WeakenOptions) -> WeakLabels:
    """Draw and write the mask file, and print how many labels it shows. A file that is there already stays.

    Raises:
        InputError: what :func:`pcseg.datasets.weak_draw.draw_labels` refuses; scenes of other classes than the
            config's; a file that is no mask, or one of another recipe, seed or data set; a mask without any label.
        OSError: the file cannot be written.
    """
    if options.seed < 0:
        raise InputError(f"--seed: must be 0 or more, got {options.seed}")
    data = config.data.model_copy(update={"root": options.data or config.data.root})
    voxel_size = _voxel_size(config, options.voxel_size)
    recipe = _with_radius(_with_names_of_file(recipe), config, voxel_size)
    there = _mask_there(options)
    if there is not None:
        wanted = (recipe, options.seed, voxel_size)
        if (there.info.recipe, there.info.seed, there.info.voxel_size) != wanted:
            raise InputError(
                f"{options.out}: is a mask of another recipe: {describe_summary(there.summary())}; choose another "
                f"name, or --overwrite"
            )
    sources = open_sources(data, options.scenes or data.train_scenes)
    labelled = [source for source in sources if source.labels is not None]
    check_trainable(labelled, data.class_names)
    weak = _drawn(sources, recipe, options.seed, voxel_size)
    if not sum(weak.info.class_counts):
        raise InputError(f"{recipe.kind}: shows no label of {_told(sources)}; {_remedy(recipe)}")
    if there is None:
        weak.save(options.out)
    elif there.info != weak.info:
        raise InputError(f"{options.out}: is a mask of other data; choose another name, or --overwrite")
    print_table(weak)
    missing = [n for n, count in zip(weak.info.class_names, weak.info.class_counts, strict=True) if not count]
    if missing:
        print(f"no visible label of the class {', '.join(missing)}", file=sys.stderr)
    if isinstance(recipe, BlocksRecipe) and weak.info.ratio_points > FAR * recipe.ratio:
        print(
            f"the blocks show {weak.info.ratio_points:.1%} of all rows, and --ratio is {recipe.ratio:.1%}; a smaller "
            f"--size comes nearer to it",
            file=sys.stderr,
        )
    if isinstance(recipe, ScribblesRecipe) and weak.info.ratio_points > MANY:
        print(
            f"the strokes show {weak.info.ratio_points:.1%} of all rows, many objects are small; a larger --radius "
            f"joins them, --min-rows leaves them out",
            file=sys.stderr,
        )
    print(f"{options.out}{' was there already' if there is not None else ''}: {describe_summary(weak.summary())}")
    return weak


def _told(sources: Sequence[RowSource]) -> str:
    return str(sources[0].path) if len(sources) == 1 else f"{sources[0].path} and {len(sources) - 1} more"


def _remedy(recipe: Recipe) -> str:
    """How to come to a mask that shows labels."""
    if isinstance(recipe, ListRecipe):
        return f"name labelled rows in the files in {recipe.folder}"
    if isinstance(recipe, ClicksRecipe | ScribblesRecipe) and recipe.min_rows > 1:
        return f"no object has the {recipe.min_rows} rows of --min-rows; give less"
    if isinstance(recipe, ScenesRecipe):
        return "choose scenes that have labels"
    return "name scenes that have labels with --scenes"


def _mask_there(options: WeakenOptions) -> WeakLabels | None:
    """The mask file that stays; None: the file is to be written, and can be."""
    out = options.out
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file in it: -o {out / 'weak.npz'}")
    there = None
    if out.exists():
        try:
            there = WeakLabels.load(out)
        except InputError as error:
            raise InputError(
                f"{out}: is no mask file of weak labels, or a damaged one, and stays; choose another name, or remove it"
            ) from error
    if there is not None and not options.overwrite:
        return there
    check_writable(out)
    return None


def print_table(weak: WeakLabels) -> None:
    """Visible labels of each scene and class; where that is too wide, of each scene and of each class."""
    from rich.console import Console

    console, info = Console(), weak.info
    whole = _table_of_scenes(weak, info.class_names, lambda counts: counts)
    if Console(width=WIDE).measure(whole).maximum <= console.width:
        console.print(whole)
        return
    by_class = _new_table("class", "labels", "scenes")
    for index, name in enumerate(info.class_names):
        seen = sum(scene.class_counts[index] > 0 for scene in info.scenes)
        by_class.add_row(name, f"{info.class_counts[index]:,}", f"{seen} of {len(info.scenes)}")
    console.print(by_class)
    console.print(_table_of_scenes(weak, ("labels", "classes"), lambda c: (sum(c), sum(n > 0 for n in c))))


def _table_of_scenes(weak: WeakLabels, names: Sequence[str], shown: Callable[[Sequence[int]], Sequence[int]]) -> Table:
    """A line for each scene: what is shown of its labels of each class, and their shares."""
    info = weak.info
    table = _new_table("scene", *names, "of rows", "of voxels")
    for scene in info.scenes[:MAX_SCENES]:
        voxels = _share(scene.num_visible_voxels, scene.num_voxels)
        counts = map("{:,}".format, shown(scene.class_counts))
        table.add_row(scene.name, *counts, _share(sum(scene.class_counts), scene.num_points), voxels)
    if len(info.scenes) > MAX_SCENES:
        table.add_row(f"... and {len(info.scenes) - MAX_SCENES} more")
    table.add_section()
    counts = map("{:,}".format, shown(info.class_counts))
    voxels = "-" if info.ratio_voxels is None else f"{info.ratio_voxels:.4%}"
    table.add_row("all", *counts, f"{info.ratio_points:.4%}", voxels, style="bold")
    return table


def _new_table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(title="visible labels", title_justify="left", title_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _parsed(name: str, arguments: list[str]) -> tuple[WeakenOptions, Recipe]:
    import tyro

    recipe = _BY_NAME[name]
    unnamed = [("options", WeakenOptions), ("recipe", recipe)]
    fields: list[Any] = [(field, Annotated[kind, tyro.conf.arg(name="")]) for field, kind in unnamed]
    command = dataclasses.make_dataclass("Command", fields, namespace={"__doc__": recipe.__doc__})
    parsed: Any
    parsed, _ = parse_command(command, arguments, prog=PROG.replace("RECIPE", name))
    return parsed.options, parsed.recipe


def _with_names_of_file(recipe: Recipe) -> Recipe:
    """The names of scenes may stand in a file."""
    if not isinstance(recipe, ScenesRecipe) or len(recipe.ids) != 1 or not Path(recipe.ids[0]).is_file():
        return recipe
    path = Path(recipe.ids[0])
    names = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    if not any(names):
        raise InputError(f"{path}: names no scene; give one name a line")
    return recipe.model_copy(update={"ids": tuple(name for name in names if name)})


def _with_radius(recipe: Recipe, config: TrainConfig, voxel_size: float | None) -> Recipe:
    """Objects of scans without instances need a radius: a few voxels, where none is given."""
    if not isinstance(recipe, ClicksRecipe | ScribblesRecipe) or recipe.radius:
        return recipe
    if config.data.kind != "scenes" or not voxel_size:
        return recipe
    return recipe.model_copy(update={"radius": RADIUS_IN_VOXELS * voxel_size})


def _voxel_size(config: TrainConfig, given: float | None) -> float | None:
    if given is None:
        return config.model.voxel_size if config.data.kind == "scenes" else None
    if not 0 <= given < float("inf"):
        raise InputError(f"--voxel-size: must be 0 or more, got {given:g}")
    return given or None


def _drawn(sources: Sequence[RowSource], recipe: Recipe, seed: int, voxel_size: float | None) -> WeakLabels:
    with progress_bar() as progress:
        task = progress.add_task("weaken", total=len(sources))
        return draw_labels(
            sources,
            recipe,
            seed=seed,
            voxel_size=voxel_size,
            advance=lambda count: progress.advance(task, count),
        )


def _share(part: int | None, whole: int | None) -> str:
    return "-" if part is None or not whole else f"{part / whole:.4%}"


if __name__ == "__main__":
    run_command(main)
