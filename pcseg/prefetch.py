"""Work done ahead by a background thread, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], start: int, stop: int, ahead: int) -> Iterator[Item]:
    """``make(start)``, ..., ``make(stop - 1)``, up to ``ahead`` of them made in advance; 0: each when it is asked for.

    An exception of ``make`` is raised where its item would have come. Closing the iterator ends the thread.
    """
    if ahead == 0:
        for index in range(start, stop):
            yield make(index)
        return
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(ahead)
    closed = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> bool:
        while not closed.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        for index in range(start, stop):
            try:
                entry = (make(index), None)
            except BaseException as error:  # whatever it is, it belongs to the thread that asked
                entry = (None, error)
            if not put(entry) or entry[1] is not None:
                return

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        for _ in range(start, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType]
    finally:
        closed.set()
        thread.join()
