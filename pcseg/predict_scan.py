"""One scan in, one segmented scan out: every attribute kept, classes and confidences added."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.datasets.prepare import prepare_scan
from pcseg.datasets.scene_folder import Scene
from pcseg.datasets.scene_part import ScenePart
from pcseg.io import scan
from pcseg.io.palette import Things
from pcseg.panoptic_inference import segment_part
from pcseg.predictor import Predictor
from pcseg.segments import Segments

SUFFIXES = (".las", ".laz", ".ply")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTargets:
    """Files that one scan becomes."""

    scan: Path
    cloud: Path | None  # coloured by class, PLY
    picture: Path | None  # PNG

    @classmethod
    def at(cls, result: Path, *, pictures: bool) -> ScanTargets:
        """The segmented scan, and beside it what there is to look at."""
        if not pictures:
            return cls(scan=result, cloud=None, picture=None)
        return cls(
            scan=result, cloud=result.with_name(f"{result.stem}_classes.ply"), picture=result.with_suffix(".png")
        )

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for file in (self.scan, self.cloud, self.picture) if file is not None)


def predict_scan(
    predictor: Predictor,
    path: Path,
    targets: ScanTargets,
    *,
    votes: int = 1,
    projection: int = 1,
    overwrite_classification: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:  # (K,) int64 points of each class
    """Segment one scan. Memory goes by the tile, not by the file; results appear whole or not at all.

    A network with a panoptic branch also numbers the things, for which it sees the scan at once.

    Args:
        advance: called with the points done since the last call, and those of the scan.

    Raises:
        InputError: a broken scan, or one without a column that the network reads.
        OSError: the results cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".pcseg-", dir=targets.scan.parent) as temporary:
        folder = Path(temporary)
        scene = prepare_scan(path, folder, name="scene", features=predictor.contract.columns, progress=False)
        classes = _array(folder / "pred_class.npy", np.int16, scene.num_points)
        confidence = _array(folder / "confidence.npy", np.float32, scene.num_points)
        counts = predictor.classify_part(
            ScenePart(scene), classes, confidence, votes=votes, projection=projection, advance=advance
        )
        segments = _segments(predictor, scene)
        is_thing = predictor.card.config.data.is_thing
        instances = None if segments is None else segments.instances(is_thing).astype(np.int32)
        scan.write_predictions(
            path,
            targets.scan,
            scene.to_source(classes, -1),
            scene.to_source(confidence, 0.0),
            instances=None if instances is None else scene.to_source(instances, -1),
            codes=predictor.class_codes,
            overwrite_classification=overwrite_classification,
        )
        things = None if segments is None or instances is None else Things(instances, segments.classes)
        _draw(scene, classes, predictor, targets, things)
    return counts


def _segments(predictor: Predictor, scene: Scene) -> Segments | None:
    """The things and the stuff of the points; None: the network names classes only."""
    if predictor.card.config.panoptic is None:
        return None
    return segment_part(predictor, ScenePart(scene))[0]


def _array(file: Path, dtype: type, count: int) -> np.ndarray:
    return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(count,))


def _draw(scene: Scene, classes: np.ndarray, predictor: Predictor, targets: ScanTargets, things: Things | None) -> None:
    """The coloured cloud and the picture, where they are wanted."""
    if targets.cloud is None or targets.picture is None:
        return
    from pcseg.io.render import render_classes, write_class_ply

    names = predictor.class_names
    write_class_ply(targets.cloud, scene.coords, classes, names, origin=scene.origin, things=things)
    render_classes(targets.picture, scene.coords, classes, names, things=things)
