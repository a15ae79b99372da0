"""Trains every method on the same few labels, several seeds each, and writes the tables of docs/results.md.

    python -m benchmarks.label_efficiency                               # AHN3 at 0.1 % and at 20 labels a class
    python -m benchmarks.label_efficiency --data ahn3 --labels 0.1pct --methods partial_ce erda --seeds 0 1 2
    python -m benchmarks.label_efficiency --tables                      # only the tables and the picture
    python -m benchmarks.label_efficiency --study --labels 20           # six relaxations x three couplings
    python -m benchmarks.label_efficiency --tune --methods erda --change '{"momentum": 0.9}'  # on parts held out

All methods of a table have the same network, steps, augmentation and labels; the seed draws labels and network alike.
Data are prepared and labels drawn where they are missing. A run that was interrupted goes on where it was; one that has
a result under ``benchmarks/results/label_efficiency`` is not made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

if __package__ is None:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.accuracy import command, prepare, train_and_score
from benchmarks.table import write_between
from pcseg.config import (
    ConsistencyConfig,
    EntropyMinimizationConfig,
    MethodConfig,
    PseudoLabelConfig,
    SupervisedConfig,
    TrainConfig,
)
from pcseg.config_file import load_config, write_config
from pcseg.datasets.weak_labels import describe_summary
from pcseg.ops.potts_descent import COUPLINGS
from pcseg.ops.potts_energy import RELAXATIONS

RESULTS, DOCUMENT = Path("benchmarks/results/label_efficiency"), Path("docs/results.md")
PICTURE = Path("docs/label_efficiency.png")
BEGIN, END = "<!-- tables: python -m benchmarks.label_efficiency -->", "<!-- end of few labels -->"
BASELINE = "partial_ce"
FULL = "full"
"""All labels, as an upper bound; not a set of few labels."""


@dataclass(frozen=True)
class Task:
    """A data set, a network, and how its few labels are drawn."""

    config: Path
    """Of the baseline; the configs of methods lie beside it."""
    labels: dict[str, tuple[str, ...]]
    """Recipe of ``python -m pcseg.weaken`` of each set of labels."""
    held_out: tuple[slice, ...] = ()
    """For settings: which of ``train_scenes`` are left out and scored, a fold each; none: strips along x and y."""
    off_center: float | None = None
    """Of the crops (docs/decisions.md)."""
    run: dict[str, Any] = field(default_factory=dict)
    """What of a run differs from the config."""


AHN3 = Path("configs/ahn3/kpconv_few_labels.py")
LIDAR_LABELS = {"0.1pct": ("ratio", "--ratio", "0.001"), "20": ("points", "--count", "20")}
ONE_CROP = {"steps": 600, "batch_size": 1, "average": 0.99}
TASKS = {
    "ahn3": Task(AHN3, LIDAR_LABELS, off_center=0.0),
    "ahn3_one_crop": Task(AHN3, LIDAR_LABELS, off_center=0.0, run=ONE_CROP),
    "ign": Task(
        Path("configs/ign/kpconv_few_labels.py"),
        LIDAR_LABELS,
        held_out=(slice(0, 1), slice(3, 4)),  # tiles 77050_627755 and 77055_627760
        off_center=0.0,
    ),
    "aerial": Task(
        Path("configs/aerial/point_transformer_few_labels.py"),
        {
            "scribbles": ("scribbles", "--min-rows", "100"),
            "clicks": ("clicks", "--min-rows", "100"),
            "quarter": ("scenes", "--count", "14"),
        },
        held_out=(slice(5, 6), slice(1, 2)),  # tiles 7 and 2
        off_center=0.0,
    ),
    "hippocampus": Task(
        Path("configs/hippocampus/kpconv_few_labels.py"),
        {"0.1pct": ("ratio", "--ratio", "0.001")},
        held_out=(slice(0, None, 5), slice(2, None, 5)),
    ),
}


def methods(task: Task) -> dict[str, MethodConfig]:
    """Every method: those of the paper with the settings of their configs, the others beside them like them."""
    erda, soft, ipixmatch = (tuned(task, name) for name in ("erda", "soft_self_label", "ipixmatch"))
    hosts = {name: getattr(ipixmatch, name) for name in ConsistencyConfig.model_fields if name != "kind"}
    dense = {"optimization": "direct", "neighborhood": "dense", "relaxation": "bl"}
    return {
        BASELINE: SupervisedConfig(),
        "entropy_minimization": EntropyMinimizationConfig(),
        "pseudo_label": PseudoLabelConfig(),
        "mean_teacher": ConsistencyConfig.model_validate(hosts | {"host": "mean_teacher"}),
        "dense_crf": soft.model_copy(update=dense | {"unary_weight": 0.0, "pairwise_weight": 0.01}),
        "erda": erda,
        "erda_queries": erda.model_copy(update={"pseudo": "queries"}),
        "soft_self_label": soft,
        "hard_argmax": soft.model_copy(update={"optimization": "hard_argmax"}),
        "hard_graph_cut": soft.model_copy(update={"optimization": "hard_graph_cut"}),
        "fixmatch": ConsistencyConfig.model_validate(hosts),
        "ipixmatch": ipixmatch,
        "ipixmatch_unimatch": ipixmatch.model_copy(update={"host": "unimatch", "relation": "correlation"}),
    }


def tuned(task: Task, name: str) -> MethodConfig:
    """Of the config that trains the task's network by a method; tuned on strips held out of the training part."""
    return load_config(task.config.with_name(task.config.name.replace("few_labels", name))).method


