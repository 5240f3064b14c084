"""A time for each stream, by its number. Numbers only go up, and few are needed for long: these are kept apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Marks"]

_ROOM = 1024
_LEAST = 65_536


class Marks:
    """Times by stream number; `default` where none was set."""

    def __init__(self, default: int) -> None:
        self._default = default
        self._base = 0
        self._values: NDArray[np.int64] = np.full(_ROOM, default, np.int64)
        self._top = 0
        self._old: NDArray[np.int64] = np.zeros(0, np.int64)
        """Numbers below the base, ascending, and their times."""
        self._old_values: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Numbers that there is room for."""
        return len(self._values) + len(self._old)

    def __getitem__(self, number: int) -> int:
        at = number - self._base
        if at >= 0:
            return int(self._values[at]) if at < len(self._values) else self._default
        return int(self.of(np.array([number], np.uint32))[0])

    def __setitem__(self, number: int, time_ns: int) -> None:
        self.set_all(np.array([number], np.uint32), time_ns)

    def of(self, numbers: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The times of these."""
        if not len(numbers):
            return np.zeros(0, np.int64)
        at = self._places(numbers)
        if int(at.min()) >= 0:
            return self._values[at]
        times = np.where(at >= 0, self._values[np.maximum(at, 0)], self._default)
        low, places = self._old_places(numbers, at)
        times[low] = self._old_values[places]
        return times

    def raise_to(self, numbers: NDArray[np.uint32], times_ns: NDArray[np.int64]) -> None:
        """Sets these, where the new time is the later one; of a number that comes more than once, the latest of all."""
        if not len(numbers):
            return
        at = self._places(numbers)
        there = at >= 0
        np.maximum.at(self._values, at[there], times_ns[there])
        if not there.all():
            low, places = self._old_places(numbers, at)
            np.maximum.at(self._old_values, places, times_ns[low])

    def set_all(self, numbers: NDArray[np.uint32], time_ns: int) -> None:
        """Sets these to one time."""
        if len(numbers):
            at = self._places(numbers)
            there = at >= 0
            self._values[at[there]] = time_ns
            if not there.all():
                self._old_values[self._old_places(numbers, at)[1]] = time_ns

    def _places(self, numbers: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Where they are, as far as there is room for these; negative: below the base."""
        number = int(numbers.max())
        self._top = max(self._top, number)
        room = len(self._values)
        if number - self._base >= room:
            more = max(room, number - self._base + 1 - room)
            self._values = np.concatenate([self._values, np.full(more, self._default, np.int64)])
        return numbers.astype(np.int64) - self._base

    def _old_places(self, numbers: NDArray[np.uint32], at: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which of the numbers below the base are known, and where."""
        low = np.flatnonzero(at < 0)
        if not len(self._old):
            return low[:0], low[:0]
        wanted = numbers[low].astype(np.int64)
        places = np.minimum(np.searchsorted(self._old, wanted), len(self._old) - 1)
        known = self._old[places] == wanted
        return low[known], places[known]

    def trim(self, needed: NDArray[np.uint32]) -> None:
        """Only these numbers, ascending, and those that are still to come are needed."""
        base = self._top + 1 - max(4 * len(needed), _LEAST)
        if base <= self._base + max(_ROOM, len(self._values) // 4):
            return
        old = needed[needed < base]
        values = self.of(old)
        self._old, self._old_values = old.astype(np.int64), values
        self._values = np.concatenate([self._values[base - self._base:], np.full(_ROOM, self._default, np.int64)])
        self._base = base
