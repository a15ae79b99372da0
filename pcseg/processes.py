"""What the processes of one run say to each other and to the user; one process alone is a run of one.

They are started by a launcher (torchrun, accelerate), which numbers them in the environment. Whatever is exchanged here
waits for all of them: each must come to the same calls in the same order, whatever its data look like.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pcseg.errors import InputError, describe

Value = TypeVar("Value")

FAREWELL = 0.2
"""Seconds: the threads of gloo let go of Python's tensors a moment after an exchange, and abort the process where the
interpreter is gone by then."""


def num_processes() -> int:
    """Those that have found each other; 1 before that."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum over the processes, the same on each; no gradient. Alone: the values themselves."""
    if num_processes() == 1:
        return values
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def gathered(value: Value) -> list[Value]:
    """The value of every process, by its number."""
    values: list = [value] * num_processes()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def failing_together(device: torch.device) -> Iterator[None]:
    """Where the block fails on one process by what a user can mend, it fails on all: one that went on alone would wait
    for the others for ever.

    Args:
        device: of this process, for the exchange.

    Raises:
        InputError, OSError: those of the block.
        InputError: the block failed elsewhere, with the message from there.
    """
    error: Exception | None = None
    try:
        yield
    except (InputError, OSError) as found:
        error = found
    if num_processes() > 1 and float(summed(torch.tensor(float(error is not None), device=device))):
        messages = gathered(None if error is None else describe(error))
        if error is None:
            raise InputError(next(message for message in messages if message is not None))
    if error is not None:
        raise error


def is_first() -> bool:
    """The one process that writes and speaks for its run; known before they have found each other."""
    return int(os.environ.get("RANK", "0")) == 0


def tell(line: str) -> None:
    """A line on stderr, once and not once a process."""
    if is_first():
        print(line, file=sys.stderr)


@contextmanager
def leaving() -> Iterator[None]:
    """Around all that a process does in a run: it takes leave of the others before it ends."""
    several = False
    try:
        try:
            yield
        finally:
            several = num_processes() > 1
        if several:  # not after an error: the others may be anywhere, and this may wait for them
            dist.destroy_process_group()
    finally:
        if several:
            time.sleep(FAREWELL)
