"""Features of a frozen network for whole scenes, images and volumes, and the scene folders they are stored in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor, nn

from pcseg import ops
from pcseg.batch import IGNORE, PointBatch, offsets_of
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_folder import ColumnInfo, Scene, SceneInfo, write_info
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError
from pcseg.images import resize_features, resize_labels
from pcseg.inference import ANY_VIEW, Answer, Protocol, TileSettings, features, predict_source
from pcseg.io.atomic import replacing_folder
from pcseg.models.exported import ExportedNet
from pcseg.predictor import PartSource, Predictor
from pcseg.vote_views import VoteViews

COLUMN = "frozen"
"""The column that holds the features."""


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Some rows of a scene with their features."""

    coords: Tensor  # (n, D) float32
    feats: Tensor  # (n, F) float32
    labels: Tensor | None  # (n,) int64 in [0, num_classes) or IGNORE


class FeatureSource(Interface):
    """A frozen network that knows how it reads data."""

    def rows_of(self, source: RowSource) -> Iterator[FeatureRows]:
        """All of a scene, part by part.

        Raises:
            InputError: data that the network cannot read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudFeatures:
    """A network that reads points, tile by tile: one row a voxel, features averaged over tiles, views and points."""

    model: nn.Module
    contract: FeatureContract
    voxel_size: float
    tile_size: float
    device: torch.device
    votes: int = 1
    views: VoteViews = ANY_VIEW

    def rows_of(self, source: RowSource) -> Iterator[FeatureRows]:
        part = ScenePart(source)
        coords, labels = part.coords, part.labels
        pieces = predict_source(
            self.model,
            PartSource(part, self.contract, coords),
            voxel_size=self.voxel_size,
            answer=self._answer(part),
            tiles=TileSettings(size=self.tile_size),
            protocol=Protocol(votes=self.votes),
            device=self.device,
            views=self.views,
        )
        for rows, feats in pieces:  # no voxel lies in two pieces
            points = torch.from_numpy(np.asarray(coords[rows], np.float32))
            truth = None if labels is None else torch.from_numpy(np.asarray(labels[rows], np.int64))
            grid = ops.grid_subsample(points, self.voxel_size)
            voxels = ops.voxel_features(grid, points, feats, truth)
            assert voxels.feats is not None
            yield FeatureRows(voxels.coords, voxels.feats, voxels.labels)

    def _answer(self, part: ScenePart) -> Answer:
        if not isinstance(self.model, ExportedNet):
            return features(self.model.get_parameter("classifier.weight").shape[1])
        # What a foreign module returns is known once it has: it sees the first rows of the scene.
        rows = np.arange(min(part.num_points, 4096))
        points = torch.from_numpy(np.asarray(part.coords[rows], np.float32))
        feats = torch.from_numpy(part.feats(self.contract, rows))
        some = PointBatch(coords=points - points.mean(0), feats=feats, offsets=offsets_of([len(rows)]))
        return features(self.model.width_of(some.to(self.device)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """A network that reads whole images: one row a cell of its feature map, labels scattered to the cells."""

    model: nn.Module
    contract: FeatureContract
    device: torch.device
    long_side: int
    """Larger images are shrunk to about it before the network sees them."""

    @torch.no_grad()
    def rows_of(self, source: RowSource) -> Iterator[FeatureRows]:
        shape = source.grid_shape
        if shape is None or len(shape) != 2:
            raise InputError(f"{source.path}: is no image, and the network reads images")
        height, width = shape
        image = torch.from_numpy(self.contract.feats(source)).view(height, width, -1)
        # Whole cells, so that each knows where it lies.
        shrink, unit = min(1.0, self.long_side / max(height, width)), getattr(self.model, "patch", 32)
        size = tuple(max(1, round(edge * shrink / unit)) * unit for edge in (height, width))
        if size != (height, width):
            image = resize_features(image, size)
        planes = image.permute(2, 0, 1).unsqueeze(0).to(self.device)
        maps = self.model.features(planes)[0].float().cpu()  # pyright: ignore[reportCallIssue]  (F, h, w)
        cells = maps.shape[1], maps.shape[2]
        y, x = torch.meshgrid(
            (torch.arange(cells[0]) + 0.5) * (height / cells[0]) - 0.5,
            (torch.arange(cells[1]) + 0.5) * (width / cells[1]) - 0.5,
            indexing="ij",
        )
        truth = None
        if source.labels is not None:
            labels = torch.from_numpy(np.asarray(source.labels, np.int64)).view(height, width)
            truth = resize_labels(labels, cells).reshape(-1)
        yield FeatureRows(torch.stack([x, y], 2).view(-1, 2), maps.flatten(1).T.contiguous(), truth)


def of_predictor(predictor: Predictor, *, votes: int, long_side: int) -> FeatureSource:
    """The features that a trained network's last layer reads."""
    if predictor.on_grid:
        return ImageFeatures(
            model=predictor.model, contract=predictor.contract, device=predictor.device, long_side=long_side
        )
    return CloudFeatures(
        model=predictor.model,
        contract=predictor.contract,
        voxel_size=predictor.card.config.model.voxel_size,
        tile_size=predictor.card.tile_size,
        device=predictor.device,
        votes=votes,
        views=VoteViews.as_trained(predictor.card.config.data.augment, predictor.contract),
    )


