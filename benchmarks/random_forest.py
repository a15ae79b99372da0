"""The floor a network must beat: a random forest on features made by hand, on scans and on images.

    python -m benchmarks.random_forest configs/ahn3/kpconv.py
    python -m benchmarks.random_forest configs/aerial/deeplab_mobilenet.py

The config says which data. Points are described by the shape of their neighbourhood at several scales, and by the
columns that the config's features read; pixels by colour and texture (``benchmarks/hand_features.py``). The leaf size
is tuned on a strip of each training scene or image; the validation ones are scored once, every row, with the size that
won there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from sklearn.ensemble import RandomForestClassifier

from benchmarks.hand_features import shape_features, texture_features
from benchmarks.ops import processor
from pcseg import IGNORE
from pcseg.config import DataConfig, StripConfig
from pcseg.config_file import load_config
from pcseg.datasets.scene_part import ScenePart, training_parts, validation_parts
from pcseg.metrics.confusion import Scores, confusion_matrix, scores

LEAVES = (1, 5, 20)
TUNED_ROWS = 1_000_000  # of the strips, on which the leaf size is tuned
Rows = tuple[np.ndarray, np.ndarray]  # features (n, F), labels (n,)


@dataclass(frozen=True)
class Args:
    config: tyro.conf.Positional[Path]
    """Config whose data are used."""
    scales: tuple[int, ...] = (10, 40, 160)
    """Neighbours in each neighbourhood of a scan."""
    labels: int = 200_000
    """Labelled rows drawn from the training part."""
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("benchmarks/results")


def described(part: ScenePart, data: DataConfig, scales: tuple[int, ...]) -> np.ndarray:  # (n, F) float32
    scene = part.scene
    chosen = slice(None) if part.chosen is None else part.chosen
    if data.kind == "images":
        assert scene.grid_shape is not None
        return texture_features(np.asarray(scene.column("color")).reshape(*scene.grid_shape, -1))[chosen]
    columns = [np.asarray(scene.column(name), np.float32).reshape(scene.num_points, -1) for name in data.features]
    shape = shape_features(torch.from_numpy(np.array(scene.coords, np.float32)), scales)
    return np.concatenate([shape, *columns], 1)[chosen]


def drawn(parts: Sequence[ScenePart], args: Args, data: DataConfig, count: int, seeds: Sequence[int]) -> list[Rows]:
    """At most ``count`` labelled rows of the parts for each seed, drawn evenly; features are made once for all."""
    rngs = [np.random.default_rng(seed) for seed in seeds]
    total = sum(int((labels_of(part) != IGNORE).sum()) for part in parts)
    share = min(1.0, count / max(total, 1))
    found: list[list[Rows]] = [[] for _ in seeds]
    for part in parts:
        feats, truth = described(part, data, args.scales), labels_of(part)
        labelled = np.flatnonzero(truth != IGNORE)
        for rng, pieces in zip(rngs, found, strict=True):
            rows = np.sort(rng.permutation(labelled)[: round(share * len(labelled))])
            pieces.append((feats[rows], truth[rows]))
    return [(np.concatenate([f for f, _ in pieces]), np.concatenate([t for _, t in pieces])) for pieces in found]


def labels_of(part: ScenePart) -> np.ndarray:  # (n,) int64
    if part.labels is None:
        raise SystemExit(f"{part.scene.path}: has no labels")
    return np.asarray(part.labels, np.int64)


def fit(rows: Rows, seed: int, leaf: int) -> RandomForestClassifier:
    forest = RandomForestClassifier(
        150, min_samples_leaf=leaf, max_features="sqrt", n_jobs=-1, random_state=seed, class_weight="balanced_subsample"
    )
    return forest.fit(*rows)


def score(
    forests: Sequence[RandomForestClassifier],
    parts: Sequence[ScenePart],
    args: Args,
    data: DataConfig,
    most: int | None = None,
) -> list[Scores]:
    """Scores of each forest on every row of the parts, or on about ``most`` rows, evenly spaced in each part."""
    num_classes = len(data.class_names)
    total = sum(len(labels_of(part)) for part in parts)
    step = 1 if most is None else max(1, total // most)
    confusion = [np.zeros((num_classes, num_classes), np.int64) for _ in forests]
    for part in parts:
        feats, truth = described(part, data, args.scales)[::step], labels_of(part)[::step]
        for table, forest in zip(confusion, forests, strict=True):
            table += confusion_matrix(forest.predict(feats), truth, num_classes)
    return [scores(table) for table in confusion]


def main(args: Args) -> None:
    data = load_config(args.config).data
    start = time.perf_counter()
    tuning = data.model_copy(update={"strip": StripConfig(fraction=0.2, margin=2.0)})
    (few,) = drawn(training_parts(tuning), args, data, args.labels // 4, seeds=[0])
    strips = score([fit(few, 0, leaf) for leaf in LEAVES], validation_parts(tuning), args, data, most=TUNED_ROWS)
    best = LEAVES[int(np.argmax([result.miou for result in strips]))]
    tables = drawn(training_parts(data), args, data, args.labels, args.seeds)
    forests = [fit(rows, seed, best) for rows, seed in zip(tables, args.seeds, strict=True)]
    results = score(forests, validation_parts(data), args, data)
    report = {
        "method": "random forest",
        "data": args.config.parent.name,
        "protocol": "full/votes=1/scene",
        "labels": args.labels,
        "min_samples_leaf": best,
        "miou": float(np.mean([r.miou for r in results])),
        "miou_by_seed": [r.miou for r in results],
        "oa": float(np.mean([r.oa for r in results])),
        "iou": {name: float(np.mean([r.iou[k] for r in results])) for k, name in enumerate(data.class_names)},
        "seconds": round(time.perf_counter() - start, 1),
        "machine": processor(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"random_forest_{report['data']}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Args))
