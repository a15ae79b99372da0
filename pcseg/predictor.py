"""A trained network with all it needs to segment a cloud: class table, feature contract, tile size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pcseg.checkpoint import CheckpointCard, load_checkpoint, load_weights
from pcseg.datasets.feature_contract import ONES, FeatureContract
from pcseg.datasets.scene_part import ScenePart
from pcseg.inference import Protocol, TileSettings, predict_source
from pcseg.models import build_model

DEFAULT_PROTOCOL = "full/votes=1/scene"


@dataclass(frozen=True, slots=True)
class PartSource:
    """A scene, or some of its rows, as prediction reads it."""

    part: ScenePart
    contract: FeatureContract
    coords: np.ndarray  # (N, 3) float32

    def feats(self, rows: np.ndarray) -> np.ndarray:  # (n,) -> (n, C)
        return self.part.feats(self.contract, rows)


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Arrays in memory as prediction reads them."""

    coords: np.ndarray  # (N, 3) float32
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
            InputError: no checkpoint there, or a broken one.
        """
        checkpoint = load_checkpoint(path)
        card = checkpoint.card
        classes = len(card.config.data.class_names)
        model = build_model(card.config.model, card.in_channels, classes, pretrained=False)
        load_weights(model, checkpoint)
        chosen = choose_device(device)
        contract = FeatureContract.from_values(card.feature_contract, where=str(checkpoint.path))
        return cls(card=card, model=model.to(chosen).eval(), contract=contract, device=chosen)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.card.config.data.class_names

    @property
    def class_codes(self) -> tuple[int, ...]:
        """Code of each class in the files that the network was trained on, such as LAS 6 for a building."""
        return self.card.config.data.class_codes

    def predict(
        self,
        coords: np.ndarray | Tensor,  # (N, 3)
        feats: np.ndarray | Tensor | Mapping[str, np.ndarray] | None = None,  # (N, C) columns, or columns by name
        *,
        votes: int = 1,
    ) -> np.ndarray | Tensor:  # (N, K) float32
        """Class probabilities of every point, in the kind of array that ``coords`` is.

        Args:
            coords: any float dtype and any origin, in the unit of training (metres).
            feats: raw values, unscaled: channels in the order of ``contract.channel_names``, or a table of columns by
                name. Not needed by a network that reads positions only.
            votes: views averaged.

        Raises:
            ValueError: shapes that do not fit, a coordinate that is not finite, a missing feature.
        """
        points = np.asarray(coords.detach().cpu() if isinstance(coords, Tensor) else coords)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"predict: coords must be (N, 3), got {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("predict: coords must be finite")
        # float32 cannot hold a national grid's coordinates to the centimetre.
        origin = np.floor(points.min(0)) if len(points) else np.zeros(3)
        local = (points - origin).astype(np.float32)
        source = ArraySource(local, self._scaled(feats, len(points)))
        probs = torch.zeros(len(points), len(self.class_names))
        for rows, part in self.predict_source(source, Protocol(votes=votes)):
            probs[torch.from_numpy(rows)] = part
        return probs.to(coords.device) if isinstance(coords, Tensor) else probs.numpy()

    def predict_part(
        self, part: ScenePart, protocol: Protocol, *, projection: int = 1
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Pieces of a scene as they are done: (rows (n,) int64, probs (n, K) float32)."""
        return self.predict_source(PartSource(part, self.contract, part.coords), protocol, projection=projection)

    def predict_source(
        self, source: PartSource | ArraySource, protocol: Protocol, *, projection: int = 1
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        return predict_source(
            self.model,
            source,
            voxel_size=self.card.config.model.voxel_size,
            num_classes=len(self.class_names),
            tiles=TileSettings(size=self.card.tile_size, projection=projection),
            protocol=protocol,
            device=self.device,
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
    """The device asked for; None: a GPU where the ops run on one, else the CPU."""
    if wanted is not None and str(wanted) != "auto":
        return torch.device(wanted)
    from pcseg.ops._library import HAS_CUDA_KERNELS

    return torch.device("cuda" if HAS_CUDA_KERNELS and torch.cuda.is_available() else "cpu")