def stored(folder: Path, recipe: dict[str, Any]) -> Scene | None:
    """The scene of an earlier call with the same recipe; None: there is none."""
    if not (folder / "scene.json").is_file():
        return None
    try:
        scene = Scene.open(folder)
    except InputError:
        return None
    return scene if scene.info.recipe == recipe else None


def store(network: FeatureSource, source: RowSource, folder: Path, recipe: dict[str, Any]) -> Scene:
    """Compute the features of a scene and write them as a scene folder, which appears whole or not at all.

    Args:
        recipe: what makes the features others; :func:`stored` compares it.

    Raises:
        InputError: data that the network cannot read, or features that are not finite.
        OSError: the folder cannot be written.
    """
    parts = list(network.rows_of(source))
    coords = torch.cat([part.coords for part in parts])
    feats = torch.cat([part.feats for part in parts])
    labels = [part.labels for part in parts if part.labels is not None]
    if not bool(torch.isfinite(feats).all()):
        raise InputError(f"{source.path}: the network's features are not finite there; look at its inputs and weights")
    codes = getattr(getattr(source, "info", None), "class_codes", ())
    histogram: dict[str, int] = {}
    with replacing_folder(folder) as temporary:
        np.save(temporary / "coords.npy", coords.numpy().astype(np.float32))
        # Half precision: networks compute in it, too; half the disk. Values beyond its range keep their sign.
        limit = torch.finfo(torch.float16).max
        np.save(temporary / f"{COLUMN}.npy", feats.clamp(-limit, limit).to(torch.float16).numpy())
        if labels:
            truth = torch.cat(labels)
            np.save(temporary / "labels.npy", truth.numpy().astype(np.int16))
            counts = torch.bincount(truth[truth != IGNORE], minlength=len(source.class_names)).tolist()
            histogram = dict(zip(source.class_names, counts, strict=True))
        info = SceneInfo(
            name=folder.name,
            num_points=len(coords),
            origin=_origin(source, coords.shape[1]),
            class_names=tuple(source.class_names),
            class_codes=codes,
            class_histogram=histogram,
            columns={COLUMN: ColumnInfo(dtype="float16", shape=tuple(feats.shape))},
            recipe=recipe,
        )
        write_info(temporary, info)
    return Scene.open(folder)


def _origin(source: RowSource, dim: int) -> tuple[float, float, float] | tuple[float, float]:
    values: Sequence[float] = getattr(source, "origin", np.zeros(dim)).tolist()
    return (values[0], values[1]) if dim == 2 else (values[0], values[1], values[2])
