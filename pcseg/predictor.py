"""A trained network with all it needs to segment a cloud or an image: class table, feature contract, tile size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pcseg.checkpoint import CheckpointCard, load_checkpoint, load_weights
from pcseg.datasets.feature_contract import ONES, FeatureContract
from pcseg.datasets.paired_files import grid_coords
from pcseg.datasets.scene_part import ScenePart
from pcseg.errors import InputError
from pcseg.inference import Answer, Protocol, TileSettings, predict_source, probabilities
from pcseg.models import build_network
from pcseg.vote_views import VoteViews
from pcseg.window_inference import predict_windows

DEFAULT_PROTOCOL = "full/votes=1/scene"
_MISFIT = {2: "is no image, and the network reads images", 3: "is an image, and the network reads scans or volumes"}


@dataclass(frozen=True, slots=True)
class PartSource:
    """A scene, or some of its rows, as prediction reads it."""

    part: ScenePart
    contract: FeatureContract
    coords: np.ndarray  # (N, D) float32

    def feats(self, rows: np.ndarray) -> np.ndarray:  # (n,) -> (n, C)
        return self.part.feats(self.contract, rows)


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Arrays in memory as prediction reads them."""

    coords: np.ndarray  # (N, D) float32
    scaled: np.ndarray  # (N, C) float32

    def feats(self, rows: np.ndarray) -> np.ndarray:  # (n,) -> (n, C)
        return self.scaled[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """Made by :func:`pcseg.load`."""

    card: CheckpointCard
    model: nn.Module
    contract: FeatureContract
    device: torch.device

    @classmethod
    def load(cls, path: Path | str, device: str | torch.device | None = None) -> Predictor:
        """From a checkpoint or a run folder.

        Args:
            device: None: a GPU where the ops run on one, else the CPU.

        Raises:
            InputError: no checkpoint there, or a broken one; a device that is not here.
        """
        checkpoint = load_checkpoint(path)
        card = checkpoint.card
        model = build_network(card.config, card.in_channels, pretrained=False)
        load_weights(model, checkpoint)
        chosen = choose_device(device)
        contract = FeatureContract.from_values(card.feature_contract, where=str(checkpoint.path))
        return cls(card=card, model=model.to(chosen).eval(), contract=contract, device=chosen)

    @property
    def dim(self) -> int:
        """Dimensions of what is read: 2 for images, 3 for scans and volumes."""
        return self.card.config.model.dim

    @property
    def on_grid(self) -> bool:
        """Whether the network reads whole windows of pixels, rather than points wherever they lie."""
        return self.card.config.model.on_grid

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.card.config.data.class_names

    @property
    def class_codes(self) -> tuple[int, ...]:
        """Code of each class in the files that the network was trained on, such as LAS 6 for a building."""
        return self.card.config.data.class_codes

    def predict(
        self,
        coords: np.ndarray | Tensor,  # (N, D)
        feats: np.ndarray | Tensor | Mapping[str, np.ndarray] | None = None,  # (N, C) columns, or columns by name
        *,
        votes: int = 1,
    ) -> np.ndarray | Tensor:  # (N, K) float32
        """Class probabilities of every point, in the kind of array that ``coords`` is.

        Args:
            coords: any float dtype and any origin, in the unit of training (metres, pixels, millimetres).
            feats: raw values, unscaled: channels in the order of ``contract.channel_names``, or a table of columns by
                name. Not needed by a network that reads positions only.
            votes: views averaged.

        Raises:
            ValueError: shapes that do not fit, a coordinate that is not finite, a missing feature, or a network that
                reads whole images.
        """
        points = np.asarray(coords.detach().cpu() if isinstance(coords, Tensor) else coords)
        if self.on_grid:
            raise ValueError("predict: the network reads whole images; use predict_image")
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(f"predict: coords must be (N, {self.dim}), got {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("predict: coords must be finite")
        # float32 cannot hold a national grid's coordinates to the centimetre.
        origin = np.floor(points.min(0)) if len(points) else np.zeros(self.dim)
        local = (points - origin).astype(np.float32)
        source = ArraySource(local, self._scaled(feats, len(points)))
        probs = torch.zeros(len(points), len(self.class_names))
        for rows, part in self.predict_source(source, Protocol(votes=votes)):
            probs[torch.from_numpy(rows)] = part
        return probs.to(coords.device) if isinstance(coords, Tensor) else probs.numpy()

    def predict_image(
        self,
        image: np.ndarray | Tensor,  # (H, W, 3) uint8 or uint16; float from 0 to 1
        *,
        votes: int = 1,
    ) -> np.ndarray | Tensor:  # (H, W, K) float32
        """Class probabilities of every pixel, in the kind of array that ``image`` is.

        Args:
            image: red, green, blue, unscaled.
            votes: views averaged; a network that reads whole windows of pixels has 8.

        Raises:
            ValueError: another shape, a network of scans or volumes, or one that reads more than colours.
        """
        pixels = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"predict_image: image must be (H, W, 3), got {pixels.shape}")
        if self.dim != 2:
            raise ValueError("predict_image: the network reads clouds in space, no images")
        if set(self.contract.columns) - {"color"}:
            raise ValueError(f"predict_image: an image has colours only, the network reads {self._listed()}")
        height, width = pixels.shape[:2]
        scaled = self.contract.scale(lambda name: pixels.reshape(-1, 3), height * width)
        source = ArraySource(grid_coords((height, width), (1.0, 1.0)), scaled)
        probs = torch.zeros(height * width, len(self.class_names))
        protocol = Protocol(votes=votes)
        if self.on_grid:
            pieces = self._predict_grid(source.feats, (height, width), protocol)
        else:
            pieces = self.predict_source(source, protocol)
        for rows, part in pieces:
            probs[torch.from_numpy(rows)] = part
        probs = probs.view(height, width, -1)
        return probs.to(image.device) if isinstance(image, Tensor) else probs.numpy()

    def predict_part(
        self, part: ScenePart, protocol: Protocol, *, projection: int = 1, answer: Answer | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Pieces of a scene, an image or a volume as they are done: (rows (n,) int64, values (n, K) float32).

        Args:
            answer: what of the network's output the values are; None: class probabilities.

        Raises:
            InputError: data of another number of dimensions than the network's.
        """
        shape = part.scene.grid_shape
        dim = part.scene.coords.shape[1] if shape is None else len(shape)
        if dim != self.dim:
            raise InputError(f"{part.scene.path}: {_MISFIT[self.dim]}")
        if self.on_grid:
            assert shape is not None
            yield from self._predict_pixels(part, (shape[0], shape[1]), protocol, answer)
        else:
            source = PartSource(part, self.contract, part.coords)
            yield from self.predict_source(source, protocol, projection=projection, answer=answer)

    def classify_part(
        self,
        part: ScenePart,
        classes: np.ndarray,  # (n,) integer, filled in
        confidence: np.ndarray,  # (n,) float, filled in
        *,
        votes: int = 1,
        projection: int = 1,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:  # (K,) int64 rows of each class
        """The likeliest class of every row and its probability.

        Args:
            advance: called with the rows done since the last call, and with n.

        Raises:
            InputError: as :meth:`predict_part`.
        """
        counts = np.zeros(len(self.class_names), np.int64)
        for rows, probs in self.predict_part(part, Protocol(votes=votes), projection=projection):
            best = probs.max(1)
            classes[rows] = best.indices.numpy()
            confidence[rows] = best.values.numpy()
            counts += np.bincount(best.indices.numpy(), minlength=len(counts))
            advance(len(rows), part.num_points)
        return counts

    def predict_source(
        self, source: PartSource | ArraySource, protocol: Protocol, *, projection: int = 1, answer: Answer | None = None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        return predict_source(
            self.model,
            source,
            voxel_size=self.card.config.model.voxel_size,
            answer=answer or probabilities(len(self.class_names)),
            tiles=TileSettings(size=self.card.tile_size, projection=projection),
            protocol=protocol,
            device=self.device,
            views=VoteViews.as_trained(self.card.config.data.augment, self.contract),
        )

    def _predict_pixels(
        self, part: ScenePart, shape: tuple[int, int], protocol: Protocol, answer: Answer | None
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The whole image is seen, also where only some of its rows are asked for."""
        pieces = self._predict_grid(lambda rows: self.contract.feats(part.scene, rows), shape, protocol, answer)
        if part.chosen is None:
            yield from pieces
            return
        place = np.full(part.scene.num_points, -1, np.int64)
        place[part.chosen] = np.arange(len(part.chosen))
        for rows, values in pieces:
            wanted = np.flatnonzero(place[rows] >= 0)
            if len(wanted):
                yield place[rows[wanted]], values[torch.from_numpy(wanted)]

    def _predict_grid(
        self,
        feats: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, int],
        protocol: Protocol,
        answer: Answer | None = None,
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        size = round(self.card.tile_size)
        return predict_windows(
            self.model,
            feats,
            shape,
            size=size,
            overlap=TileSettings(size=size).overlap,
            answer=answer or probabilities(len(self.class_names)),
            protocol=protocol,
            device=self.device,
            views=VoteViews.as_trained(self.card.config.data.augment, self.contract),
        )

    def _scaled(self, feats: np.ndarray | Tensor | Mapping[str, np.ndarray] | None, count: int) -> np.ndarray:
        contract = self.contract
        if isinstance(feats, Mapping):
            missing = [name for name in contract.columns if name not in feats]
            if missing:
                raise ValueError(f"predict: feats lacks {', '.join(missing)}; the network reads {self._listed()}")
            return contract.scale(lambda name: np.asarray(feats[name]), count)
        slices = contract.slices
        if contract.columns != tuple(name for name in contract.names if name != ONES):
            raise ValueError(f"predict: give feats as a table of columns by name: {', '.join(contract.columns)}")
        if contract.names == (ONES,):
            return contract.scale(lambda name: np.ones(count), count)
        values = np.asarray(feats.detach().cpu() if isinstance(feats, Tensor) else feats)
        if values.shape != (count, contract.num_channels):
            shown = "none" if feats is None else values.shape
            raise ValueError(
                f"predict: feats must be ({count}, {contract.num_channels}): {self._listed()}; got {shown}"
            )
        return contract.scale(lambda name: values[:, slices[name]], count)

    def _listed(self) -> str:
        return ", ".join(self.contract.channel_names)


def choose_device(wanted: str | torch.device | None) -> torch.device:
    """The device asked for; None: a GPU where the ops run on one, else the CPU.

    Raises:
        InputError: an unknown device, or one that is not here.
    """
    if wanted is None or str(wanted) == "auto":
        from pcseg.ops._library import HAS_CUDA_KERNELS

        return torch.device("cuda" if HAS_CUDA_KERNELS and torch.cuda.is_available() else "cpu")
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", str(wanted))
    if found is None:
        raise InputError(f"device '{wanted}': give auto, cpu or cuda")
    if str(wanted) != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise InputError(f"device '{wanted}': torch finds no GPU here (python -m pcseg.doctor); give auto or cpu")
        if int(found[1] or 0) >= count:
            raise InputError(f"device '{wanted}': torch finds {count} GPUs here, counted from 0; give auto or cuda")
    return torch.device(wanted)
