"""A time for each stream, by its number. Numbers only go up: what lies below the lowest that is needed takes no room."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Marks"]

_ROOM = 1024


class Marks:
    """Times by stream number; `default` where none was set."""

    def __init__(self, default: int) -> None:
        self._default = default
        self._base = 0
        self._values: NDArray[np.int64] = np.full(_ROOM, default, np.int64)

    def __getitem__(self, number: int) -> int:
        at = number - self._base
        return int(self._values[at]) if 0 <= at < len(self._values) else self._default

    def __setitem__(self, number: int, time_ns: int) -> None:
        self._reach(number)
        if number >= self._base:
            self._values[number - self._base] = time_ns

    def of(self, numbers: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The times of these."""
        if not len(numbers):
            return np.zeros(0, np.int64)
        self._reach(int(numbers.max()))
        at = numbers.astype(np.int64) - self._base
        if int(numbers.min()) >= self._base:
            return self._values[at]
        return np.where(at >= 0, self._values[np.maximum(at, 0)], self._default)

    def raise_to(self, numbers: NDArray[np.uint32], times_ns: NDArray[np.int64]) -> None:
        """Sets these, where the new time is the later one; of a number that comes more than once, the latest of all."""
        if not len(numbers):
            return
        self._reach(int(numbers.max()))
        at = numbers.astype(np.int64) - self._base
        there = at >= 0
        np.maximum.at(self._values, at[there], times_ns[there])

    def set_all(self, numbers: NDArray[np.uint32], time_ns: int) -> None:
        """Sets these to one time."""
        if len(numbers):
            self._reach(int(numbers.max()))
            at = numbers.astype(np.int64) - self._base
            self._values[at[at >= 0]] = time_ns

    def _reach(self, number: int) -> None:
        room = len(self._values)
        if number - self._base >= room:
            more = max(room, number - self._base + 1 - room)
            self._values = np.concatenate([self._values, np.full(more, self._default, np.int64)])

    def trim(self, lowest: int) -> None:
        """Numbers below this one are not needed any more."""
        gone = lowest - self._base
        if gone > max(_ROOM, len(self._values) // 2):
            self._values = np.concatenate([self._values[gone:], np.full(_ROOM, self._default, np.int64)])
            self._base = lowest
