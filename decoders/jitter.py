"""Interarrival jitter (RFC 3550 section 6.4.1 and appendix A.8), for whole arrays of packets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAUSE_NS", "Jitter", "follow"]

WIDTH = 256
KEEP = 15 / 16
FALLING = KEEP ** np.arange(1, WIDTH + 1)
"""What is left of a value after 1, 2 … packets."""
RISING = KEEP ** -np.arange(1, WIDTH + 1, dtype=np.float64) / 16
"""At most 9e5: no accuracy is lost in double precision."""
PAUSE_NS = 1_000_000_000
"""A transit time that moves further at once is no jitter: the sender's clock or timestamps started anew."""


class Jitter:
    """J(i) = J(i-1) + (|D(i-1, i)| - J(i-1)) / 16, over any number of calls; mean and maximum of J."""

    __slots__ = ("_count", "_last", "_sum", "largest", "value")

    def __init__(self) -> None:
        self.value = 0.0
        """J after the last packet, ns."""
        self.largest = 0.0
        self._sum = 0.0
        self._count = 0
        self._last: tuple[int, int] | None = None

    def add(self, time_ns: NDArray[np.int64], timestamp: NDArray[np.uint32], clock: int) -> None:
        """Takes packets in order of arrival. `timestamp`: RTP's, of `clock` Hz."""
        if not len(time_ns):
            return
        ticks = (timestamp[1:] - timestamp[:-1]).view(np.int32)
        moved = (time_ns[1:] - time_ns[:-1]) - ticks * (1e9 / clock)
        if self._last is not None:
            before, stamp = self._last
            step = ((int(timestamp[0]) - stamp + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000
            moved = np.concatenate([[int(time_ns[0]) - before - step * (1e9 / clock)], moved])
        self._last = int(time_ns[-1]), int(timestamp[-1])
        np.abs(moved, out=moved)
        if len(moved) and moved.max() > PAUSE_NS:
            moved = moved[moved <= PAUSE_NS]
        n = len(moved)
        if not n:
            return
        rows = -(-n // WIDTH)
        filled = np.zeros((rows, WIDTH))
        filled.reshape(-1)[:n] = moved
        # Within a row: J(k) = KEEP^k * sum of |D(i)| / 16 / KEEP^i; rows are tied together by what each leaves to the next.
        filled *= RISING
        np.cumsum(filled, axis=1, out=filled)
        filled *= FALLING
        left = self.value
        starts = np.empty(rows)
        for row, end in enumerate(filled[:, -1].tolist()):
            starts[row] = left
            left = end + left * FALLING[-1]
        filled += starts[:, None] * FALLING
        values = filled.reshape(-1)[:n]
        self.value = float(values[-1])
        self.largest = max(self.largest, float(values.max()))
        self._sum += float(values.sum())
        self._count += n

    @property
    def mean_ms(self) -> float | None:
        """Mean of J in ms, None before the second packet."""
        return self._sum / self._count / 1e6 if self._count else None

    @property
    def max_ms(self) -> float | None:
        """Largest J in ms, None before the second packet."""
        return self.largest / 1e6 if self._count else None


def follow(values: NDArray[np.float64], moved: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """J of many streams after further packets. moved: |D| of all packets, stream after stream; count: how many each has."""
    values = values.copy()
    begin = np.cumsum(count) - count
    while len(which := np.flatnonzero(count)):
        some = np.minimum(count[which], WIDTH)
        first = np.cumsum(some) - some
        rank = np.arange(int(some.sum())) - np.repeat(first, some)
        sums = np.add.reduceat(moved[np.repeat(begin[which], some) + rank] * RISING[rank], first)
        values[which] = (values[which] + sums) * FALLING[some - 1]
        begin, count = begin + WIDTH, np.maximum(count - WIDTH, 0)
    return values
