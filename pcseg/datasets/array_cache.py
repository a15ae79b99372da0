"""Decoded arrays kept in memory, the least recently used of them dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class ArrayCache:
    """At most ``max_bytes`` of arrays; threads may share it. An array that is larger than that alone is not kept."""

    def __init__(self, max_bytes: int = 2**29) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, made where it is not there; it is read-only."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = make()
        array.flags.writeable = False
        with self._lock:
            if key not in self._arrays and array.nbytes <= self.max_bytes:
                self._arrays[key] = array
                self.num_bytes += array.nbytes
                while self.num_bytes > self.max_bytes:
                    self.num_bytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
