"""Things from one click each: trains variants of a data set's run, and writes the tables of docs/results.md.

    python -m benchmarks.point_panoptic                              # table-top scans as committed, 3 seeds, tables
    python -m benchmarks.point_panoptic --data coco_excerpt          # pseudo-labels of the excerpt's training images
    python -m benchmarks.point_panoptic --variants "rounds 0, smoothed" "path, mixed" full --seeds 0
    python -m benchmarks.point_panoptic --tune                       # on data held out for settings
    python -m benchmarks.point_panoptic --tables                     # only the tables

The seed draws clicks and network alike. Pseudo-labels are scored on the training scenes, against labels that the run
did not see; the network on the test scenes, where a data set is large enough to train one. A run that has a result
under benchmarks/results/point_panoptic is not made again; one that was interrupted goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from benchmarks.accuracy import command
from benchmarks.table import write_between
from pcseg.config import PointPanopticConfig, SupervisedConfig, TrainConfig
from pcseg.config_file import load_config

RESULTS, DOCUMENT = Path("benchmarks/results/point_panoptic"), Path("docs/results.md")
HELD_OUT = 10
"""Table-top learn scenes on which settings are tuned."""
FULL = "full"


@dataclass(frozen=True)
class Variant:
    """What differs from the committed config."""

    method: dict[str, Any] = field(default_factory=dict)
    mix: float | None = None
    """Of the augmentation; None: as committed."""


CHANGES: dict[str, dict[str, Any]] = {
    FULL: {},
    "learned": {},
    "path": {"distance": "path"},
    "path, with length": {"distance": "path", "length_weight": 1.0},
    "nearest": {"distance": "nearest"},
    "learned, from the middle": {"place": "middle"},
    "color": {"distance": "color"},
    "rounds 0": {"rounds": 0},
    "rounds 1": {"rounds": 1},
    "rounds 3": {"rounds": 3},
    "rounds 4": {"rounds": 4},
    "no aggregating": {"aggregate": False},
    "no enhancing": {"enhance": False},
    "regression": {"distance_loss": "regression"},
    "two stages": {"schedule": "two_stage"},
    "learnt queries": {"query_init": "learned"},
    "no prior": {"prior_weight": 0.0, "distance_prior_weight": 0.0},
    "ties by colour": {"alike": {"color": 1.0}, "max_concavity": None},
}
"""Of the method."""
PLAIN = {name: Variant(change | {"smoothing": 0.0}, mix=0.0) for name, change in CHANGES.items()}
VARIANTS = (
    {f"{name}, mixed": Variant(change) for name, change in CHANGES.items()}
    | {f"{name}, smoothed": Variant(change, mix=0.0) for name, change in CHANGES.items() if name != FULL}
    | PLAIN
)
EXCERPT = {name: PLAIN[name] for name in ("learned", "path", "nearest", "color")}
EXCERPT["learned, by paths"] = Variant({"place": "path"})


@dataclass(frozen=True)
class Task:
    """A data set, how clicks are drawn on it, and what of a run is scored."""

    config: Path
    clicks: tuple[str, ...]
    """Recipe of ``python -m pcseg.weaken``."""
    begin: str
    """Markers of its table in the document."""
    end: str
    variants: dict[str, Variant]
    main: tuple[str, ...]
    """Variants that are trained where none is named."""
    method: dict[str, Any] = field(default_factory=dict)
    """Changes of the committed method, and below that of the run, in all variants."""
    run: dict[str, Any] = field(default_factory=dict)
    scores_network: bool = True


TASKS = {
    "tabletop": Task(
        Path("configs/tabletop/kpconv_point_panoptic.py"),
        ("clicks", "--radius", "0.03", "--min-rows", "100"),
        "<!-- tables: python -m benchmarks.point_panoptic -->",
        "<!-- end of point panoptic -->",
        VARIANTS,
        tuple(f"{name}, mixed" for name in (FULL, "learned", "path", "nearest")),
    ),
    # Twelve images teach no network of 133 classes: the masks' loss is left out, and a pixel goes to the nearest click,
    # whatever its class.
    "coco_excerpt": Task(
        Path("configs/coco_excerpt/deeplab_point_panoptic.py"),
        ("clicks", "--radius", "2", "--min-rows", "100"),
        "<!-- tables: python -m benchmarks.point_panoptic --data coco_excerpt -->",
        "<!-- end of point panoptic, coco_excerpt -->",
        EXCERPT,
        tuple(EXCERPT),
        method={"mask_weight": 0.0, "presence": True, "assign_by": "distance"},
        run={"steps": 240},
        scores_network=False,
    ),
}


@dataclass(frozen=True)
class Args:
    data: str = "tabletop"
    variants: tuple[str, ...] = ()
    """None: as committed, with the rules and all labels ("full") beside it. A name of CHANGES is the change alone;
    ", smoothed" adds smoothed masks, ", mixed" mixed scenes too."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tune: bool = False
    """Table-top: train without ten of the learn scenes, and score on them; excerpt: train on the validation images, and
    score their pseudo-labels. Results are printed, not kept."""
    change: str = "{}"
    """JSON of further changes of the method, for tuning."""
    run_change: str = "{}"
    """JSON of changes of the run."""
    tables: bool = False


