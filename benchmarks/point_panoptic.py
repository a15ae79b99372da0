"""Things from one click each: trains every variant on the table-top scans, and writes the tables of docs/results.md.

    python -m benchmarks.point_panoptic                              # all variants, 3 seeds, then the tables
    python -m benchmarks.point_panoptic --variants learned path full --seeds 0
    python -m benchmarks.point_panoptic --tune                       # on ten of the learn scenes, for settings
    python -m benchmarks.point_panoptic --tables                     # only the tables

The seed draws clicks and network alike. Pseudo-labels are scored on the training scenes, against labels that the run
did not see; the network on the test scenes. A run that has a result under benchmarks/results/point_panoptic is not made
again; one that was interrupted goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from benchmarks.accuracy import command
from benchmarks.table import write_between
from pcseg.config import PointPanopticConfig, SupervisedConfig, TrainConfig
from pcseg.config_file import load_config

RESULTS, DOCUMENT = Path("benchmarks/results/point_panoptic"), Path("docs/results.md")
BEGIN, END = "<!-- tables: python -m benchmarks.point_panoptic -->", "<!-- end of point panoptic -->"
CONFIG = Path("configs/tabletop/kpconv_point_panoptic.py")
CLICKS = ("clicks", "--radius", "0.03", "--min-rows", "100")
HELD_OUT = 10
"""Learn scenes on which settings are tuned."""
FULL = "full"

VARIANTS: dict[str, dict[str, Any]] = {
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
"""What differs from the committed config."""


@dataclass(frozen=True)
class Args:
    variants: tuple[str, ...] = ()
    """All where none is named; "full" is supervision with all labels."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tune: bool = False
    """Train without ten of the learn scenes, and score on them; results are printed, not kept."""
    change: str = "{}"
    """JSON of further changes of the method, for tuning."""
    run_change: str = "{}"
    """JSON of changes of the run."""
    tables: bool = False


def prepared(seed: int) -> Path:
    """Scenes and mask file, made where they are missing."""
    if not Path("data/tabletop").exists():
        command("data_prep.tabletop", "--raw", "samples/mosd_tabletop", "--out", "data/tabletop")
    path = Path(f"data/weak/tabletop_clicks_seed{seed}.npz")
    if not path.exists():
        command("pcseg.weaken", CONFIG, *CLICKS, "--seed", str(seed), "-o", path)
    return path


def config_of(variant: str, seed: int, args: Args) -> TrainConfig:
    base = load_config(CONFIG)
    mask = prepared(seed)
    full = variant == FULL
    data = base.data.model_copy(update={"weak_labels": None if full else mask})
    if args.tune:
        names = Path("data/tabletop/splits/learn.txt").read_text().split()
        held = names[:: len(names) // HELD_OUT][:HELD_OUT]
        kept = tuple(name for name in names if name not in held)
        data = data.model_copy(update={"train_scenes": kept, "val_scenes": tuple(held)})
    method = SupervisedConfig()
    if not full:
        assert isinstance(base.method, PointPanopticConfig)
        method = base.method.model_copy(update=VARIANTS[variant] | json.loads(args.change))
    values = base.model_copy(update={"data": data, "seed": seed, "method": method}).model_dump()
    return TrainConfig.model_validate(values | json.loads(args.run_change))


def run(variant: str, seed: int, args: Args) -> dict[str, Any]:
    from pcseg.datasets.scene_part import validation_parts
    from pcseg.panoptic_inference import evaluate_panoptic
    from pcseg.predictor import Predictor
    from pcseg.pseudo_labels import load_method, pseudo_segments, score_segments
    from pcseg.train import train

    config = config_of(variant, seed, args)
    folder = Path("runs/point_panoptic") / f"{variant.replace(' ', '_')}{'_tune' if args.tune else ''}_seed{seed}"
    train(config, folder, fresh=args.tune)
    predictor = Predictor.load(folder / "checkpoints" / "last.safetensors")
    test = evaluate_panoptic(predictor, validation_parts(config.data))
    result: dict[str, Any] = {"variant": variant, "seed": seed, "test": test.as_dict()}
    result["miou"] = predictor.card.scores.get("miou")
    result["train_seconds"] = predictor.card.train_seconds
    if variant != FULL:
        predictor, method = load_method(folder)
        found = dict(pseudo_segments(predictor, method))
        result["pseudo"] = score_segments(found, config.data).as_dict()
    return result


def result_of(variant: str, seed: int) -> Path:
    return RESULTS / f"{variant.replace(' ', '_').replace(',', '')}_seed{seed}.json"


def table() -> str:
    lines = [
        "| variant | seeds | pseudo-label PQ (things) | test PQ ± standard deviation | things | stuff | AP | AP50 |"
    ]
    lines.append("|" + "---|" * 8)
    for variant in (FULL, *VARIANTS):
        found = [
            json.loads(path.read_text()) for path in sorted(RESULTS.glob(result_of(variant, 0).name[:-6] + "?.json"))
        ]
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
        if variant != FULL:
            pseudo = f"{average('pseudo', 'overall', 'pq'):.3f} ({average('pseudo', 'things', 'pq'):.3f})"
        cells = [
            variant if variant != FULL else "all labels",
            str(len(found)),
            pseudo,
            f"**{mean(scores):.3f}**{spread}",
        ]
        cells += [f"{average('test', part, 'pq'):.3f}" for part in ("things", "stuff")]
        cells += [f"{average('test', name):.3f}" for name in ("ap", "ap50")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args: Args) -> None:
    if not args.tables:
        for seed in args.seeds:
            for variant in args.variants or (FULL, *VARIANTS):
                path = result_of(variant, seed)
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
        write_between(DOCUMENT, BEGIN, END, f"\n\n{table()}\n\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