def study(task: Task) -> dict[str, MethodConfig]:
    """Soft self-labelling with each relaxation and each coupling, all else as in :func:`methods`."""
    soft = methods(task)["soft_self_label"]
    return {
        study_name(relaxation, coupling): soft.model_copy(update={"relaxation": relaxation, "coupling": coupling})
        for relaxation in RELAXATIONS
        for coupling in COUPLINGS
    }


def study_name(relaxation: str, coupling: str) -> str:
    return f"study_{relaxation}_{coupling}"


@dataclass(frozen=True)
class Args:
    data: str = "ahn3"
    labels: tuple[str, ...] = ()
    """Sets of labels; all of the data set where none is named."""
    methods: tuple[str, ...] = ()
    """All where none is named; "full" is supervision with all labels."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Which ones, each a run of every method."""
    protocol: str = "full/votes=4/scene"
    study: bool = False
    """Train soft self-labelling with every relaxation and coupling instead of the methods."""
    tune: bool = False
    """Train without a part of the training part, each in turn, and score there; printed, not kept."""
    change: str = "{}"
    """JSON of changes of the method, for tuning."""
    run_change: str = "{}"
    """JSON of changes of the run, for tuning."""
    tables: bool = False
    """Write the tables and the picture from what is there, and train nothing."""


def result_of(data: str, labels: str, method: str, seed: int) -> Path:
    return RESULTS / f"{data}_{labels}_{method}_seed{seed}.json"


def mask_of(data: str, labels: str, seed: int) -> Path:
    """The mask file, drawn where it is missing."""
    path, task = Path("data/weak") / f"{data}_{labels}_seed{seed}.npz", TASKS[data]
    if not path.exists():
        command("pcseg.weaken", task.config, *task.labels[labels], "--seed", str(seed), "-o", path)
    return path


def config_of(data: str, labels: str, method: str, seed: int) -> TrainConfig:
    task = TASKS[data]
    base = load_config(task.config)
    few = labels != FULL
    crop = base.data.crop.model_copy(update={"off_center": task.off_center})
    seen = {"weak_labels": mask_of(data, labels, seed) if few else None, "crop": crop}
    change = {
        "name": f"{data}_{labels}_{method}",
        "seed": seed,
        "time_limit": None,
        "method": (methods(task) | study(task))[method] if few else SupervisedConfig(),
        "data": base.data.model_copy(update=seen),
    }
    return base.model_copy(update=change | task.run)


def run(args: Args, labels: str, method: str, seed: int) -> None:
    folder = Path("runs/label_efficiency") / f"{args.data}_{labels}_{method}_seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    prepare(TASKS[args.data].config)
    asked = folder / "asked.yaml"
    write_config(config_of(args.data, labels, method, seed), asked)
    train_and_score(asked, folder, result_of(args.data, labels, method, seed), seed=seed, protocol=args.protocol)