def prepared(seed: int, args: Args) -> Path:
    """Scenes and mask file, made where they are missing."""
    task = TASKS[args.data]
    if args.data == "tabletop" and not Path("data/tabletop").exists():
        command("data_prep.tabletop", "--raw", "samples/mosd_tabletop", "--out", "data/tabletop")
    path = Path(f"data/weak/{args.data}_clicks_seed{seed}.npz")
    scenes: tuple[str, ...] = ()
    if args.tune and args.data == "coco_excerpt":
        path, scenes = path.with_stem(f"{path.stem}_tune"), ("--scenes", "val2017/*")
    if not path.exists():
        command("pcseg.weaken", task.config, *task.clicks, "--seed", str(seed), *scenes, "-o", path)
    return path


def config_of(variant: str, seed: int, args: Args) -> TrainConfig:
    task = TASKS[args.data]
    base = load_config(task.config)
    mask = prepared(seed, args)
    full, chosen = is_full(variant), task.variants[variant]
    data = base.data.model_copy(update={"weak_labels": None if full else mask})
    if chosen.mix is not None:
        data = data.model_copy(update={"augment": data.augment.model_copy(update={"mix": chosen.mix})})
    if not task.scores_network:
        data = data.model_copy(update={"val_scenes": ()})
    if args.tune and args.data == "coco_excerpt":
        data = data.model_copy(update={"train_scenes": ("val2017/*",)})
    elif args.tune:
        names = Path("data/tabletop/splits/learn.txt").read_text().split()
        held = names[:: len(names) // HELD_OUT][:HELD_OUT]
        kept = tuple(name for name in names if name not in held)
        data = data.model_copy(update={"train_scenes": kept, "val_scenes": tuple(held)})
    method = SupervisedConfig()
    if not full:
        assert isinstance(base.method, PointPanopticConfig)
        method = base.method.model_copy(update=task.method | chosen.method | json.loads(args.change))
    values = base.model_copy(update={"data": data, "seed": seed, "method": method}).model_dump()
    return TrainConfig.model_validate(values | task.run | json.loads(args.run_change))


def run(variant: str, seed: int, args: Args) -> dict[str, Any]:
    from pcseg.datasets.scene_part import training_parts, validation_parts
    from pcseg.panoptic_inference import evaluate_panoptic
    from pcseg.predictor import Predictor
    from pcseg.pseudo_labels import load_method, pseudo_segments, score_segments
    from pcseg.train import train

    config = config_of(variant, seed, args)
    name = result_of(args.data, variant, seed).stem
    folder = Path("runs/point_panoptic") / (f"{name}_tune" if args.tune else name)
    train(config, folder, fresh=args.tune)
    predictor = Predictor.load(folder / "checkpoints" / "last.safetensors")
    result: dict[str, Any] = {"variant": variant, "seed": seed}
    if TASKS[args.data].scores_network:
        result["test"] = evaluate_panoptic(predictor, validation_parts(config.data)).as_dict()
    result["miou"] = predictor.card.scores.get("miou")
    result["train_seconds"] = predictor.card.train_seconds
    if not is_full(variant):
        predictor, method = load_method(folder)
        result["pseudo"] = score_segments(
            pseudo_segments(predictor, method, training_parts(config.data)), config.data
        ).as_dict()
    return result


def is_full(variant: str) -> bool:
    return variant.split(",")[0] == FULL


def result_of(data: str, variant: str, seed: int) -> Path:
    start = "" if data == "tabletop" else f"{data}_"
    return RESULTS / f"{start}{variant.replace(' ', '_').replace(',', '')}_seed{seed}.json"


def results(data: str, variant: str) -> list[dict[str, Any]]:
    """What each seed scored."""
    pattern = result_of(data, variant, 0).name[:-6] + "?.json"
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def pseudo_table(data: str) -> str:
    """Of a data set whose pseudo-labels alone are scored."""
    lines = ["| distance | seeds | pseudo-label PQ ± standard deviation | things | stuff | s of training |"]
    lines.append("|" + "---|" * 6)
    for variant in TASKS[data].variants:
        found = results(data, variant)
        if not found:
            continue
        scores = {part: [entry["pseudo"][part]["pq"] for entry in found] for part in ("overall", "things", "stuff")}
        spread = f" ± {stdev(scores['overall']):.3f}" if len(found) > 1 else ""
        cells = [variant, str(len(found)), f"**{mean(scores['overall']):.3f}**{spread}"]
        cells += [f"{mean(scores[part]):.3f}" for part in ("things", "stuff")]
        cells.append(f"{mean(entry['train_seconds'] for entry in found):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table() -> str:
    lines = [
        "| variant | seeds | pseudo-label PQ (things) | test PQ ± standard deviation | things | stuff | AP | AP50 |"
    ]
    lines.append("|" + "---|" * 8)
    for variant in VARIANTS:
        found = results("tabletop", variant)
        if not found:
            continue

        def average(*keys: str, found: list[dict[str, Any]] = found) -> float:
            values = found
            for key in keys:
                values = [value[key] for value in values]
            return mean(float(value) for value in values)  # pyright: ignore[reportArgumentType]

        scores = [entry["test"]["overall"]["pq"] for entry in found]
        spread = f" ± {stdev(scores):.3f}" if len(scores) > 1 else ""
        pseudo = ""
        if not is_full(variant):
            pseudo = f"{average('pseudo', 'overall', 'pq'):.3f} ({average('pseudo', 'things', 'pq'):.3f})"
        cells = [
            variant.replace(FULL, "all labels"),
            str(len(found)),
            pseudo,
            f"**{mean(scores):.3f}**{spread}",
        ]
        cells += [f"{average('test', part, 'pq'):.3f}" for part in ("things", "stuff")]
        cells += [f"{average('test', name):.3f}" for name in ("ap", "ap50")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args: Args) -> None:
    task = TASKS[args.data]
    if not args.tables:
        for seed in args.seeds:
            for variant in args.variants or task.main:
                path = result_of(args.data, variant, seed)
                if args.tune:
                    found = run(variant, seed, args)
                    shown = {
                        part: {
                            k: round(v["pq"], 3) for k, v in found[part].items() if isinstance(v, dict) and "sq" in v
                        }
                        for part in ("pseudo", "test")
                        if part in found
                    }
                    print(
                        variant,
                        seed,
                        args.change,
                        args.run_change,
                        shown,
                        found["miou"],
                        round(found["train_seconds"]),
                        flush=True,
                    )
                elif not path.exists():
                    found = run(variant, seed, args)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(found, indent=1) + "\n")
    if not args.tune:
        body = table() if task.scores_network else pseudo_table(args.data)
        write_between(DOCUMENT, task.begin, task.end, f"\n\n{body}\n\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
