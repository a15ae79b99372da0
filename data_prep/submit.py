"""Segment the test scenes of a benchmark and write the files that its server takes.

python -m data_prep.submit runs/scannet_kpconv --form scannet --scenes @test --out submission
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.config_file import leading_path, parse_command
from pcseg.datasets.scene_folder import Scene, find_scenes
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError, run_command
from pcseg.inference import Protocol
from pcseg.io.submission import Format, write_submission
from pcseg.predictor import Predictor
from pcseg.progress import progress_bar

PROG = "python -m data_prep.submit RUN"


@dataclass(frozen=True)
class SubmitOptions:
    """Segment prepared scenes and write one file a scene for a benchmark's server."""

    form: Format
    """scannet: class ids, one a line (NYU40 ids, or those of ScanNet200). sensaturban: one byte a point. semantickitti:
    uint32 ids in sequences/NN/predictions/, as its server wants them in a zip file."""
    out: Path
    """Folder of the files."""
    data: Path | None = None
    """Folder of the scenes; else the one of the run."""
    scenes: tuple[str, ...] = ("@test",)
    """Names, patterns, or lists of the folder."""
    votes: int = 1
    """Views averaged."""
    device: str = "auto"
    """auto, cpu, cuda"""


def submit_scene(predictor: Predictor, scene: Scene, options: SubmitOptions) -> Path:
    """Segment one scene and write its file; a point that preparation dropped gets the first class.

    Raises:
        InputError: a scene without a column that the network reads.
    """
    classes = np.zeros(scene.num_points, np.int64)
    for rows, probs in predictor.predict_part(ScenePart(scene), Protocol(votes=options.votes)):
        classes[rows] = probs.argmax(1).cpu().numpy()
    codes = np.asarray(predictor.class_codes, np.int64)
    return write_submission(options.out, scene.name, scene.to_source(codes[classes], int(codes[0])), options.form)


def main(argv: Sequence[str] | None = None) -> None:
    model, rest = leading_path(argv, "a run folder or a checkpoint", SubmitOptions, prog=PROG)
    options, _ = parse_command(SubmitOptions, rest, prog=PROG)
    predictor = Predictor.load(model, options.device)
    config = predictor.card.config.data
    if config.kind != "scenes":
        raise InputError(f"{model}: reads {config.kind}; the benchmarks here are of scenes")
    scenes = find_scenes(options.data or config.root, options.scenes)
    options.out.mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress:
        task = progress.add_task("segment", total=len(scenes))
        for scene in scenes:
            progress.update(task, description=f"segment {scene.name}")
            submit_scene(predictor, scene, options)
            progress.advance(task)
    print(f"{options.out}: {len(scenes)} files")


if __name__ == "__main__":
    run_command(main)
