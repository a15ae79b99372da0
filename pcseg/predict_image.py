"""One picture in, a mask of class codes, confidences and a picture to look at out; segments, where things are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.datasets.image_folder import ImageScene
from pcseg.datasets.scene_part import ScenePart
from pcseg.io.atomic import replacing
from pcseg.io.coco_panoptic import PanopticResult
from pcseg.io.images import SUFFIXES, read_size, write_mask
from pcseg.io.palette import class_colors, thing_colors
from pcseg.panoptic_inference import segment_part
from pcseg.predictor import Predictor
from pcseg.segments import Segments

__all__ = ["SUFFIXES", "ImageTargets", "predict_image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTargets:
    """Files that one picture becomes."""

    mask: Path  # codes of the source, with a palette
    confidence: Path  # 0 to 255
    overlay: Path | None  # half picture, half colours of the classes, or of the things and the stuff
    panoptic: Path  # JSON of the segments, where things are told apart, of this picture and those beside it

    @classmethod
    def at(cls, result: Path, *, pictures: bool, in_folder: bool) -> ImageTargets:
        """The mask, and the others beside it; pictures of one folder share the JSON."""
        return cls(
            panoptic=result.with_name("panoptic.json" if in_folder else f"{result.stem}_panoptic.json"),
            mask=result,
            confidence=result.with_name(f"{result.stem}_confidence.png"),
            overlay=result.with_name(f"{result.stem}_overlay.png") if pictures else None,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for file in (self.mask, self.confidence, self.overlay) if file is not None)


def predict_image(
    predictor: Predictor,
    path: Path,
    targets: ImageTargets,
    *,
    votes: int = 1,
    projection: int = 1,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, PanopticResult | None]:
    """Segment one picture. Every file appears whole or not at all.

    A network with a panoptic branch also tells things apart, for which it sees the picture at once.

    Args:
        projection: of networks that read points.
        advance: called with the pixels done since the last call, and those of the picture.

    Returns:
        Pixels of each class (K,) int64, and the segments, which the caller writes; None: the network names classes
        only.

    Raises:
        InputError: a broken picture, or a network that reads something else.
        OSError: the results cannot be written.
    """
    shape = read_size(path)
    scene = ImageScene(path=path, name=path.stem, grid_shape=shape, class_names=())
    classes, confidence = np.zeros(scene.num_points, np.int16), np.zeros(scene.num_points, np.float32)
    counts = predictor.classify_part(
        ScenePart(scene), classes, confidence, votes=votes, projection=projection, advance=advance
    )
    segments = None if predictor.card.config.panoptic is None else segment_part(predictor, ScenePart(scene))[0]
    codes, colors = np.asarray(predictor.class_codes), class_colors(predictor.class_names)
    palette = np.zeros((256, 3), np.uint8)
    palette[codes[codes < 256]] = colors[codes < 256]
    write_mask(targets.mask, codes[classes].reshape(shape), palette)
    _write_png(targets.confidence, (confidence * 255).round().astype(np.uint8).reshape(shape))
    if targets.overlay is not None:
        pixels = scene.column("color")
        seen = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        if segments is None:
            mixed = ((seen.astype(np.uint16) + colors[classes]) // 2).astype(np.uint8)
        else:
            mixed = _drawn(seen, segments, predictor.card.config.data.is_thing, colors, shape)
        _write_png(targets.overlay, mixed.reshape(*shape, 3))
    if segments is None:
        return counts, None
    number = int(path.stem) if path.stem.isdecimal() else path.stem  # as COCO numbers its images
    result = PanopticResult(image_file=path.name, image_id=number, segments=segments, height=shape[0], width=shape[1])
    return counts, result


def _drawn(
    seen: np.ndarray,  # (N, 3) uint8
    segments: Segments,
    is_thing: Sequence[bool],
    colors: np.ndarray,  # (K, 3) uint8
    shape: tuple[int, int],
) -> np.ndarray:  # (N, 3) uint8
    """Half picture, half colours: stuff has its class' colour, each thing a shade of it; a white line between segments.

    Pixels of no segment are the picture's.
    """
    from pcseg.io.render import outlines

    table = colors[segments.classes]
    things = np.flatnonzero(np.asarray(is_thing)[segments.classes])
    table[things] = thing_colors(segments.classes[things], colors)
    known = segments.ids >= 0
    mixed = seen.copy()
    mixed[known] = (seen[known].astype(np.uint16) + table[segments.ids[known]]) // 2
    mixed[outlines(segments.ids.reshape(shape)).reshape(-1)] = 255
    return mixed


def _write_png(path: Path, pixels: np.ndarray) -> None:  # (H, W) or (H, W, 3) uint8
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
