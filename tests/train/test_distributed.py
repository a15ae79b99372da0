"""Two processes train one network: as one process would, equal at every step, speaking once, stopping together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pcseg.config import ErdaConfig
from pcseg.config_file import write_config
from pcseg.losses.mask2former import mask2former_loss
from pcseg.pseudo.prototypes import Prototypes
from pcseg.run_setup import set_up
from tests.train.test_train import assert_same, last
from tests.train.toy import toy_config
from tests.train.toy_panoptic import BRANCH
from tests.train.two_processes import (
    METHOD_RUNS,
    PANOPTIC_RUNS,
    PLAIN,
    RESUMED,
    STEPS,
    mask_targets,
    prepare,
    prototype_rows,
)

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300.0  # a hang is to fail; it takes half a minute


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def launch(arguments: Sequence[object], timeout: float = TIMEOUT, number: int = 2) -> list[Ended]:
    """Run a module on several processes as torchrun does: numbered in the environment, and ended as soon as one fails.

    A port that was free may be taken a moment later, by another test run: then once more.
    """
    for _ in range(3):
        ended = _launch_once(arguments, timeout, number)
        if not any("EADDRINUSE" in process.err for process in ended):
            break
    return ended


def _launch_once(arguments: Sequence[object], timeout: float, number: int) -> list[Ended]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
              "OMP_NUM_THREADS": 1}  # fmt: skip
    program = [sys.executable, "-m", *map(str, arguments)]
    processes = []
    for rank in range(number):
        given = {key: str(value) for key, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        processes.append(
            subprocess.Popen(
                program, cwd=ROOT, env=os.environ | given, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    try:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            codes = [process.poll() for process in processes]
            if None not in codes or any(codes):
                break
            time.sleep(0.02)
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        outputs = []
        for process in processes:
            try:
                outputs.append(process.communicate(timeout=10))
            except subprocess.TimeoutExpired:
                process.kill()
                outputs.append(process.communicate())
    return [Ended(process.returncode, *texts) for process, texts in zip(processes, outputs, strict=True)]


class Found:
    """What both processes found, check by check."""

    def __init__(self, folder: Path, ended: list[Ended]):
        self.folder, self.ended = folder, ended

    def __getitem__(self, name: str) -> list[Mapping[str, Any]]:
        paths = [self.folder / f"{name}.{rank}.pt" for rank in range(2)]
        told = "\n".join(process.err[-1500:] for process in self.ended)
        assert all(path.exists() for path in paths), f"{name} was not reached, or hung: {told}"
        found = [torch.load(path, weights_only=True) for path in paths]
        failed = [each["failed"] for each in found if "failed" in each]
        assert not failed, "\n".join(failed)
        return found


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Iterator[Found]:
    """One start of two processes for all checks that need no command."""
    folder = tmp_path_factory.mktemp("two_processes")
    prepare(folder)
    yield Found(folder, launch(["tests.train.two_processes", folder]))


def test_two_processes_are_one_that_accumulates(found):
    """Batch norms and means over labelled rows are each process' own, and so they are in each part of a step."""
    first, second = found["plain"]
    assert_same(first["weights"], second["weights"])

    def alone(name: str, **change) -> Mapping[str, torch.Tensor]:
        (found.folder / name).mkdir()
        config = toy_config(found.folder / "scenes", **PLAIN, **change)
        trainer, _ = set_up(config, found.folder / name, init=None, fresh=True, device="cpu")
        before = {key: value.clone() for key, value in trainer.method.named_parameters()}
        trainer.run()
        moved = max(
            float((value - before[key]).detach().abs().max()) for key, value in trainer.method.named_parameters()
        )
        assert moved > 1e-3
        return dict(trainer.method.named_parameters())

    same, half = alone("accumulated", batch_size=2, accumulate=2), alone("half", batch_size=1)
    for name, value in same.items():
        torch.testing.assert_close(first["weights"][name], value.detach(), rtol=1e-4, atol=1e-6, msg=name)
    assert any(not torch.allclose(first["weights"][name], value, atol=1e-4) for name, value in half.items())


@pytest.mark.parametrize("name", [*METHOD_RUNS, *PANOPTIC_RUNS])
def test_every_method_keeps_processes_equal(found, name):
    """Now the one, now the other, now both have no labelled row; terms come and go with the progress."""
    first, second = found[f"method_{name}"]
    assert first["step"] == second["step"] == STEPS
    assert_same(first["state"], second["state"])
    assert all(torch.isfinite(value).all() for value in first["state"].values() if value.is_floating_point())
    assert first["moved"] == second["moved"]
    parameters = [key for key in first["state"] if not key.startswith("average/")]
    assert len(first["moved"]) > len(parameters) // 3, "it learns"
    assert not torch.equal(first["random"], second["random"]), "what is dropped differs"


