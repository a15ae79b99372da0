"""The floor a network must beat: a random forest on multi-scale covariance features.

    python -m benchmarks.random_forest --data data/ahn3 --train crop_1 --val crop_2

Each point is described by the shape of its neighbourhood at several scales (Weinmann 2015: linearity, planarity,
sphericity, verticality, change of curvature, height range), its height above ground and whatever other columns the
scene has (intensity, returns, colour). The forest is tuned on a strip of the training scenes; the validation scenes
are scored once, every point, with the settings that won there. Prints and writes the figures of ``pcseg.evaluate``.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from sklearn.ensemble import RandomForestClassifier

from pcseg import IGNORE, ops
from pcseg.datasets.scene_folder import Scene
from pcseg.metrics.confusion import Scores, confusion_matrix, scores

CHUNK = 100_000  # rows whose neighbourhoods are held at a time


@dataclass(frozen=True)
class Args:
    data: Path
    """Folder of prepared scenes."""
    train: tuple[str, ...]
    """Names of the training scenes."""
    val: tuple[str, ...]
    """Names of the validation scenes."""
    columns: tuple[str, ...] = ("height_above_ground", "intensity", "return_number", "number_of_returns")
    """Columns used beside the shape features."""
    scales: tuple[int, ...] = (10, 40, 160)
    """Neighbours in each neighbourhood."""
    labels: int = 200_000
    """Labelled points drawn from the training scenes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("benchmarks/results")


def shape_features(coords: torch.Tensor, scales: tuple[int, ...]) -> np.ndarray:  # (N, 3) -> (N, 7 * S)
    """Covariance features of the k nearest points at each scale.

    Large neighbourhoods are taken from a thinned cloud, so that every scale looks at about as many points.
    """
    parts = []
    for step, k in enumerate(scales):
        support, neighbours = coords, k
        if step:
            grid = ops.grid_subsample(coords, 0.25 * 2.0**step)
            support = ops.voxel_features(grid, coords).coords
            neighbours = 20
        rows = []
        for query in coords.split(CHUNK):
            index, _ = ops.knn(query, support, neighbours)
            # In double: their features are rounded once, at the end.
            shape = ops.local_geometry(support.double(), index)
            height = support[:, 2][index.clamp(max=len(support) - 1)]
            large, middle, small = shape.eigenvalues.clamp(min=1e-9).unbind(1)
            rows.append(
                torch.stack(
                    [
                        (large - middle) / large,
                        (middle - small) / large,
                        small / large,
                        small / (small + middle + large),
                        shape.verticality,
                        (height.amax(1) - height.amin(1)).double(),
                        large.sqrt(),
                    ],
                    dim=1,
                ).float()
            )
        parts.append(torch.cat(rows))
    return torch.cat(parts, 1).numpy()


def load(args: Args, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, F), labels (N,) and coordinates (N, 3) of some scenes."""
    feats, labels, coords = [], [], []
    for name in names:
        scene = Scene.open(args.data / name)
        if scene.labels is None:
            raise SystemExit(f"{args.data / name}: the scene has no labels")
        xyz = torch.from_numpy(np.array(scene.coords))
        extra = np.stack([np.asarray(scene.column(c), np.float32) for c in args.columns], 1)
        feats.append(np.concatenate([shape_features(xyz, args.scales), extra], 1))
        labels.append(np.asarray(scene.labels, np.int64))
        coords.append(xyz.numpy())
    return np.concatenate(feats), np.concatenate(labels), np.concatenate(coords)


def fit(feats: np.ndarray, labels: np.ndarray, count: int, seed: int, leaf: int) -> RandomForestClassifier:
    """A forest on ``count`` labelled rows, drawn evenly."""
    rows = np.flatnonzero(labels != IGNORE)
    rows = np.random.default_rng(seed).permutation(rows)[:count]
    forest = RandomForestClassifier(
        150, min_samples_leaf=leaf, max_features="sqrt", n_jobs=-1, random_state=seed, class_weight="balanced_subsample"
    )
    return forest.fit(feats[rows], labels[rows])


def score(forest: RandomForestClassifier, feats: np.ndarray, labels: np.ndarray, num_classes: int) -> Scores:
    return scores(confusion_matrix(forest.predict(feats), labels, num_classes))


def main(args: Args) -> None:
    class_names = Scene.open(args.data / args.train[0]).info.class_names
    start = time.perf_counter()
    train_feats, train_labels, train_coords = load(args, args.train)
    # The last fifth along x decides the leaf size; the validation scenes are not looked at for that.
    strip = train_coords[:, 0] > np.quantile(train_coords[:, 0], 0.8)
    best = max(
        (1, 5, 20),
        key=lambda leaf: (
            score(
                fit(train_feats[~strip], train_labels[~strip], args.labels // 4, 0, leaf),
                train_feats[strip],
                train_labels[strip],
                len(class_names),
            ).miou
        ),
    )
    val_feats, val_labels, _ = load(args, args.val)
    results = []
    for seed in args.seeds:
        forest = fit(train_feats, train_labels, args.labels, seed, best)
        results.append(score(forest, val_feats, val_labels, len(class_names)))
    mean = float(np.mean([r.miou for r in results]))
    report = {
        "method": "random forest",
        "data": args.data.name,
        "protocol": "full resolution, every point, no votes",
        "labels": min(args.labels, int((train_labels != IGNORE).sum())),
        "min_samples_leaf": best,
        "miou": mean,
        "miou_by_seed": [r.miou for r in results],
        "oa": float(np.mean([r.oa for r in results])),
        "iou": {name: float(np.mean([r.iou[k] for r in results])) for k, name in enumerate(class_names)},
        "seconds": round(time.perf_counter() - start, 1),
        "machine": platform.processor() or platform.machine(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"random_forest_{args.data.name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Args))
