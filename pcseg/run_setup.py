"""What a run needs before its first step: data, network, a trainer, and the state of a former attempt."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pcseg.batch import PointBatch
from pcseg.checkpoint import (
    LEARNING,
    SUFFIX,
    Checkpoint,
    CheckpointCard,
    compare,
    differences,
    initialise_from,
    load_checkpoint,
)
from pcseg.config import (
    ConsistencyConfig,
    ErdaConfig,
    KPConvConfig,
    LossConfig,
    PointPanopticConfig,
    TrainConfig,
)
from pcseg.config_file import write_config
from pcseg.datasets.augment import geometry_of
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.scene_part import ScenePart, training_parts, validation_parts, visible_labels
from pcseg.datasets.streams import StreamDataset
from pcseg.datasets.views import CropDataset
from pcseg.datasets.voxel_scene import VoxelScene, check_trainable
from pcseg.datasets.weak_labels import describe_summary
from pcseg.datasets.windows import WindowDataset
from pcseg.errors import InputError
from pcseg.evaluate import Evaluation, evaluate_scenes, print_table, title_of, write_metrics
from pcseg.inference import Protocol
from pcseg.methods import build_method
from pcseg.methods.supervised import frequency_weights
from pcseg.models import build_network, resolve_model
from pcseg.optim import WeightAverage
from pcseg.predictor import Predictor, choose_device
from pcseg.processes import failing_together, tell
from pcseg.pseudo.clusters import Clusters
from pcseg.pseudo.target_survey import survey_targets
from pcseg.pyramid import calibrate_max_neighbors
from pcseg.train import FREE_TO_CHANGE
from pcseg.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

CALIBRATION_CROPS = 8
CLUSTERING_CROPS = 16
UNLABELLED_SEED = 2**40  # far from the seeds of runs
PROCESS_SEED = 2**32


def set_up(
    config: TrainConfig, folder: Path, *, init: Path | None, fresh: bool, device: str
) -> tuple[Trainer, Callable[[], Evaluation | None]]:
    """A trainer ready for its next step, and a function that scores the result and leaves ``metrics.json``.

    Raises:
        InputError: see :func:`pcseg.train.train`.
    """
    accelerator = _accelerator(config, device)
    with failing_together(accelerator.device):
        protocol = Protocol.parse(config.eval_protocol)
        former = None if fresh else _former(folder, config)
        start = load_checkpoint(init) if init is not None and former is None else None
        if former is None:
            config = config.model_copy(update={"model": resolve_model(config.model)})
        torch.manual_seed(config.seed)
        reads = config.reads_labels
        parts, held_out = training_parts(config.data, labels=reads), validation_parts(config.data)
        _check_dimensions(config, parts)
        check_trainable([part.scene for part in (*(parts if reads else ()), *held_out)], config.data.class_names)
        contract = fitted_contract(config, parts, former or start)
        weak_labels = visible_labels(config.data, parts)
        _check_labels(config, weak_labels, held_out)
        items = training_items(config, parts, contract, few=reads and weak_labels is not None)
        if isinstance(config.method, PointPanopticConfig):
            _tell_of_targets(config, parts, items)
        if former is not None and former.card.weak_labels != weak_labels:
            raise InputError(f"{folder}: holds a run that saw other labels; use --fresh or another --run")
        card = former.card if former is not None else _card(config, items, contract)
        card = card.model_copy(update={"weak_labels": weak_labels})
        if former is not None:  # settings that are free to change come from this command
            card = card.model_copy(update={"config": config.filled_from(card.config)})
        config = card.config
        classes = len(config.data.class_names)
        model = build_network(config, card.in_channels, pretrained=former is None)
        if start is not None:
            _start_from(model, start, config)
        average = WeightAverage(model, config.average, accelerator.device) if config.average else None
        method = build_method(
            config,
            model,
            contract=contract,
            class_weights=_class_weights(config.loss, parts, classes),
            average=None if average is None else average.weights,
            clusters=_clusters(config, items),
        )

    def evaluate(network: nn.Module) -> Evaluation:
        predictor = Predictor(card=trainer.described(), model=network, contract=contract, device=accelerator.device)
        return evaluate_scenes(predictor, held_out, protocol)

    def validate(network: nn.Module) -> Mapping[str, float]:
        latest[:] = [evaluate(network)]
        return latest[0].summary()

    def conclude() -> Evaluation | None:
        """The scores of the last validation, which is that of the end."""
        if not latest:
            return None
        write_metrics(latest[0], folder / "metrics.json")
        print_table(latest[0], title_of(held_out))
        return latest[0]

    latest: list[Evaluation] = []
    trainer = Trainer(
        card=card,
        method=method,
        item=items.__getitem__,
        average=average,
        validate=validate if held_out else None,
        folder=folder,
        accelerator=accelerator,
    )
    if accelerator.process_index:  # networks are drawn alike, but what is dropped in them is not
        torch.manual_seed(config.seed + PROCESS_SEED * accelerator.process_index)
    with failing_together(accelerator.device):
        if former is not None:
            trainer.resume(former)
            if trainer.finished:
                tell(f"{folder}: is finished, with these settings; --fresh trains it anew")
            else:
                tell(f"{folder}: goes on at step {trainer.step} of {config.steps}")
        elif accelerator.is_main_process:
            _clear(folder)
            write_config(config, folder / "config.yaml")
    return trainer, conclude


def _accelerator(config: TrainConfig, device: str) -> Accelerator:
    """Meets the other processes of the run, where a launcher has started several."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    # Which parameters a step uses depends on the method, on the progress and on the data of each process. Buffers are
    # kept equal by the trainer. While the first process validates the others wait, longer than the usual ten minutes.
    return Accelerator(
        cpu=choose_device(device).type == "cpu",
        mixed_precision=config.precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=timedelta(days=1)),
        ],
    )