def test_prototypes_see_the_rows_of_all_processes(found):
    first, second = found["prototypes"]
    assert_same(first["state"], second["state"])
    together = Prototypes(3, 4, momentum=0.5)
    for step in range(2):
        feats, labels = zip(*(prototype_rows(rank, step) for rank in range(2)))
        together.update(torch.cat(feats), torch.cat(labels))
    assert first["ready"] and bool(together.seen.all())
    torch.testing.assert_close(first["state"], dict(together.state_dict()))


def test_masks_count_alike_wherever_they_are(found):
    """The mean of the processes' losses is that of one process with both images, of three masks and of one."""
    first, second = found["masks"]
    assert first["count"] == second["count"] == 2.0 and first["none"] == second["none"] == 0.0
    maps, classes, masks, void = zip(*(mask_targets(rank) for rank in range(2)))
    torch.manual_seed(1)
    loss = mask2former_loss(maps, [[c] for c in classes], [[m] for m in masks], void, BRANCH)
    loss.backward()
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss.detach())
    for own, process in zip(maps, (first, second), strict=True):
        slope = own.mask_logits[0].grad
        assert slope is not None and slope.abs().sum() > 0
        torch.testing.assert_close(process["slope"] / 2, slope)


@pytest.mark.parametrize("name", RESUMED)
def test_a_failed_run_goes_on_exactly(found, name):
    """The second process fails at its third step: both stop, say the same, and end as if nothing had been."""
    first, second = found[f"resumed_{name}"]
    assert first["error"] == "InputError: item 7: stop here" and second["error"].startswith("OSError: ")
    assert first["start"] == second["start"] == 3
    assert_same(first["resumed"], first["whole"], "first")
    assert_same(second["resumed"], second["whole"], "second")


def test_an_interrupt_of_one_process_stops_both_after_a_checkpoint(found):
    first, second = found["interrupted"]
    assert first["step"] == second["step"] == 3 == last(found.folder / "interrupted").card.step


def test_what_fails_on_one_process_ends_both(found):
    first, second = found["full_disk"]
    assert "No space left" in first["error"] and "No space left" in second["error"]
    assert first["step"] == second["step"] == 2
    first, second = found["not_finite"]
    assert first == second and "the loss is nan at step 2; " in first["error"] and first["step"] == 1


def test_all_processes_go_by_one_clock(found):
    first, second = found["time_limit"]
    assert first == second and first["seconds"] >= 0.3


def test_a_command_on_two_processes_speaks_and_writes_once(scenes, tmp_path):
    config = toy_config(scenes, steps=6, eval_every=3, save_every=2, batch_size=1, method=ErdaConfig(), average=0.9)
    write_config(config, tmp_path / "toy.yaml")
    run = tmp_path / "run"
    first, second = launch(["pcseg.train", tmp_path / "toy.yaml", "--run", run, "--device", "cpu"])
    assert first.code == second.code == 0, first.err + second.err
    assert first.err.count("step 6/6") == 1 and first.err.count("step 3: miou") == 1
    assert "mIoU" in first.out and (second.out, second.err) == ("", "")
    assert "arning" not in first.err, first.err
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "config.yaml", "metrics.json", "tensorboard"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.safetensors", "last.safetensors"]
    assert len(list((run / "tensorboard").iterdir())) == 1
    saved = last(run)
    assert saved.card.finished and saved.training is not None and len(saved.training["rng_of_others"]) == 1


def test_bad_input_is_one_line_once(scenes, tmp_path):
    write_config(toy_config(scenes), tmp_path / "toy.yaml")
    arguments = [tmp_path / "toy.yaml", "--run", tmp_path / "run", "--device", "cpu", "--data.features", "intensity"]
    first, second = launch(["pcseg.train", *arguments])
    assert first.code == 2 and second.code == -signal.SIGTERM
    assert first.err.startswith("error: ") and first.err.count("\n") == 1, first.err
    assert "has no column 'intensity'" in first.err
    assert (first.out, second.out, second.err) == ("", "", "")


def test_a_run_may_go_on_with_fewer_processes(found, tmp_path, capfd):
    config = toy_config(found.folder / "scenes", steps=10_000, batch_size=1, prefetch=0)
    trainer, _ = set_up(config, found.folder / "interrupted", init=None, fresh=False, device="cpu")
    assert trainer.step == 3
    assert "is of 2 processes, now 1; other crops from here on" in capfd.readouterr().err
