"""An estimate of how many distinct videos were shown within the last hour."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

_REGISTER_BITS = 12
_REGISTERS = 1 << _REGISTER_BITS
_BIAS = 0.7213 / (1 + 1.079 / _REGISTERS)
_SLICE_SECONDS = 600.0
_SLICES = 6
_MAX_WAITING = 2048
"""Keys that wait to be counted: numpy counts many at once in the time of one."""


class Coverage:
    """HyperLogLog of the last hour, in slices: 26 KiB, and an error of 2%.

    Safe to use from several threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing shown; `clock` returns seconds."""
        self._clock = clock
        self._lock = Lock()
        self._waiting: list[int] = []
        self._slices: deque[tuple[float, npt.NDArray[np.uint8]]] = deque(maxlen=_SLICES)
        """When each slice began, and its registers; the current one is last."""
        self._slices.append((clock(), np.zeros(_REGISTERS, np.uint8)))

    def add(self, keys: Sequence[int]) -> None:
        """Count videos as shown now; a key is a hash of 64 bits."""
        with self._lock:
            if len(self._waiting) >= _MAX_WAITING or self._slice_is_over:
                self._count()
            self._waiting.extend(keys)

    def estimate(self) -> float:
        """Return the number of distinct videos that were shown within the last 50 to 60 minutes."""
        with self._lock:
            self._count()
            since = self._clock() - _SLICES * _SLICE_SECONDS
            held = [registers for began, registers in self._slices if began > since]
        if not held:
            return 0.0
        union = np.maximum.reduce(held)
        absent = np.count_nonzero(union == 0)
        estimate = _BIAS * _REGISTERS**2 / np.exp2(-union.astype(np.float64)).sum()
        if absent and estimate <= 2.5 * _REGISTERS:
            estimate = _REGISTERS * np.log(_REGISTERS / absent)  # linear counting
        return float(estimate)

    @property
    def _slice_is_over(self) -> bool:
        return self._clock() - self._slices[-1][0] >= _SLICE_SECONDS

    def _count(self) -> None:
        """Count the keys that wait in the current slice; begin a new one if it is over."""
        registers = self._slices[-1][1]
        hashes = np.array(self._waiting, np.int64).view(np.uint64)
        self._waiting.clear()
        rest = hashes >> np.uint64(_REGISTER_BITS)
        lowest = rest & (~rest + np.uint64(1))  # its lowest bit alone
        _, ranks = np.frexp(lowest.astype(np.float64))  # that bit's place, from 1; 0 without one
        places = (hashes & np.uint64(_REGISTERS - 1)).astype(np.intp)
        np.maximum.at(registers, places, ranks.astype(np.uint8))
        if self._slice_is_over:
            self._slices.append((self._clock(), np.zeros(_REGISTERS, np.uint8)))
