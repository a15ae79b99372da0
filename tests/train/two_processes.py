"""What one of two processes does for ``test_distributed.py``: everything that needs both, one after the other.

``python -m tests.train.two_processes FOLDER`` with the variables of a launcher in the environment. Whatever a check
finds goes into ``FOLDER/NAME.RANK.pt``, so that a check that fails does not take the others along.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pcseg import weaken
from pcseg.batch import IGNORE, PointBatch
from pcseg.config import PointPanopticConfig, TrainConfig
from pcseg.config_file import write_config
from pcseg.losses.mask2former import mask2former_loss, mean_num_masks
from pcseg.models.heads import MaskMaps
from pcseg.processes import gathered, leaving, num_processes
from pcseg.pseudo.prototypes import Prototypes
from pcseg.run_setup import set_up
from pcseg.trainer import Trainer
from tests.train.test_methods import METHODS
from tests.train.toy import toy_config, write_scenes
from tests.train.toy_panoptic import BRANCH, panoptic_config, write_panoptic_images
from tests.train.toy_yard import POINTS as CLOUD_POINTS
from tests.train.toy_yard import write_yard, yard_config

STEPS = 6
PLAIN = {"steps": 4, "save_every": 100, "clip_norm": 1.0, "optim": {"kind": "sgd", "lr": 0.05}}
"""Of a run whose weights follow the gradient."""
METHOD_RUNS = tuple(name for name in METHODS if name not in ("soft_direct", "hard_graph_cut", "ipixmatch_kl"))
PANOPTIC_RUNS = ("query_decoder", "joint", "two_stage", "mask2former", "mask2former_points")
RESUMED = ("erda_prototypes", "mean_teacher", "ipixmatch_unimatch", "mask2former_points")


class Checks:
    """The data, and the configs of the runs."""

    def __init__(self, folder: Path):
        self.folder, self.rank = folder, int(os.environ["RANK"])

    def config(self, name: str, **change) -> TrainConfig:
        if name in METHODS:
            return toy_config(self.folder / "scenes", method=METHODS[name], average=0.9, batch_size=1, **change)
        change |= {"batch_size": 1}
        if name.startswith("mask2former"):
            method = None
            if name == "mask2former_points":
                alike = {"color": 1.0}
                method = PointPanopticConfig(alike=alike, width=16, heads=2, window=3, presence=False, warmup=0.0)
            return panoptic_config(self.folder / "pictures", method, **change)
        if name == "query_decoder":
            return yard_config(self.folder / "yards", **change)
        method = PointPanopticConfig(**CLOUD_POINTS, schedule=name, warmup=0.5)
        return yard_config(self.folder / "yards", method, weak_labels=self.folder / "clicks.npz", **change)

    def trainer(self, config: TrainConfig, name: str) -> Trainer:
        (self.folder / name).mkdir(exist_ok=True)
        trainer, _ = set_up(config, self.folder / name, init=None, fresh=False, device="cpu")
        assert num_processes() == 2
        return trainer

    def finished(self, trainer: Trainer) -> dict[str, torch.Tensor]:
        """All that a run changes, after it."""
        trainer.run()
        average = {} if trainer.average is None else trainer.average.weights
        state = {f"average/{name}": value for name, value in average.items()}
        return {**trainer.method.state_dict(), **state, "random": torch.get_rng_state()}

    # What is checked: each returns what it found

    def plain(self) -> Mapping[str, Any]:
        """Weights after a few steps."""
        trainer = self.trainer(toy_config(self.folder / "scenes", batch_size=1, **PLAIN), "plain")
        trainer.run()
        return {"weights": trainer.method.state_dict()}

    def method(self, name: str) -> Mapping[str, Any]:
        """A run in which now one process has no labelled row, now the other, now none and now all."""
        trainer = self.trainer(self.config(name, steps=STEPS, save_every=100), name)
        given = trainer.item
        trainer.item = lambda index: _bared(given(index)) if index in (1, 4, 8, 9) else given(index)
        before = {key: value.clone() for key, value in trainer.method.named_parameters()}
        state = self.finished(trainer)
        after = dict(trainer.method.named_parameters())
        moved = [key for key in before if not torch.equal(before[key], after[key])]
        return {"step": trainer.step, "state": state, "random": state.pop("random"), "moved": moved}

    def resumed(self, name: str) -> Mapping[str, Any]:
        """The state after a run, and after one that failed on the second process and was started again."""
        config = self.config(name, steps=6, save_every=1)
        found: dict[str, Any] = {}
        found["whole"] = self.finished(self.trainer(config, f"{name}_whole"))
        failing = self.trainer(config, f"{name}_resumed")
        given = failing.item

        def item(index: int) -> Mapping[str, PointBatch]:
            if index == 7:
                raise OSError(5, "stop here", "item 7")
            return given(index)

        failing.item = item
        found |= _failure(failing)
        torch.manual_seed(17)  # whatever the process did before must not matter
        going_on = self.trainer(config, f"{name}_resumed")
        found["start"] = going_on.step
        found["resumed"] = self.finished(going_on)
        return found

    def interrupted(self) -> Mapping[str, Any]:
        """Ctrl-C that reaches the second process only."""
        trainer = self.trainer(
            toy_config(self.folder / "scenes", steps=10_000, batch_size=1, prefetch=0), "interrupted"
        )
        given = trainer.item

        def item(index: int) -> Mapping[str, PointBatch]:
            if index == 5:
                signal.raise_signal(signal.SIGINT)
            return given(index)

        trainer.item = item
        try:
            trainer.run()
        except KeyboardInterrupt:
            return {"step": trainer.step}
        return {}

    def full_disk(self) -> Mapping[str, Any]:
        """A checkpoint that the first process cannot write."""
        trainer = self.trainer(toy_config(self.folder / "scenes", steps=4, save_every=2, batch_size=1), "full_disk")

        def write(*_: object) -> None:
            raise OSError(28, "No space left on device", "last.safetensors")

        trainer._write = write
        return _failure(trainer)

    def not_finite(self) -> Mapping[str, Any]:
        """A loss that is not a number on the second process only."""
        trainer = self.trainer(toy_config(self.folder / "scenes", steps=4, save_every=100, batch_size=1), "not_finite")
        given = trainer.item

        def item(index: int) -> Mapping[str, PointBatch]:
            found = dict(given(index))
            if index == 3:
                found["labelled"] = replace(found["labelled"], feats=found["labelled"].feats * torch.nan)
            return found

        trainer.item = item
        return _failure(trainer)

    def time_limit(self) -> Mapping[str, Any]:
        """A run that ends by the clock, which tells each process another time."""
        config = toy_config(self.folder / "scenes", steps=100_000, time_limit=0.3, save_every=100_000, batch_size=1)
        trainer = self.trainer(config, "time_limit")
        trainer.run()
        return {"step": trainer.step, "seconds": trainer.seconds}

    def prototypes(self) -> Mapping[str, Any]:
        """Two updates; the second process has no labelled row in the second one."""
        found = Prototypes(3, 4, momentum=0.5)
        for step in range(2):
            found.update(*prototype_rows(self.rank, step))
        return {"state": found.state_dict(), "ready": found.ready}

    def masks(self) -> Mapping[str, Any]:
        """The loss on the maps of this process, and its gradient, with the number of masks of both."""
        count = mean_num_masks(len(mask_targets(self.rank)[1]), torch.device("cpu"))
        torch.manual_seed(1)
        for rank in range(self.rank + 1):  # the points of the second image are drawn after those of the first
            maps, classes, masks, void = mask_targets(rank)
            loss = mask2former_loss([maps], [[classes]], [[masks]], [void], BRANCH, num_masks=count)
        loss.backward()
        return {"count": count, "loss": loss.detach(), "slope": maps.mask_logits[0].grad,
                "none": mean_num_masks(0, torch.device("cpu"))}  # fmt: skip


def _failure(trainer: Trainer) -> dict[str, Any]:
    """Run to the error: what it says, and the step it came at; nothing where none came."""
    try:
        trainer.run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "step": trainer.step}
    return {}


def _bared(item: Mapping[str, PointBatch]) -> dict[str, PointBatch]:
    """Without a label."""
    labelled = item["labelled"]
    assert labelled.labels is not None
    return {**item, "labelled": replace(labelled, labels=torch.full_like(labelled.labels, IGNORE))}


def prototype_rows(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of a process: of unlike numbers, and class 2 on the first one only."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    rows = (7, 4)[rank]
    labels = torch.randint(-1, (3, 2)[rank], (rows,), generator=generator)
    if rank == 1 and step == 1:
        labels = torch.full_like(labels, IGNORE)
    return torch.randn(rows, 4, generator=generator), labels


def mask_targets(rank: int) -> tuple[MaskMaps, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image with three masks, or with one."""
    generator = torch.Generator().manual_seed(rank)
    masks = torch.randn(1, BRANCH.queries, 8, 8, generator=generator).requires_grad_()
    classes = torch.randn(1, BRANCH.queries, 4, generator=generator).requires_grad_()
    wanted = torch.tensor([0, 1, 2] if rank == 0 else [1])
    truth = (torch.rand(len(wanted), 32, 32, generator=generator) < 0.5).float()
    return MaskMaps((0,), (32, 32), 4, (classes,), (masks,)), wanted, truth, torch.zeros(1, 32, 32, dtype=torch.bool)


