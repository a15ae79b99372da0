"""``python -m pcseg.train CONFIG``: train a network as a config says; called again it goes on where it was killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pcseg.config import TrainConfig
from pcseg.config_file import leading_path, load_config, parse_command
from pcseg.errors import InputError, run_command
from pcseg.io.atomic import check_folder
from pcseg.processes import is_first, leaving

PROG = "python -m pcseg.train CONFIG"
FREE_TO_CHANGE = ("save_every", "prefetch", "eval_every", "eval_protocol")
"""Settings that a resumed run may have different: they do not change what it learns."""


@dataclass(frozen=True)
class TrainOptions:
    """Train a network. Any field of the config can be changed: --optim.lr 3e-3."""

    run: Path | None = None
    """Folder of the run; else runs/NAME. A run there that was not finished goes on where it was; one that was stays."""
    init: Path | None = None
    """Checkpoint or run folder whose weights the network starts from; its head is made new for other classes."""
    fresh: bool = False
    """Start anew, in place of whatever run the folder holds."""
    device: Annotated[str, "auto, cpu, cuda"] = "auto"


def main(argv: Sequence[str] | None = None) -> None:
    path, rest = leading_path(argv, "a config", TrainOptions, prog=PROG)
    options, config = parse_command(TrainOptions, rest, default_config=load_config(path), prog=PROG)
    assert config is not None
    default = path if path.is_dir() else path.parent if path.name == "config.yaml" else Path("runs") / config.name
    with leaving():
        train(config, options.run or default, init=options.init, fresh=options.fresh, device=options.device)


def train(
    config: TrainConfig,
    folder: Path,
    *,
    init: Path | None = None,
    fresh: bool = False,
    device: str = "auto",
) -> None:
    """Train as ``config`` says; ``folder`` then holds config.yaml, checkpoints, metrics.json and the curves.

    Raises:
        InputError: data that does not fit the config, a run of other settings in the folder, or one in progress, a
            checkpoint that does not fit.
        OSError: the folder cannot be written, or the disk is full; the former checkpoint stays.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    from pcseg.run_setup import set_up

    check_folder(folder)
    with alone_in(folder):
        trainer, evaluate = set_up(config, folder, init=init, fresh=fresh, device=device)
        trainer.run()
        if trainer.accelerator.is_main_process:
            evaluate()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder: the two would write each other's checkpoints. Of the processes of one run the
    first one asks.

    Raises:
        InputError: a run is going on there.
    """
    if not is_first():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: a run is going on there; wait for it, or name another --run") from None
        except OSError:
            pass  # a file system without locks: nothing can be said
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    run_command(main)
