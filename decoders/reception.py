"""How many streams are received, all at once and while they go on: packets, losses, jitter (RFC 3550 appendices A.1, A.3, A.8).

For looking on: cheap, exact where packets come no more than 64 numbers late, and without a second look. What is written of a
stream in the end comes from `rokuon.decoders.order` and `rokuon.decoders.jitter`, which take their time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.jitter import PAUSE_NS, follow

__all__ = ["TYPES", "Received", "Reception"]

TYPES = 128
"""Payload types that there are."""
MOST_LOST, MOST_LATE = 3000, 100
"""Steps of the sequence number that are a loss, or a packet that is late (RFC 3550 appendix A.1); any other says that the sender
started anew, or that a packet is a stray one."""
WINDOW = 64
_BEGIN = 1 << 40
_EACH = np.dtype([("number", "<i8"), ("begun", "?"), ("base", "<i8"), ("highest", "<i8"), ("sequence", "<i8"), ("seen", "<i8"),
                  ("window", "<u8"), ("newest_ns", "<i8"), ("time_ns", "<i8"), ("timestamp", "<u4"), ("clock", "<i4"),
                  ("jitter_ns", "<f8"), ("measured", "?")])
"""A stream: its first and highest extended sequence number, the sequence number of the latter, how many came, which of the 64 up
to the highest came (bit 0: the highest); when its newest packet came; arrival, timestamp and clock of its newest packet of voice
(clock 0: none came); J."""

Rows = NDArray[np.intp]


class Received(NamedTuple):
    """Of a stream, since it is followed."""

    packets: int
    """Each number once."""
    lost: int
    """Numbers missing between the first and the highest."""
    newest_ns: int
    jitter_ms: float | None
    """J now; None before the second packet of voice."""


class Reception:
    """What came of the streams that are followed, by number."""

    def __init__(self) -> None:
        self._each = np.zeros(0, _EACH)
        self._clocks = np.zeros((0, TYPES), np.int32)

    def __len__(self) -> int:
        return len(self._each)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Of the streams that are followed, ascending."""
        return self._each["number"]

    def follow(self, numbers: NDArray[np.int64], clocks: NDArray[np.int32]) -> None:
        """From now on these streams, ascending; of those that were followed before nothing is forgotten.

        clocks: RTP clock rate in Hz by payload type, 0 where it is no voice, shape (k, 128).
        """
        each = np.zeros(len(numbers), _EACH)
        each["number"] = numbers
        if len(self._each) and len(numbers):
            at = np.searchsorted(self._each["number"], numbers)
            at[at == len(self._each)] = 0
            known = self._each["number"][at] == numbers
            each[known] = self._each[at[known]]
        self._each, self._clocks = each, clocks

    def add(self, who: Rows, time_ns: NDArray[np.int64], sequence: NDArray[np.uint16], timestamp: NDArray[np.uint32],
            payload_type: NDArray[np.uint8]) -> None:
        """Takes packets, those of a stream together and in order of arrival. who: row of each one's stream in `numbers`,
        ascending; the others: parallel arrays of what `rokuon.decoders.rtp.parse` gives.
        """
        if not len(who):
            return
        first = np.flatnonzero(np.concatenate([[True], who[1:] != who[:-1]]))
        mine, count = who[first], np.diff(first, append=len(who))
        fresh = self._count(who, sequence, first, mine, count)
        self._each["newest_ns"][mine] = np.maximum(self._each["newest_ns"][mine], np.maximum.reduceat(time_ns, first))
        clock = self._clocks[who, payload_type]
        rows = np.flatnonzero(fresh & (clock > 0))
        if len(rows):
            self._measure(who[rows], time_ns[rows], timestamp[rows], clock[rows])

    def _count(self, who: Rows, sequence: NDArray[np.uint16], first: Rows, mine: Rows,
               count: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Counts packets; which of them came for the first time."""
        each = self._each
        numbers = sequence.astype(np.int64)
        new = ~each["begun"][mine]
        begun = each[mine]
        begun["begun"] = True
        start = _BEGIN + numbers[first]
        begun["base"], begun["highest"] = np.where(new, start, begun["base"]), np.where(new, start - 1, begun["highest"])
        begun["sequence"] = np.where(new, numbers[first] - 1, begun["sequence"])
        step = np.empty(len(who), np.int64)
        step[1:] = numbers[1:] - numbers[:-1]
        step[first] = numbers[first] - begun["sequence"]
        step = ((step + 0x8000) & 0xFFFF) - 0x8000
        step[(step > MOST_LOST) | (step < -MOST_LATE)] = 1
        gone = np.cumsum(step)
        extended = gone + np.repeat(begun["highest"] - gone[first] + step[first], count)

        order = np.arange(len(who))
        if not ((extended[1:] > extended[:-1]) | (who[1:] != who[:-1])).all():
            order = np.lexsort((extended, who))
            once = np.concatenate([[True], (extended[order[1:]] != extended[order[:-1]]) | (who[order[1:]] != who[order[:-1]])])
            order = order[once]
        stream = np.searchsorted(mine, who[order])
        behind = begun["highest"][stream] - extended[order]
        late = np.flatnonzero((behind >= 0) & (behind < WINDOW) & (extended[order] >= begun["base"][stream]))
        bits = np.left_shift(np.uint64(1), behind[late].astype(np.uint64))
        missed = (begun["window"][stream[late]] & bits) == 0
        late, bits = late[missed], bits[missed]
        np.bitwise_or.at(begun["window"], stream[late], bits)
        ahead = np.flatnonzero(behind < 0)
        fresh = np.zeros(len(who), np.bool_)
        fresh[order[late]] = fresh[order[ahead]] = True
        begun["seen"] += np.bincount(stream[late], minlength=len(mine)) + np.bincount(stream[ahead], minlength=len(mine))
        if len(ahead):
            self._advance(begun, stream[ahead], extended[order[ahead]], numbers[order[ahead]])
        each[mine] = begun
        return fresh

    @staticmethod
    def _advance(begun: NDArray[np.void], stream: Rows, extended: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        """Moves the window on to the highest of the numbers, each above the highest before, ascending by stream."""
        first = np.flatnonzero(np.concatenate([[True], stream[1:] != stream[:-1]]))
        last = np.append(first[1:], len(stream)) - 1
        which, highest = stream[first], extended[last]
        moved = highest - begun["highest"][which]
        kept = np.left_shift(begun["window"][which], np.minimum(moved, WINDOW - 1).astype(np.uint64))
        behind = np.repeat(highest, last - first + 1) - extended
        bits = np.left_shift(np.uint64(1), np.minimum(behind, WINDOW - 1).astype(np.uint64))
        bits[behind >= WINDOW] = 0
        begun["window"][which] = np.where(moved < WINDOW, kept, np.uint64(0)) | np.bitwise_or.reduceat(bits, first)
        begun["highest"][which], begun["sequence"][which] = highest, numbers[last]

    def _measure(self, who: Rows, time_ns: NDArray[np.int64], timestamp: NDArray[np.uint32], clock: NDArray[np.int32]) -> None:
        """Jitter, from packets of voice. Where the clock changes, and over pauses, nothing is measured."""
        first = np.flatnonzero(np.concatenate([[True], who[1:] != who[:-1]]))
        mine = who[first]
        before = self._each[mine]
        time_before, stamp_before, clock_before = np.roll(time_ns, 1), np.roll(timestamp, 1), np.roll(clock, 1)
        time_before[first], stamp_before[first] = before["time_ns"], before["timestamp"]
        clock_before[first] = before["clock"]
        ticks = (timestamp - stamp_before).view(np.int32)
        moved = np.abs((time_ns - time_before) - ticks * (1e9 / clock))
        good = (clock == clock_before) & (moved <= PAUSE_NS)
        count = np.add.reduceat(good.astype(np.int64), first)
        before["jitter_ns"] = follow(before["jitter_ns"], moved[good], count)
        before["measured"] |= count > 0
        last = np.append(first[1:], len(who)) - 1
        before["time_ns"], before["timestamp"], before["clock"] = time_ns[last], timestamp[last], clock[last]
        self._each[mine] = before

    def of(self, number: int) -> Received | None:
        """What came of a stream; None: nothing, or it is not followed."""
        at = int(np.searchsorted(self._each["number"], number))
        if at == len(self._each) or self._each["number"][at] != number or not self._each["begun"][at]:
            return None
        each = self._each[at]
        jitter = float(each["jitter_ns"]) / 1e6 if each["measured"] else None
        return Received(int(each["seen"]), int(each["highest"] - each["base"] + 1 - each["seen"]), int(each["newest_ns"]), jitter)