def _tell_of_targets(config: TrainConfig, parts: list[ScenePart], items: StreamDataset) -> None:
    """Says which clicks teach nothing, and why."""
    data, method = config.data, config.method
    assert isinstance(method, PointPanopticConfig)
    for line in survey_targets(parts, items.labelled, data.is_thing, data.class_names, presence=method.presence):
        tell(f"targets: {line}")


def _clusters(config: TrainConfig, items: StreamDataset) -> Clusters | None:
    """Found in items far beyond those of any run; a resumed run finds the same ones."""
    method = config.method
    if not isinstance(method, ErdaConfig) or method.clusters is None:
        return None
    return Clusters.fit(
        [items.labelled[2**40 + number] for number in range(CLUSTERING_CROPS)],
        len(config.data.class_names),
        neighbors=method.clusters.neighbors,
        share=method.clusters.share,
        seed=config.seed,
    )


def _check_dimensions(config: TrainConfig, parts: list[ScenePart]) -> None:
    shape = parts[0].scene.grid_shape
    there = parts[0].coords.shape[1] if shape is None else len(shape)
    if config.model.dim != there:
        raise InputError(f"model.dim is {config.model.dim}, and {config.data.kind} have {there}; change one of them")


def _former(folder: Path, config: TrainConfig) -> Checkpoint | None:
    """The run in a folder, finished or not.

    Raises:
        InputError: it has other settings.
    """
    path = folder / "checkpoints" / f"last{SUFFIX}"
    if not path.exists():
        return None
    former = load_checkpoint(path)
    theirs, ours = former.card.config, config.filled_from(former.card.config)
    there, here = theirs.model_dump(mode="json"), ours.model_dump(mode="json")
    for name in FREE_TO_CHANGE:
        there[name] = here[name]
    changed = compare(there, here)
    if changed:
        listed = "; ".join(changed)
        kind = "a finished" if former.card.finished else "an unfinished"
        raise InputError(f"{folder}: holds {kind} run of other settings: {listed}; use --fresh or another --run")
    return former


