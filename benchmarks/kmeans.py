"""The floor of unsupervised training: k-means clusters of what a network would read, matched to the classes.

    python -m benchmarks.kmeans configs/ahn3/kpconv_erda_unsupervised.py

Clusters are fitted to crops of the training scenes, without labels, as those that ``ClustersConfig`` starts from. Every
voxel of the validation scenes goes to its nearest centre; its points are scored at full resolution.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import tyro

from benchmarks.accuracy import prepare
from benchmarks.ops import processor
from pcseg import ops
from pcseg.batch import PointBatch, offsets_of
from pcseg.config import TrainConfig
from pcseg.config_file import load_config
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.scene_part import ScenePart, training_parts, validation_parts
from pcseg.metrics import confusion_matrix, matched, scores
from pcseg.pseudo.clusters import Clusters
from pcseg.run_setup import CLUSTERING_CROPS, fitted_contract, training_items


@dataclass(frozen=True)
class Args:
    config: tyro.conf.Positional[Path]
    """Config whose data are used."""
    neighbors: tuple[int, ...] = (1, 16)
    """Rows over which features are averaged; 1: a row's own features."""
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("benchmarks/results")


def confusion(clusters: Clusters, part: ScenePart, contract: FeatureContract, voxel_size: float) -> np.ndarray:
    """Truth against clusters, every labelled point of a scene."""
    labels, rows = part.labels, np.arange(part.num_points)
    assert labels is not None
    coords = torch.from_numpy(np.array(part.coords, np.float32))
    grid = ops.grid_subsample(coords, voxel_size)
    voxels = ops.voxel_features(grid, coords, torch.from_numpy(part.feats(contract, rows)))
    assert voxels.feats is not None
    found = clusters(PointBatch(coords=voxels.coords, feats=voxels.feats, offsets=offsets_of([len(voxels.coords)])))
    return confusion_matrix(found[grid.voxel_of_point], np.asarray(labels, np.int64), len(clusters.centres))


def score(config: TrainConfig, neighbors: int, seed: int) -> float:
    config = config.model_copy(update={"seed": seed})
    parts = training_parts(config.data, labels=False)
    contract = fitted_contract(config, parts, None)
    items = training_items(config, parts, contract, few=False)
    crops = [items.labelled[2**40 + number] for number in range(CLUSTERING_CROPS)]
    clusters = Clusters.fit(crops, len(config.data.class_names), neighbors=neighbors, share=1.0, seed=seed)
    size = config.model.voxel_size
    tables = [confusion(clusters, part, contract, size) for part in validation_parts(config.data)]
    return scores(matched(np.sum(tables, 0))).miou


def main(args: Args) -> None:
    prepare(args.config)
    config = load_config(args.config)
    report = {"method": "k-means", "data": args.config.parent.name, "machine": processor(), "neighbors": {}}
    for neighbors in args.neighbors:
        found = [score(config, neighbors, seed) for seed in args.seeds]
        report["neighbors"][neighbors] = {"miou": mean(found), "miou_by_seed": found}
        print(f"{neighbors} neighbours: mIoU {mean(found):.4f} ({', '.join(f'{value:.4f}' for value in found)})")
    report["protocol"] = "full/votes=1/scene, clusters matched"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"kmeans_{report['data']}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