def tune(args: Args, labels: str, method: str) -> None:
    """One line: mIoU on the parts held out, in the order of seeds and parts, and their mean."""
    scored, task = [], TASKS[args.data]
    for seed in args.seeds:
        prepare(task.config)
        change = json.loads(args.run_change) | {"method": json.loads(args.change)}
        values = merged(config_of(args.data, labels, method, seed).model_dump(mode="json"), change)
        for fold in folds(task, values["data"]["train_scenes"]):
            values["data"] |= fold
            key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
            folder = Path("runs/label_efficiency") / f"tune_{args.data}_{labels}_{method}_{key}"
            folder.mkdir(parents=True, exist_ok=True)
            written, scores = folder / "asked.yaml", folder / "scores.json"
            write_config(TrainConfig.model_validate(values), written)
            if not scores.exists():
                train_and_score(written, folder, scores, seed=seed, protocol="full/votes=1/scene")
            scored.append(json.loads(scores.read_text())["miou"])
    told = " ".join(f"{value:.4f}" for value in scored)
    print(
        f"tuned {args.data} {labels} {method} {args.change} {args.run_change}: {mean(scored):.4f}  {told}", flush=True
    )


def folds(task: Task, train_scenes: list[str]) -> list[dict]:
    """For each part that is held out, what of the data's config says so."""
    if not task.held_out:
        return [{"strip": {"axis": axis, "fraction": 0.22}} for axis in "xy"]
    parts = [train_scenes[part] for part in task.held_out]
    return [{"train_scenes": [n for n in train_scenes if n not in part], "val_scenes": part} for part in parts]


def merged(values: dict, change: dict) -> dict:
    """Values with the changes, dictionaries in dictionaries too."""
    both = {key: merged(values[key], new) for key, new in change.items() if isinstance(new, dict) and key in values}
    return values | change | both


def table(data: str, labels: str) -> list[str]:
    """One set of labels: a line for each method, by mIoU."""
    task, lines, seen = TASKS[data], [], None
    classes = list(load_config(task.config).data.class_names)
    plain = {entry["seed"]: entry["miou"] for entry in results(data, labels, BASELINE)}
    for kind, method in [(FULL, FULL), *((labels, name) for name in methods(task))]:
        found = results(data, kind, method)
        if not found:
            continue
        if kind != FULL:
            seen = found[0]["weak_labels"]
        scores = [entry["miou"] for entry in found]
        spread = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
        iou = [f"{mean(entry['iou'][name] or 0.0 for entry in found):.3f}" for name in classes]
        name = "all labels" if kind == FULL else method
        seconds = f"{mean(entry['train_seconds'] for entry in found):.0f}"
        cells = [name, str(len(found)), f"**{mean(scores):.4f}**{spread}", over(found, plain), *iou, seconds]
        lines.append((mean(scores), f"| {' | '.join(cells)} |"))
    if seen is None:
        return []
    head = ["method", "seeds", "mIoU ± standard deviation", f"over {BASELINE}", *classes, "s of training"]
    lines.sort(key=lambda pair: -pair[0])
    run = load_config(task.config).model_copy(update=task.run)
    steps = f"{run.steps} steps of {run.batch_size} crop{'s' if run.batch_size > 1 else ''}"
    title = f"### {data}, labels `{labels}`: `{' '.join(task.labels[labels])}`, {steps}"
    told = f"Of one seed: {describe_summary(seen)}."
    return [title, "", told, "", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(text for _, text in lines), ""]


def over(found: list[dict], plain: dict[int, float]) -> str:
    """Mean and standard deviation of what a method adds with the same seed: the same labels, the same first weights."""
    gains = [entry["miou"] - plain[entry["seed"]] for entry in found if entry["seed"] in plain]
    if not gains or not any(gains):
        return ""
    spread = f" ± {stdev(gains):.4f}" if len(gains) > 1 else ""
    return f"{mean(gains):+.4f}{spread} ({sum(gain > 0 for gain in gains)} of {len(gains)} up)"