def _clear(folder: Path) -> None:
    """What a former run left: its best weights and its scores are not those of the run that starts."""
    for path in (*folder.glob(f"checkpoints/*{SUFFIX}"), *folder.glob("checkpoints/.*.part"), folder / "metrics.json"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _check_labels(config: TrainConfig, seen: dict[str, Any] | None, held_out: list[ScenePart]) -> None:
    """Before the first step: something to learn from, and something to score.

    Raises:
        InputError: there is none.
    """
    data = config.data
    if seen is not None and config.reads_labels:
        missing = [name for name, count in seen["labels"].items() if not count]
        if len(missing) == len(seen["labels"]):
            raise InputError(
                f"{data.root}: no row of the training scenes has a label; name others in data.train_scenes"
            )
        if data.weak_labels is None or "lost" in seen:
            tell(f"{data.weak_labels or data.root}: {describe_summary(seen)}")
        if missing:
            tell(f"{data.weak_labels or data.root}: no label of {', '.join(missing)}; nothing will be taken for it")
    labels = (part.labels for part in held_out)
    if held_out and not any(of_part is not None and (of_part >= 0).any() for of_part in labels):
        raise InputError(f"{data.root}: no row of the validation scenes has a label; name others in data.val_scenes")


def fitted_contract(config: TrainConfig, parts: list[ScenePart], earlier: Checkpoint | None) -> FeatureContract:
    """Scaling of the features: of the run that goes on or is started from, else from the training scenes."""
    if earlier is not None and earlier.card.config.data.features == config.data.features:
        return FeatureContract.from_values(earlier.card.feature_contract, where=str(earlier.path))
    return FeatureContract.fit(config.data.features, [part.scene for part in parts])


def training_items(
    config: TrainConfig, parts: list[ScenePart], contract: FeatureContract, *, few: bool
) -> StreamDataset:
    """What the network is trained on: windows of pixels for a network on images, else crops of voxels.

    Args:
        few: few rows have a label, by a mask file or in the data themselves.
    """
    data, method = config.data, config.method
    views = method.views if isinstance(method, ConsistencyConfig) else None
    crop = data.labelled_crop(few)
    # Where labels are is not to be seen in the others.
    anywhere = crop.model_copy(update={"balanced": 0.0, "off_center": 0.0})
    unlabelled = None
    if config.model.on_grid:
        labelled = WindowDataset(parts, contract, crop, data.augment, seed=config.seed)
        if views is not None:
            geometry = geometry_of(views.weak or data.augment)
            unlabelled = WindowDataset(parts, contract, anywhere, geometry, seed=config.seed + UNLABELLED_SEED)
    else:
        voxels = [VoxelScene.build(part.scene, contract, config.model.voxel_size, rows=part.chosen) for part in parts]
        labelled = CropDataset(voxels, contract, crop, data.augment, seed=config.seed)
        if views is not None:
            unlabelled = CropDataset(voxels, contract, anywhere, seed=config.seed + UNLABELLED_SEED)
    return StreamDataset(
        labelled,
        unlabelled=unlabelled,
        views=views,
        augment=data.augment,
        contract=contract,
        strong=2 if isinstance(method, ConsistencyConfig) and method.host == "unimatch" else 1,
        seed=config.seed,
    )


def _card(config: TrainConfig, items: StreamDataset, contract: FeatureContract) -> CheckpointCard:
    """What the training items say about the network: neighbour caps, and the extent that it will see."""
    model = config.model
    # Far beyond the items of any run, so that they are like them and yet others.
    samples = [] if model.on_grid else [items.labelled[2**40 + number] for number in range(CALIBRATION_CROPS)]
    if isinstance(model, KPConvConfig) and model.max_neighbors is None:
        caps = calibrate_max_neighbors(
            samples,
            voxel_size=model.voxel_size,
            num_levels=model.num_levels,
            radius=model.radii,
            percentile=config.neighbor_percentile,
        )
        config = config.with_caps(caps)
    return CheckpointCard(
        config=config,
        feature_contract=contract.model_dump(mode="json"),
        in_channels=contract.num_channels,
        tile_size=float(np.median([_extent(sample) for sample in samples])) if samples else config.data.crop.window,
        step=0,
    )


def _extent(crop: PointBatch) -> float:
    """Edge of the square that covers as much of the plane as the crop does."""
    if crop.num_rows == 0:
        return 0.0
    spread = crop.coords[:, :2].amax(0) - crop.coords[:, :2].amin(0)
    return float(spread.prod().clamp(min=0) ** 0.5)


def _class_weights(loss: LossConfig, parts: list[ScenePart], num_classes: int) -> torch.Tensor | None:
    if loss.class_weights == "none":
        return None
    if isinstance(loss.class_weights, tuple):
        return torch.tensor(loss.class_weights)
    counts = np.zeros(num_classes, np.int64)
    for part in parts:
        labels = part.labels
        assert labels is not None
        counts += np.bincount(labels[labels >= 0], minlength=num_classes)
    return frequency_weights(counts.tolist(), 1.0 if loss.class_weights == "inverse" else 0.5)


def _start_from(model: nn.Module, start: Checkpoint, config: TrainConfig) -> None:
    """Take over what fits, and say what does not.

    Raises:
        InputError: a network of another shape.
    """
    other = differences(start.card, config.with_caps(None), sections=("model",), leave_out=LEARNING)
    if other:
        raise InputError(f"{start.path}: is of another model: {'; '.join(other)}")
    same = start.card.config.data.class_names == config.data.class_names
    skipped = initialise_from(model, start, same_classes=same)
    tell(f"{start.path}: weights taken over; {len(skipped)} tensors are new")
    for line in skipped:
        tell(f"  new: {line}")
