"""One volume in, a label volume and a volume of confidences out, both in the grid and frame of the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.datasets.scene_part import ScenePart
from pcseg.datasets.volume_folder import VolumeScene
from pcseg.io.volumes import SUFFIXES, read_volume_header, write_label_volume, write_volume
from pcseg.predictor import Predictor

__all__ = ["SUFFIXES", "VolumeTargets", "predict_volume"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeTargets:
    """Files that one volume becomes."""

    labels: Path
    confidence: Path  # float32, 0 to 1

    @classmethod
    def at(cls, result: Path) -> VolumeTargets:
        """The label volume, and the other beside it."""
        stem, dot, suffix = result.name.partition(".nii")
        return cls(labels=result, confidence=result.with_name(f"{stem}_confidence{dot}{suffix}"))

    @property
    def files(self) -> tuple[Path, ...]:
        return self.labels, self.confidence


def predict_volume(
    predictor: Predictor,
    path: Path,
    targets: VolumeTargets,
    *,
    votes: int = 1,
    projection: int = 1,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:  # (K,) int64 voxels of each class
    """Segment one volume. Every file appears whole or not at all.

    Args:
        advance: called with the voxels done since the last call, and those of the volume.

    Raises:
        InputError: a broken volume, or a network that reads something else.
        OSError: the results cannot be written.
    """
    header = read_volume_header(path)
    scene = VolumeScene(path=path, name=path.name, header=header, class_names=())
    classes, confidence = np.zeros(scene.num_points, np.int16), np.zeros(scene.num_points, np.float32)
    counts = predictor.classify_part(
        ScenePart(scene), classes, confidence, votes=votes, projection=projection, advance=advance
    )
    write_label_volume(targets.labels, np.asarray(predictor.class_codes)[classes].reshape(header.shape), path)
    write_volume(targets.confidence, confidence.reshape(header.shape), path)
    return counts
