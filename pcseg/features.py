"""``python -m pcseg.features MODEL DATA -o DIR``: what a network sees in data, computed once, for heads to train on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from pcseg.config_file import leading_path, load_config, parse_command
from pcseg.datasets.feature_contract import IMAGENET_COLOR, FeatureContract
from pcseg.datasets.row_source import RowSource
from pcseg.datasets.scene_folder import find_scenes
from pcseg.datasets.scene_part import open_sources
from pcseg.errors import InputError, describe, run_command
from pcseg.feature_store import COLUMN, CloudFeatures, FeatureSource, ImageFeatures, of_predictor, store, stored
from pcseg.io.atomic import check_folder
from pcseg.io.digest import sha256_of
from pcseg.models.exported import SUFFIXES, load_exported
from pcseg.predictor import Predictor, choose_device
from pcseg.progress import progress_bar

PROG = "python -m pcseg.features MODEL DATA"


@dataclass(frozen=True)
class FeatureOptions:
    """Store the features of a frozen network as scene folders with the column ``frozen``.

    MODEL is a checkpoint or run folder; a folder or hub id of a ViT, DINOv2 or Swin encoder in the format of
    transformers; or a TorchScript file or exported program f(coords (N, D), feats (N, C), offsets (B + 1,)) -> (N, F).
    DATA is a config, whose scenes are read, or a folder of scene folders.
    """

    out: Path
    """Folder for the scene folders."""
    scenes: tuple[str, ...] = ("*",)
    """Names or patterns of what is read of DATA."""
    votes: int = 1
    """Views averaged, of networks that read points."""
    long_side: int = 518
    """Images with a longer side are shrunk to about it, for networks that read whole images."""
    features: tuple[str, ...] = ()
    """Columns that a TorchScript file or exported program reads, unscaled; none: the number 1."""
    voxel_size: float | None = None
    """Edge of the voxels that a TorchScript file or exported program reads."""
    tile_size: float | None = None
    """Edge of what it sees at once; else 100 voxels."""
    device: Annotated[str, "auto, cpu, cuda"] = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    model, rest = leading_path(argv, "a network", FeatureOptions, prog=PROG)
    if not rest or rest[0].startswith("-"):
        raise InputError(f"the second argument is a config or a folder of scene folders: {PROG} -o DIR")
    data, rest = Path(rest[0]), ["--out" if text == "-o" else text for text in rest[1:]]
    options, _ = parse_command(FeatureOptions, rest, prog=PROG)
    check_folder(options.out)
    sources = _sources(data, options.scenes)
    clashes = [source.path for source in sources if (options.out / source.name).resolve() == source.path.resolve()]
    if clashes:
        raise InputError(f"{clashes[0]}: would be overwritten by its own features; choose another folder with -o")
    network, identity = _network(str(model), options, sources)
    failed = _store_all(network, identity, sources, options)
    if failed:
        print(f"{len(sources) - failed} of {len(sources)} done", file=sys.stderr)
        sys.exit(2)


def _sources(data: Path, patterns: Sequence[str]) -> Sequence[RowSource]:
    """What is read.

    Raises:
        InputError: neither a config nor a folder of scene folders, or a pattern that matches nothing.
    """
    if data.is_dir() and not (data / "config.yaml").exists():
        return find_scenes(data, patterns)
    return open_sources(load_config(data).data, patterns)


def _network(model: str, options: FeatureOptions, sources: Sequence[RowSource]) -> tuple[FeatureSource, dict[str, Any]]:
    """The network, and what tells it from others.

    Raises:
        InputError: none there, or options that it needs are missing.
    """
    device, path = choose_device(options.device), Path(model)
    if path.suffix in SUFFIXES:
        return _exported(path, options, sources, device), {"model": _digest(path)}
    is_encoder = path.is_dir() and (path / "config.json").is_file()
    if is_encoder or (not path.exists() and model.count("/") == 1 and path.suffix == ""):
        return _encoder(model, options, sources, device), {"model": _digest(path) if is_encoder else model}
    from pcseg.checkpoint import find_checkpoint

    predictor = Predictor.load(path, device)
    return of_predictor(predictor, votes=options.votes, long_side=options.long_side), {
        "model": _digest(find_checkpoint(path))
    }


def _exported(path: Path, options: FeatureOptions, sources: Sequence[RowSource], device: torch.device) -> FeatureSource:
    if options.voxel_size is None or options.voxel_size <= 0:
        raise InputError(f"{path}: say with --voxel-size how finely it reads the points, in their unit")
    return CloudFeatures(
        model=load_exported(path, device),
        contract=FeatureContract.unscaled(options.features, sources[0]),
        voxel_size=options.voxel_size,
        tile_size=options.tile_size or 100 * options.voxel_size,
        device=device,
        votes=options.votes,
    )


def _encoder(model: str, options: FeatureOptions, sources: Sequence[RowSource], device: torch.device) -> FeatureSource:
    from pcseg.models.bare_encoder import bare_encoder

    return ImageFeatures(
        model=bare_encoder(model).to(device).eval(),
        contract=FeatureContract.fit((IMAGENET_COLOR,), sources[:1]),
        device=device,
        long_side=options.long_side,
    )


def _store_all(
    network: FeatureSource, identity: dict[str, Any], sources: Sequence[RowSource], options: FeatureOptions
) -> int:
    """Number of scenes that could not be done; each is named."""
    settings = {"votes": options.votes, "long_side": options.long_side, "features": list(options.features)}
    settings |= {"voxel_size": options.voxel_size, "tile_size": options.tile_size}
    failed = kept = 0
    with progress_bar() as progress:
        for source in progress.track(sources, description="features"):
            folder = options.out / source.name
            recipe = identity | {"settings": settings, "source": _source_identity(source)}
            try:
                if stored(folder, recipe) is not None:
                    kept += 1
                    continue
                scene = store(network, source, folder, recipe)
                print(f"{folder}: {scene.num_points:,} rows, {scene.column(COLUMN).shape[1]} features")
            except (InputError, OSError) as error:
                failed += 1
                print(f"error: {describe(error)}", file=sys.stderr)
    if kept:
        print(f"{kept} of {len(sources)} were there already")
    return failed


def _source_identity(source: RowSource) -> str:
    """Changes where the data do: the hash of the file that a scene was made from, or a file's size and time."""
    info = getattr(source, "info", None)
    if info is not None and info.source is not None:
        return info.source.sha256
    file = source.path / "scene.json" if source.path.is_dir() else source.path
    status = file.stat()
    return f"{file.name} {status.st_size} {status.st_mtime_ns}"


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, of its files' sums."""
    if not path.is_dir():
        return sha256_of(path)
    sums = [f"{file.name} {sha256_of(file)}" for file in sorted(path.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


if __name__ == "__main__":
    run_command(main)
