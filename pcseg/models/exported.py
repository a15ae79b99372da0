"""Networks that somebody else trained: TorchScript and exported programs, as sources of frozen features."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcseg.batch import PointBatch
from pcseg.errors import InputError
from pcseg.models.heads import SegOutput
from pcseg.pyramid import Level

SUFFIXES = (".pt", ".pt2", ".ts")


class ExportedNet(nn.Module):
    """A module ``f(coords (N, D) float32, feats (N, C) float32, offsets (B + 1,) int64) -> (N, F)`` as a network.

    Both fields of its output are what the module returns; it is never trained.
    """

    def __init__(self, call: Callable[..., Tensor], path: Path):
        super().__init__()
        self.call, self.path = call, path

    def levels(self, batch: PointBatch) -> tuple[Level, ...]:
        return ()

    @torch.no_grad()
    def forward(self, batch: PointBatch, levels: Sequence[Level] = ()) -> SegOutput:
        """
        Raises:
            InputError: the module refuses the rows, or returns something else than (N, F).
        """
        try:
            feats = self.call(batch.coords, batch.feats, batch.offsets)
        except Exception as error:  # whatever a foreign module may raise
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise InputError(
                f"{self.path}: fails on coords {tuple(batch.coords.shape)}, feats {tuple(batch.feats.shape)}, "
                f"offsets {tuple(batch.offsets.shape)}: {lines[-1] if lines else type(error).__name__}"
            ) from error
        if not isinstance(feats, Tensor) or feats.ndim != 2 or feats.shape[0] != batch.num_rows:
            shape = tuple(feats.shape) if isinstance(feats, Tensor) else type(feats).__name__
            raise InputError(f"{self.path}: expected features ({batch.num_rows}, F), one row a point, got {shape}")
        return SegOutput(feats.float(), feats.float())


def load_exported(path: Path, device: torch.device) -> ExportedNet:
    """A TorchScript file (``torch.jit.save``) or an exported program (``torch.export.save``, ``.pt2``).

    Raises:
        InputError: neither of the two, damaged, or with pickled parts, which could run anything when they are read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            exported = any(name.endswith("models/model.json") for name in names)
            scripted = any(name.endswith(("constants.pkl", ".py")) for name in names)
            if exported:
                _refuse_pickles(archive, path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: is no TorchScript file and no exported program, or a damaged one") from error
    if not (exported or scripted):
        raise InputError(f"{path}: holds weights but no program; save it with torch.jit.save or torch.export.save")
    try:
        if exported:
            return ExportedNet(torch.export.load(path).module().to(device), path)
        return ExportedNet(torch.jit.load(str(path), map_location=device).eval(), path)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be loaded by torch {torch.__version__}: {str(error).splitlines()[0]}"
        ) from error


def _refuse_pickles(archive: zipfile.ZipFile, path: Path) -> None:
    """Only plain tensors may stand in the archive: torch unpickles everything else."""
    names = archive.namelist()
    for name in names:
        if name.endswith(("weights_config.json", "constants_config.json")):
            for entry in json.loads(archive.read(name)).get("config", {}).values():
                if entry.get("use_pickle") or not str(entry.get("path_name", "")).startswith(("weight_", "tensor_")):
                    raise InputError(f"{path}: holds pickled parts ({entry.get('path_name')}), which are not read")
        elif "/sample_inputs/" in name:
            try:
                _plain_tensors(archive.read(name))
            except Exception as error:
                raise InputError(f"{path}: holds pickled sample inputs, which are not read") from error


def _plain_tensors(payload: bytes) -> Any:
    return torch.load(io.BytesIO(payload), weights_only=True) if payload else None
