"""A scene or some of its rows, and what a run is trained and scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pcseg.config import DataConfig, StripConfig
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.hidden_labels import HiddenLabels
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_folder import Scene, find_scenes
from pcseg.datasets.weak_labels import WeakLabels, no_labels, own_labels
from pcseg.errors import InputError
from pcseg.ignore import IGNORE
from pcseg.processes import tell

_FEW = 3  # names that a line lists


@dataclass(frozen=True, slots=True)
class ScenePart:
    """Rows of a scene."""

    scene: RowSource
    chosen: np.ndarray | None = None  # (n,) int64; None: the whole scene
    suffix: str = ""  # of the name

    @property
    def name(self) -> str:
        return self.scene.name + self.suffix

    @property
    def num_points(self) -> int:
        return self.scene.num_points if self.chosen is None else len(self.chosen)

    @property
    def visible(self) -> np.ndarray | None:  # (N,) bool, over all rows of the scene
        """Whose label may be seen; None: everybody's. The other labels are gone from ``scene``."""
        return self.scene.visible if isinstance(self.scene, HiddenLabels) else None

    @property
    def coords(self) -> np.ndarray:  # (n, D) float32
        return self.scene.coords if self.chosen is None else self.scene.coords[self.chosen]

    @property
    def labels(self) -> np.ndarray | None:  # (n,) int16
        labels = self.scene.labels
        return labels if labels is None or self.chosen is None else labels[self.chosen]

    @property
    def instances(self) -> np.ndarray | None:  # (n,) integer
        instances = self.scene.instances
        return instances if instances is None or self.chosen is None else instances[self.chosen]

    def feats(
        self,
        contract: FeatureContract,
        rows: np.ndarray,  # (m,) int64, of this part
    ) -> np.ndarray:  # (m, C) float32
        return contract.feats(self.scene, rows if self.chosen is None else self.chosen[rows])


def hold_out_strip(scene: RowSource, strip: StripConfig) -> tuple[ScenePart, ScenePart]:
    """The part of a scene to train on, and the strip to score; between them lies a margin that is in neither.

    Raises:
        InputError: nothing is left of one of them.
    """
    values = np.asarray(scene.coords[:, "xy".index(strip.axis)])
    border = float(np.quantile(values, 1.0 - strip.fraction))
    train = np.flatnonzero(values < border - strip.margin)
    held = np.flatnonzero(values >= border)
    if not len(train) or not len(held):
        raise InputError(f"{scene.path}: a strip of {strip.fraction} leaves nothing; change data.strip.fraction")
    return ScenePart(scene, train, ".rest"), ScenePart(scene, held, ".strip")


def open_sources(data: DataConfig, patterns: Sequence[str]) -> Sequence[RowSource]:
    """Scenes, images or volumes under the root whose names match, in the order of the patterns; each once.

    Raises:
        InputError: no such folder, or a pattern that matches nothing.
    """
    if data.kind == "images":
        from pcseg.datasets.image_folder import find_images

        return find_images(data.root, patterns, data.class_names, data.label_map)
    if data.kind == "volumes":
        from pcseg.datasets.volume_folder import find_volumes

        return find_volumes(data.root, patterns, data.class_names, data.label_map)
    if data.kind == "panoptic":
        from pcseg.datasets.panoptic_images import find_panoptic_images

        return find_panoptic_images(data.root, patterns, data.class_names, data.label_map)
    return find_scenes(data.root, patterns)


def _check_codes(scenes: Sequence[RowSource], data: DataConfig) -> None:
    """Predictions are written in the config's codes: none may stand for another class where a scene came from.

    Codes that are ignored on one side are left aside, and so are scenes of other classes, which are refused elsewhere.

    Raises:
        InputError: a code that is of one class in the config and of another one in a scene.
    """
    for scene in scenes:
        if not isinstance(scene, Scene) or scene.class_names != data.class_names:
            continue
        for code, name in scene.codes.items():
            index = data.label_map.get(code, IGNORE)
            if index != IGNORE and name in data.class_names and name != data.class_names[index]:
                raise InputError(
                    f"{scene.path}: was prepared with the code {code} for '{name}', and data.label_map says "
                    f"'{data.class_names[index]}'; change data.label_map, or prepare it again with the run's --config"
                )


def _tell_of_overlap(scenes: Sequence[RowSource], data: DataConfig) -> None:
    """A line where scenes are trained on and scored as well."""
    if not data.val_scenes or data.strip.fraction:
        return
    try:
        held_out = open_sources(data, data.val_scenes)
    except InputError:  # what scores them says so
        return
    names = {scene.name for scene in scenes}
    both = [scene.name for scene in held_out if scene.name in names]
    if both:
        shown = ", ".join(both[:_FEW]) + (f" and {len(both) - _FEW} more" if len(both) > _FEW else "")
        tell(f"in train_scenes and in val_scenes: {shown}; the score is partly that of training data")


def training_parts(data: DataConfig, *, labels: bool = True) -> list[ScenePart]:
    """What a run is trained on, without the labels that a mask file hides.

    Args:
        labels: False: all labels are hidden, and scenes need not have any.

    Raises:
        InputError: a scene that is not there; a mask file that is missing, of other data, or shows no label; a
            code that means another class in a scene than in the config.
    """
    scenes = open_sources(data, data.train_scenes)
    if labels:
        _check_codes(scenes, data)
        _tell_of_overlap(scenes, data)
    if not labels:
        scenes = [HiddenLabels(scene, np.zeros(0, np.int64)) for scene in scenes]
    elif data.weak_labels is not None:
        weak = WeakLabels.load(data.weak_labels)
        scenes = [weak.hide(scene) for scene in scenes]
        if not any(len(scene.rows) for scene in scenes):
            raise InputError(f"{data.weak_labels}: shows no label of the training scenes; draw another mask of them")
    return [hold_out_strip(s, data.strip)[0] if data.strip.fraction else ScenePart(s) for s in scenes]


def visible_labels(data: DataConfig, parts: Sequence[ScenePart]) -> dict[str, Any] | None:
    """What to say of the labels that a run on these parts sees, as plain values; None: most rows have one.

    Of parts that :func:`training_parts` gave.

    Raises:
        InputError: the mask file is missing or damaged.
    """
    if data.weak_labels is None:
        if any(part.visible is not None for part in parts):
            return no_labels(data.class_names, len(parts))
        return own_labels(data.class_names, (labels for part in parts if (labels := part.labels) is not None))
    told = WeakLabels.load(data.weak_labels).summary(part.scene.name for part in parts)
    lost = sum(_count_lost(part) for part in parts)
    return told | {"lost": lost} if lost else told


def _count_lost(part: ScenePart) -> int:
    """Visible labels of a scene that lie outside the part: in its strip, or beside that."""
    if part.chosen is None or part.visible is None:
        return 0
    shown = part.visible & (np.asarray(part.scene.labels) >= 0)
    return int(shown.sum() - shown[part.chosen].sum())


def validation_parts(data: DataConfig) -> list[ScenePart]:
    """What a run is scored on: the validation scenes, or the strips of the training scenes where they are held out.

    Their labels are never hidden.

    Raises:
        InputError: a scene that is not there.
    """
    if data.strip.fraction:
        return [hold_out_strip(scene, data.strip)[1] for scene in open_sources(data, data.train_scenes)]
    return [ScenePart(scene) for scene in open_sources(data, data.val_scenes)] if data.val_scenes else []
