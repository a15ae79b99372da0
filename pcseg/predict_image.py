"""One picture in, a mask of class codes, confidences and a picture to look at out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcseg.datasets.image_folder import ImageScene
from pcseg.datasets.scene_part import ScenePart
from pcseg.io.atomic import replacing
from pcseg.io.images import SUFFIXES, read_size, write_mask
from pcseg.io.palette import class_colors
from pcseg.predictor import Predictor

__all__ = ["SUFFIXES", "ImageTargets", "predict_image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTargets:
    """Files that one picture becomes, all PNG."""

    mask: Path  # codes of the source, with a palette
    confidence: Path  # 0 to 255
    overlay: Path | None  # half picture, half colours of the classes

    @classmethod
    def at(cls, result: Path, *, pictures: bool) -> ImageTargets:
        """The mask, and the others beside it."""
        return cls(
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
) -> np.ndarray:  # (K,) int64 pixels of each class
    """Segment one picture. Every file appears whole or not at all.

    Args:
        projection: of networks that read points.
        advance: called with the pixels done since the last call, and those of the picture.

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
    codes, colors = np.asarray(predictor.class_codes), class_colors(predictor.class_names)
    palette = np.zeros((256, 3), np.uint8)
    palette[codes[codes < 256]] = colors[codes < 256]
    write_mask(targets.mask, codes[classes].reshape(shape), palette)
    _write_png(targets.confidence, (confidence * 255).round().astype(np.uint8).reshape(shape))
    if targets.overlay is not None:
        pixels = scene.column("color")
        seen = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        mixed = (seen.astype(np.uint16) + colors[classes]) // 2
        _write_png(targets.overlay, mixed.astype(np.uint8).reshape(*shape, 3))
    return counts


def _write_png(path: Path, pixels: np.ndarray) -> None:  # (H, W) or (H, W, 3) uint8
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
