"""Puts the packets of one SSRC in order: extended sequence numbers (RFC 3550 appendix A.1), each packet once.

Unlike a player we may look at everything before deciding, so no packet comes too late. A sender that starts anew under
its old SSRC begins another *epoch*: its numbers have nothing to do with those before.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpPackets, same_payload

__all__ = ["Order", "Sequencer"]

Rows = NDArray[np.intp]
Numbers = NDArray[np.int64]

JUMP = 100
"""A step between packets that arrive one after another is looked at closer when it is larger than this."""
AGREES_S = 1.0
"""Timestamps and arrival times tell of the same pause when they differ by no more (seconds)."""
MOST_A_SECOND = 500
"""Packets a second that a sender of voice may send (RFC 3551 section 4.2: 20 ms each; 2.5 ms are the least of Opus)."""
APART = 1 << 17
"""Extended numbers between two epochs, so that stragglers of one do not mix with the other."""
MOST_EPOCHS = 64
"""Restarts that are followed within one block; what comes behind the last stays in its epoch."""
MOST_SEGMENTS = 5_000
BEHIND = 100
"""So many packets in a row with numbers that were done long ago: not late, the sender started anew."""


class Order(NamedTuple):
    """What `Sequencer.arrange` made of n packets."""

    rows: Rows | None
    """Rows in order of extended sequence number, each number once; None: all rows as they came."""
    missing: NDArray[np.int64] | None
    """How many packets are missing right before each of `rows` (0 at the first ever and where an epoch begins); None: none."""
    lost: int
    """Sum of `missing`."""
    duplicates: int
    reordered: int
    """Packets that came after one with a higher number."""
    strays: int
    """Single packets that fit nowhere, and second copies with another content: left out."""
    late: int
    """Packets that came when their place was written long ago: left out."""
    restarts: int
    later: Rows | None
    """Rows that are not in `rows` because they belong to what comes after `until_ns`, in order of arrival."""


class Sequencer:
    """Extends and orders sequence numbers, block after block."""

    def __init__(self) -> None:
        self._highest: int | None = None
        """Extended number of the last packet that was handed out, its timestamp and arrival."""
        self._timestamp = 0
        self._time_ns = 0

    def arrange(self, packets: RtpPackets, clock: int, until_ns: int | None = None) -> Order:
        """Order packets (in order of arrival). `clock`: of their timestamps, Hz.

        With `until_ns`, the order is cut before the first packet that arrived then or later; what follows it in
        sequence is left for the next call, which must be given these rows again, first.
        """
        n = len(packets)
        if n == 0:
            return Order(None, None, 0, 0, 0, 0, 0, 0, None)
        sequence = packets.sequence
        delta = (sequence[1:] - sequence[:-1]).view(np.int16)
        first = int(sequence[0]) if self._highest is None else self._highest + _signed16(int(sequence[0]) - self._highest)
        follows = self._highest is None or first == self._highest + 1
        if until_ns is None and follows and (delta == 1).all():
            return self._done(packets, first + n - 1, n - 1, Order(None, None, 0, 0, 0, 0, 0, 0, None))
        step = np.empty(n, np.int64)
        step[0] = first
        step[1:] = delta
        extended: Numbers = np.cumsum(step)
        kept: Rows | None = None
        restarts: list[int] = []
        wide = np.abs(step[1:]) > JUMP
        if wide.any() or (self._highest is not None and abs(first - self._highest) > JUMP):
            extended, kept, restarts = self._segments(packets, extended, np.flatnonzero(wide) + 1, clock)
        return self._sorted(packets, extended, kept, restarts, until_ns)

    def _sorted(self, packets: RtpPackets, extended: Numbers, kept: Rows | None, restarts: list[int],
                until_ns: int | None) -> Order:
        rows, duplicates, conflicts = _unique(packets, extended, kept, restarts)
        strays = conflicts + (len(packets) - len(kept) if kept is not None else 0)
        late = 0
        if self._highest is not None:
            old = int(np.searchsorted(extended[rows], self._highest, side="right"))
            if old > BEHIND:
                begin = int(rows[:old].min())
                extended[begin:] += self._highest + APART - int(extended[begin])
                restarts.append(begin)
                rows = rows[np.argsort(extended[rows], kind="stable")]
                old = int(np.searchsorted(extended[rows], self._highest, side="right"))
            rows, late = rows[old:], old
        later: Rows | None = None
        if until_ns is not None:
            after = packets.time_ns[rows] >= until_ns
            if after.any():
                cut = int(after.argmax())
                rows, later = rows[:cut], np.sort(rows[cut:])
        if not len(rows):
            return Order(rows, None, 0, duplicates, 0, strays, late, 0, later)
        numbers = extended[rows]
        missing = np.empty(len(rows), np.int64)
        missing[0] = 0 if self._highest is None else numbers[0] - self._highest - 1
        np.subtract(numbers[1:], numbers[:-1], out=missing[1:])
        missing[1:] -= 1
        begun = 0
        if restarts:  # an epoch's numbers say nothing of what is missing since the one before
            leaps = missing >= APART // 2
            begun = int(np.count_nonzero(leaps))
            missing[leaps] = 0
        arrived = np.arange(len(packets)) if kept is None else kept
        overtaken = np.zeros(len(packets), np.bool_)
        overtaken[arrived] = np.maximum.accumulate(extended[arrived]) > extended[arrived]
        reordered = int(np.count_nonzero(overtaken[rows]))
        lost = int(missing.sum())
        order = Order(rows, missing if lost else None, lost, duplicates, reordered, strays, late, begun, later)
        return self._done(packets, int(numbers[-1]), int(rows[-1]), order)

    def _done(self, packets: RtpPackets, highest: int, row: int, order: Order) -> Order:
        self._highest, self._timestamp, self._time_ns = highest, int(packets.timestamp[row]), int(packets.time_ns[row])
        return order

    def _segments(self, packets: RtpPackets, extended: Numbers, jumps: Rows,
                  clock: int) -> tuple[Numbers, Rows | None, list[int]]:
        """Decides at every wide step what it is: a loss or delay (numbers go on), a stray packet, or a restart.

        Numbers go on where the timestamp moved along with the arrival time, or along with the number. Returns the numbers,
        the rows that are kept (None: all), and the rows at which an epoch begins.
        """
        n = len(packets)
        bounds = [0, *jumps[:MOST_SEGMENTS].tolist(), n]
        span = _common_step(packets)
        kept = np.ones(n, np.bool_)
        restarts: list[int] = []
        result = extended.copy()
        highest = self._highest
        timestamp, time_ns = self._timestamp, self._time_ns
        for begin, end in pairwise(bounds):
            number = int(extended[begin])
            if highest is not None:
                by_number = _signed16(int(packets.sequence[begin]) - highest)
                ticks = _signed32(int(packets.timestamp[begin]) - timestamp)
                passed = (int(packets.time_ns[begin]) - time_ns) / 1e9
                in_time = abs(ticks / clock - passed) <= AGREES_S and abs(by_number) <= JUMP + abs(passed) * MOST_A_SECOND
                if in_time or abs(ticks - by_number * span) <= AGREES_S * clock:
                    number = highest + by_number
                elif end - begin == 1:
                    kept[begin] = False
                    continue
                elif len(restarts) < MOST_EPOCHS:
                    number = highest + APART
                    restarts.append(begin)
                else:
                    number = highest + by_number
            elif end - begin == 1 and n > 2 and end < n and not self._leads(packets, begin, clock):
                kept[begin] = False
                continue
            result[begin:end] = extended[begin:end] + (number - int(extended[begin]))
            top = begin + int(result[begin:end].argmax())
            if highest is None or result[top] > highest:
                highest, timestamp, time_ns = int(result[top]), int(packets.timestamp[top]), int(packets.time_ns[top])
        return result, None if kept.all() else np.flatnonzero(kept), restarts

    @staticmethod
    def _leads(packets: RtpPackets, row: int, clock: int) -> bool:
        """Whether the packet behind a single first one goes on from it."""
        ticks = _signed32(int(packets.timestamp[row + 1]) - int(packets.timestamp[row]))
        return abs(ticks / clock - (int(packets.time_ns[row + 1]) - int(packets.time_ns[row])) / 1e9) <= AGREES_S


def _unique(packets: RtpPackets, extended: Numbers, kept: Rows | None, restarts: list[int]) -> tuple[Rows, int, int]:
    """Rows by number, the first of each; how many copies were left out, and how many of these had another content.

    Where copies with other contents follow one another, the sender has started anew: from there `extended` is moved up
    and the row added to `restarts`.
    """
    while True:
        among = extended if kept is None else extended[kept]
        if (among[1:] > among[:-1]).all():
            return np.arange(len(among)) if kept is None else kept, 0, 0
        rows = np.argsort(among, kind="stable")
        if kept is not None:
            rows = kept[rows]
        numbers = extended[rows]
        again = np.flatnonzero(numbers[1:] == numbers[:-1])
        if not len(again):
            return rows, 0, 0
        second = rows[again + 1]
        other = np.sort(second[~same_payload(packets, rows[again], second)])
        conflicts = len(other)
        # A single second copy with another content is a damaged packet; several, one soon after another, are a restart.
        near = np.flatnonzero(np.diff(other) <= 4)
        fresh = np.ones(len(rows), np.bool_)
        fresh[again + 1] = False
        if not len(near) or len(restarts) >= MOST_EPOCHS:
            return rows[fresh], len(again) - conflicts, conflicts
        begin = int(other[near[0]])
        top = int(extended[:begin].max())
        extended[begin:] += top + APART - int(extended[begin])
        restarts.append(begin)


def _common_step(packets: RtpPackets) -> int:
    """Ticks that most packets last: the median step of the timestamp from one number to the next."""
    following = (packets.sequence[1:] - packets.sequence[:-1]).view(np.int16) == 1
    ticks = (packets.timestamp[1:] - packets.timestamp[:-1]).view(np.int32)[following]
    return int(np.median(ticks)) if len(ticks) else 0


def _signed16(value: int) -> int:
    return ((value + 0x8000) & 0xFFFF) - 0x8000


def _signed32(value: int) -> int:
    return ((value + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000