def study_table(data: str, labels: str) -> list[str]:
    """One set of labels: mIoU by relaxation and coupling, where there is any."""
    cells = {
        (relaxation, coupling): [entry["miou"] for entry in results(data, labels, study_name(relaxation, coupling))]
        for relaxation in RELAXATIONS
        for coupling in COUPLINGS
    }
    if not any(cells.values()):
        return []
    lines = [
        f"| {relaxation} | {' | '.join(shown(cells[relaxation, coupling]) for coupling in COUPLINGS)} |"
        for relaxation in RELAXATIONS
    ]
    title = f"### {data}, labels `{labels}`: soft self-labelling, mIoU by relaxation and coupling (seeds)"
    return [title, "", f"| | {' | '.join(COUPLINGS)} |", "|" + "---|" * (1 + len(COUPLINGS)), *lines, ""]


def shown(scores: list[float]) -> str:
    """Mean, standard deviation, and their number."""
    if not scores:
        return ""
    spread = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{mean(scores):.4f}{spread} ({len(scores)})"


def results(data: str, labels: str, method: str) -> list[dict]:
    """What each seed scored."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{data}_{labels}_{method}_seed*.json"))]


def draw_picture(path: Path) -> None:
    """Every set of labels that has results: a point a seed, the mean of each method, all labels as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = [(data, labels) for data, task in TASKS.items() for labels in task.labels]
    scored = {
        pair: {name: [entry["miou"] for entry in results(*pair, name)] for name in methods(TASKS[pair[0]])}
        for pair in sets
    }
    sets = [pair for pair in sets if any(scored[pair].values())]
    if not sets:
        return
    columns = min(3, len(sets))
    rows = math.ceil(len(sets) / columns)
    most = max(sum(map(bool, scored[pair].values())) for pair in sets)
    size = (1.5 + 4.0 * columns, (1.2 + 0.3 * most) * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(sets) :]:
        axis.set_visible(False)
    for axis, (data, labels) in zip(axes.flat, sets, strict=False):
        order = sorted((mean(values), name, values) for name, values in scored[data, labels].items() if values)
        for place, (centre, name, values) in enumerate(order):
            color = "tab:orange" if name == BASELINE else "tab:blue"
            axis.plot(values, [place] * len(values), "o", color=color, alpha=0.4, markersize=5)
            axis.plot(centre, place, "|", color=color, markersize=16, markeredgewidth=2)
        axis.set_yticks(range(len(order)), [f"{name} ({len(values)})" for _, name, values in order])
        axis.set_ylim(-0.6, len(order) - 0.4)
        everything = [entry["miou"] for entry in results(data, FULL, FULL)]
        if everything:
            axis.axvline(mean(everything), color="gray", linestyle="--")
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "rotation": 90}
            inwards = -7 if mean(everything) > mean(axis.get_xlim()) else 7
            text = {"ha": "center", "va": "center", "color": "gray"}
            axis.annotate("all labels", (mean(everything), 0.5), (inwards, 0), **text, **place)
        axis.set_title(f"{data}, {labels}", fontsize="medium")
        axis.set_xlabel("mIoU: seeds, and their mean")
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def write_tables() -> None:
    sets = [(data, labels) for data, task in TASKS.items() for labels in task.labels]
    body = [text for pair in sets for text in (*table(*pair), *study_table(*pair))]
    draw_picture(PICTURE)
    write_between(DOCUMENT, BEGIN, END, "\n".join(["\n", *body]))


def main(args: Args) -> None:
    task = TASKS[args.data]
    if args.tune:
        for labels in args.labels or tuple(task.labels):
            for method in args.methods or tuple(methods(task)):
                tune(args, labels, method)
        return
    if not args.tables:
        for seed in args.seeds:
            wanted = args.methods or (tuple(study(task)) if args.study else (FULL, *methods(task)))
            for labels, method in [
                (FULL if method == FULL else labels, method)
                for labels in args.labels or tuple(task.labels)
                for method in wanted
            ]:
                if not result_of(args.data, labels, method, seed).exists():
                    try:
                        run(args, labels, method, seed)
                    except subprocess.CalledProcessError as error:
                        print(f"{args.data} {labels} {method} seed {seed}: failed, {error}", file=sys.stderr)
    write_tables()


if __name__ == "__main__":
    main(tyro.cli(Args))
