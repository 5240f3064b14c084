"""When each packet is heard: places the packets of one direction and SSRC on the clock of the capture.

The packets of a stream form *time lines*. On a time line RTP timestamps say how far packets are apart, to the sample, and
the least-delayed packet says where the line lies on the capture's clock, so that jitter moves nothing. Another line
begins where timestamps and arrival times part by more than a second and stay apart: a timestamp that jumped, a sender
that started anew, a pause that the timestamp did not count. There the arrival time decides, so a gap never holds more
silence than the time that passed. A burst after a stall of the network is no such case: it catches up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpRecords

__all__ = ["Correction", "Playout", "RtpRecords", "Runs", "to_ns"]

Rows = NDArray[np.intp]
Ticks = NDArray[np.int64]

SECOND = 1_000_000_000
APART_NS = SECOND
"""Timestamp and arrival time agree when they differ by no more."""
EARLY_NS = SECOND
"""A stretch sent faster than it sounds is begun no more than so long before its first packet came."""
DRIFT_NS = 5_000_000
"""From this difference on a time line is moved to where its least-delayed packets of the newest block say."""
EVIDENCE = 100
"""Packets of a block that are needed to do so."""
LONGEST_S = 3600
"""Steps of timestamps up to this length are added up."""


class Runs(NamedTuple):
    """Packets of a block in runs, each without a gap; parallel arrays of length k."""

    first: Rows
    """Row of the first packet of each run; it ends where the next begins."""
    base_ns: Ticks
    """Where the run's time line lies: UTC of its tick 0, nanoseconds."""
    tick: Ticks
    """Tick of the run's first sample on that line."""
    gap: Ticks
    """Ticks on the same line since the end of the run before; 0 where another line begins, negative where they overlap."""


class Correction(NamedTuple):
    """A time line was moved against the one drawn so far, for the sender's clock drifts."""

    time_ns: int
    by_ns: int
    """Positive: silence was let in; negative: samples were left out."""


def to_ns(ticks: Ticks, clock: int) -> Ticks:
    """Ticks of a clock (Hz) in nanoseconds, without overflow for anything a stream can hold."""
    whole, rest = divmod(SECOND, clock)
    if not rest:
        return ticks * whole
    return ticks // clock * SECOND + ticks % clock * SECOND // clock