def prepare(folder: Path) -> None:
    """The data of all checks."""
    write_scenes(folder / "scenes")
    write_panoptic_images(folder / "pictures", 4)
    for seed, name in enumerate(("train_a", "train_b", "val_a")):
        write_yard(folder / "yards", name, seed)
    config = yard_config(folder / "yards")
    write_config(config, folder / "yards.yaml")
    weaken.main(
        [str(folder / "yards.yaml"), "clicks", "--radius", "2", "--count", "4", "-o", str(folder / "clicks.npz")]
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    checks = Checks(folder)
    todo: dict[str, Callable[[], Mapping[str, Any]]] = {"plain": checks.plain}
    for name in ("prototypes", "masks", "interrupted", "full_disk", "not_finite", "time_limit"):
        todo[name] = getattr(checks, name)
    todo |= {f"method_{name}": lambda name=name: checks.method(name) for name in (*METHOD_RUNS, *PANOPTIC_RUNS)}
    todo |= {f"resumed_{name}": lambda name=name: checks.resumed(name) for name in RESUMED}
    for name, check in todo.items():
        try:
            found: Mapping[str, Any] = check()
        except Exception:
            found = {"failed": traceback.format_exc()}
        torch.save(dict(found), folder / f"{name}.{checks.rank}.pt")
        if len(set(gathered("failed" in found))) > 1:
            sys.exit(f"{name}: failed on one process only, and the other may be anywhere")


if __name__ == "__main__":
    with leaving():
        main(Path(sys.argv[1]))
