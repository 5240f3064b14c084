"""What is to be done at a time: first what is due first, and of the same time what was asked for first."""

from __future__ import annotations

import heapq
from itertools import count

__all__ = ["Timers"]


class Timers:
    """Times in nanoseconds, each with what is to be done and to what number."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str, int]] = []
        self._order = count()

    def add(self, time_ns: int, what: str, number: int) -> None:
        """At that time, or at once where it is past."""
        heapq.heappush(self._heap, (time_ns, next(self._order), what, number))

    @property
    def next_ns(self) -> int | None:
        """When the next one is due; None: there is none."""
        return self._heap[0][0] if self._heap else None

    def pop(self) -> tuple[int, str, int]:
        """The one that is due next. Raises IndexError."""
        time_ns, _, what, number = heapq.heappop(self._heap)
        return time_ns, what, number