class Playout:
    """Time lines of one stream, block after block."""

    def __init__(self, clock: int) -> None:
        """`clock`: of its timestamps, Hz."""
        self.clock = clock
        self.corrections: list[Correction] = []
        self._stamp: int | None = None
        """Timestamp of the last packet, when it came, where it lies and ends on its line, and where that line lies."""
        self._time_ns = 0
        self._tick = 0
        self._end = 0
        self._base = 0
        self._usual = 0

    def place(self, timestamp: NDArray[np.uint32], time_ns: NDArray[np.int64], ticks: NDArray[np.integer],
              apart: NDArray[np.bool_] | None = None) -> Runs:
        """Places packets, in order of sequence number, each once.

        timestamp, time_ns: RTP's and the capture's (n ≥ 1). ticks: how long each lasts; 0 where nobody knows, which is
        taken as what most packets last. apart (n - 1): where a run has to end although time goes on.
        """
        fresh = self._stamp is None
        step = (timestamp[1:] - timestamp[:-1]).view(np.int32)
        lasts = self._lasting(ticks, step)
        tick = self._unwrapped(timestamp, time_ns, step)
        offset = to_ns(tick, self.clock)
        np.subtract(time_ns, offset, out=offset)  # where tick 0 would lie, had this packet had no delay
        broken = step != lasts[:-1]
        if apart is None and not broken.any() and (runs := self._unbroken(tick, offset, time_ns)) is not None:
            self._stamp, self._time_ns, self._tick = int(timestamp[-1]), int(time_ns[-1]), int(tick[-1])
            self._end = self._tick + int(lasts[-1])
            return runs
        parted = np.abs(offset[1:] - offset[:-1]) > APART_NS
        if apart is not None:
            broken |= apart
        follows = not fresh and tick[0] == self._end
        starts = np.concatenate([[0], np.flatnonzero(broken | parted) + 1])
        base, lines = self._lines(offset, starts, parted, time_ns)
        # A stall of the network that was caught up with is no break: same line, and timestamps follow on.
        keep = np.ones(len(starts), np.bool_)
        keep[1:] = broken[starts[1:] - 1] | (lines[1:] != lines[:-1])
        first = starts[keep]
        gap = np.zeros(len(first), np.int64)
        gap[1:] = tick[first[1:]] - tick[first[1:] - 1] - lasts[first[1:] - 1]
        gap[1:][lines[keep][1:] != lines[keep][:-1]] = 0
        if not fresh and not follows and base[0] == self._base:
            gap[0] = tick[0] - self._end
        self._stamp, self._time_ns, self._tick = int(timestamp[-1]), int(time_ns[-1]), int(tick[-1])
        self._base = int(base[-1])
        self._end = self._tick + int(lasts[-1])
        return Runs(first, base[keep], tick[first], gap)

    def _unbroken(self, tick: Ticks, offset: Ticks, time_ns: NDArray[np.int64]) -> Runs | None:
        """The one run of packets that follow one another on one line; None: they are on several."""
        known = self._stamp is not None
        least, most = int(offset.min()), int(offset.max())
        reference = self._base if known else int(offset[0])
        if max(most, reference) - min(least, reference) > APART_NS:
            return None
        base = self._drifted(least, len(offset), int(time_ns[0])) if known else least
        gap = int(tick[0]) - self._end if known and base == self._base else 0
        self._base = base
        return Runs(np.zeros(1, np.intp), np.array([base], np.int64), tick[:1], np.array([gap], np.int64))

    def _unwrapped(self, timestamp: NDArray[np.uint32], time_ns: NDArray[np.int64], step: NDArray[np.int32]) -> Ticks:
        """Timestamps without their wraps, going on from the block before."""
        first = int(timestamp[0])
        stamp, before = (first, int(time_ns[0])) if self._stamp is None else (self._stamp, self._time_ns)
        longest = LONGEST_S * self.clock
        if abs(_signed32(first - stamp)) <= longest and (not len(step) or (step.max() <= longest and step.min() >= -longest)):
            tick = np.empty(len(timestamp), np.int64)
            tick[0] = self._tick + _signed32(first - stamp)
            np.cumsum(step, out=tick[1:])
            tick[1:] += tick[0]
            return tick
        # Steps of any size, added up, would lead anywhere: take each timestamp as near to its arrival time as can be.
        expected = ((time_ns - before) * (self.clock / SECOND)).astype(np.int64)
        return self._tick + expected + (timestamp.astype(np.int64) - stamp - expected).astype(np.int32)

    def _lasting(self, ticks: NDArray[np.integer], step: NDArray[np.int32]) -> NDArray[np.integer]:
        """`ticks` with what most packets last put in for 0."""
        unknown = ticks == 0
        if not unknown.any():
            return ticks
        forward = step[step > 0]
        if len(forward):
            values, counts = np.unique(forward, return_counts=True)
            self._usual = int(values[counts.argmax()])
        return np.where(unknown, self._usual, ticks)

    def _lines(self, offset: Ticks, starts: Rows, parted: NDArray[np.bool_],
               time_ns: NDArray[np.int64]) -> tuple[Ticks, NDArray[np.intp]]:
        """Where the time line of each stretch lies, and its number: arrays of len(starts)."""
        lowest = np.minimum.reduceat(offset, starts)
        known = self._stamp is not None
        least, most = int(lowest.min()), int(lowest.max())
        reference = self._base if known else int(offset[0])
        if max(most, reference) - min(least, reference) <= APART_NS:  # one line, as nearly always
            if known:
                least = self._drifted(least, len(offset), int(time_ns[0]))
            return np.full(len(starts), least, np.int64), np.zeros(len(starts), np.intp)
        lows = lowest.tolist()
        least_to_come = lows[:]  # as long as timestamps and arrival do not part once more
        for k in range(len(lows) - 2, -1, -1):
            if not parted[starts[k + 1] - 1]:
                least_to_come[k] = min(lows[k], least_to_come[k + 1])
        lines: list[int] = []
        bases: list[int] = [self._base] if known else []
        references = bases[:]
        floors = bases[:]
        now = 0
        for start, low, to_come in zip(starts.tolist(), lows, least_to_come, strict=True):
            if not bases or to_come - references[now] > APART_NS or references[now] - low > APART_NS:
                # After a few forged timestamps the line before goes on.
                earlier = range(now - 1, max(now - 3, -1), -1)
                now = next((k for k in earlier if abs(to_come - references[k]) <= APART_NS), len(bases))
                if now == len(bases):
                    floors.append(int(offset[start]) - EARLY_NS)
                    references.append(max(to_come, floors[now]))
                    bases.append(references[now])
            if not (known and now == 0):  # nothing begins after its packet came, however early that leaves what was before
                bases[now] = min(bases[now], max(low, floors[now]), int(offset[start]))
            lines.append(now)
        line = np.array(lines, np.intp)
        return np.array(bases, np.int64)[line], line

    def _drifted(self, least: int, packets: int, time_ns: int) -> int:
        """Where a line that goes on from the block before lies now. `least`: what its newest packets say."""
        by = least - self._base
        if abs(by) <= DRIFT_NS or packets < EVIDENCE:
            return self._base
        self.corrections.append(Correction(time_ns, by))
        return least


def _signed32(value: int) -> int:
    return ((value + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000
