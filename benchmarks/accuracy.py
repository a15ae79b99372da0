"""Trains and scores the committed configs, several seeds each, and writes the tables of docs/results.md.

    python -m benchmarks.accuracy                                 # all that can run and have no result, then the tables
    python -m benchmarks.accuracy configs/ahn3/*.py --seeds 0 1 2
    python -m benchmarks.accuracy --tables                        # only the tables

Data are prepared from ``samples/`` where they are missing. A run that was interrupted goes on where it was; one that
has a result under ``benchmarks/results/accuracy`` is not made again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import tyro

from benchmarks.ops import processor
from benchmarks.table import write_between
from pcseg.config_file import load_config

RESULTS, DOCUMENT = Path("benchmarks/results"), Path("docs/results.md")
BEGIN, END = "<!-- tables: python -m benchmarks.accuracy -->", "<!-- end of tables -->"
SCANS = {"ahn3": "samples/ahn3_delft", "ign": "samples/ign_lidarhd_50m"}


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run files; where none is named, all under configs/ that learn from all labels of data that are there."""
    seeds: tuple[int, ...] = (0, 1, 2)
    protocol: str = "full/votes=4/scene"
    tables: bool = False
    """Write the tables from what is there, and train nothing."""


def command(module: str, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def prepare(config: Path) -> None:
    """Scene folders of the shipped scans; images and volumes are read as they lie."""
    name = config.parent.name
    root = load_config(config).data.root
    if name in SCANS and not root.exists():
        command("data_prep.las", *sorted(Path(SCANS[name]).glob("*.laz")), "--out", root, "--config", config)


def can_run(config: Path) -> bool:
    """Whether a run learns from all labels of data that are shipped, or lie where it looks for them."""
    asked = load_config(config)
    there = asked.data.root.exists() or asked.data.root in {Path("data") / name for name in SCANS}
    return there and asked.data.weak_labels is None and asked.method.kind == "supervised"


def result_of(config: Path, seed: int) -> Path:
    return RESULTS / "accuracy" / f"{config.parent.name}_{config.stem}_seed{seed}.json"


def run(config: Path, seed: int, protocol: str) -> None:
    folder = Path("runs") / "accuracy" / f"{config.parent.name}_{config.stem}_seed{seed}"
    train_and_score(config, folder, result_of(config, seed), seed=seed, protocol=protocol)


def train_and_score(config: Path, folder: Path, target: Path, *, seed: int, protocol: str) -> None:
    """Train a run in a folder, and write its scores without the confusion matrix to ``target``."""
    command("pcseg.train", config, "--run", folder, "--seed", str(seed))
    command("pcseg.evaluate", folder, "--protocol", protocol)
    found = json.loads((folder / "metrics.json").read_text())
    del found["confusion"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"seed": seed, "machine": processor()} | found, indent=1) + "\n")


def table(name: str, configs: Sequence[Path]) -> list[str]:
    """One data set: a line for each network, and for the forest, by mIoU."""
    lines, classes = [], list(load_config(configs[0]).data.class_names)
    for config in configs:
        found = [
            json.loads(p.read_text()) for p in sorted(result_of(config, 0).parent.glob(f"{name}_{config.stem}_seed*"))
        ]
        if found:
            lines.append(line(f"`{config}`", found, classes))
    forest = RESULTS / f"random_forest_{name}.json"
    if lines and forest.exists():
        told = json.loads(forest.read_text())
        each = [told | {"miou": value} for value in told["miou_by_seed"]]
        lines.append(line("random forest, `benchmarks/random_forest.py`", each, classes))
    if not lines:
        return []
    head = ["run", "protocol", "seeds", "mIoU", *classes, "OA", "s of training"]
    lines.sort(key=lambda pair: -pair[0])
    return [f"### {name}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(text for _, text in lines), ""]


def line(title: str, found: Sequence[dict], classes: Sequence[str]) -> tuple[float, str]:
    scores = [entry["miou"] for entry in found]
    iou = [mean(entry["iou"][name] or 0.0 for entry in found) for name in classes]
    spread = f"**{mean(scores):.4f}** ({min(scores):.4f} to {max(scores):.4f})"
    cells = [title, found[0]["protocol"], str(len(found)), spread, *(f"{value:.3f}" for value in iou)]
    seconds = [entry["train_seconds"] for entry in found if "train_seconds" in entry]
    cells += [f"{mean(entry['oa'] for entry in found):.4f}", f"{median(seconds):.0f}" if seconds else ""]
    return mean(scores), f"| {' | '.join(cells)} |"


def write_tables(configs: Sequence[Path]) -> None:
    names = dict.fromkeys(config.parent.name for config in configs)
    body = [text for name in names for text in table(name, [c for c in configs if c.parent.name == name])]
    write_between(DOCUMENT, BEGIN, END, "\n".join(["\n", *body]))


def main(args: Args) -> None:
    everything = sorted(Path("configs").glob("*/*.py"))
    for config in () if args.tables else args.configs or filter(can_run, everything):
        for seed in args.seeds:
            if not result_of(config, seed).exists():
                prepare(config)
                run(config, seed, args.protocol)
    write_tables(everything)


if __name__ == "__main__":
    main(tyro.cli(Args))
