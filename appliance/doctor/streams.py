"""What each RTP stream shows of the mirror: loss, copies, clocks; counted over runs, all streams at once.

A recorder counts the same more exactly when a call is over (`store.stream_facts`); here it must cost next to nothing while
packets come at line rate, so that it is not the doctor who loses them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.careful import text_of
from rokuon.sniffer.gather import window
from rokuon.sniffer.packet import Endpoint
from rokuon.store.runs import STREAM, Run

__all__ = ["FOLLOWED", "Clock", "StreamCounts", "Streams", "together"]

FOLLOWED = 1 << 18
"""Streams that are followed; what comes beyond is counted as packets only."""
_RESTART = 1000
"""A step of sequence numbers that is no loss: the sender has started anew."""
_HISTORY = 64
_S = 1_000_000_000
_EVENTS = 200_000
_EVENT_BYTES = 16
"""Of a datagram with a telephone event (RFC 4733): its timestamp stands still."""
_STEP_NS = 1_500_000_000
_NEXT_TICKS = 9600
"""What two packets that follow each other may be apart at most: 200 ms of Opus, 1.2 s of G.711."""
CLOCKS = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 90000)
"""RTP clocks (RFC 3551, RFC 7587), Hz."""

_STATE = np.dtype([
    ("packets", "<i8"), ("bytes", "<i8"), ("first_ns", "<i8"), ("last_ns", "<i8"), ("distinct", "<i8"), ("first", "<i8"),
    ("highest", "<i8"), ("copies", "<i8"), ("routed", "<i8"), ("restarts", "<i4"), ("near", "<i8"), ("newest", "<i8"),
    ("seen", "<u8"), ("low", "<u8"), ("high", "<u8"), ("length", "<i4"), ("ttl", "u1"), ("mixed", "?"), ("sequence", "<u2"),
    ("timestamp", "<u4"), ("sequence_0", "<u2"), ("timestamp_0", "<u4"),
    ("ticks", "<i8"), ("n", "<f8"), ("x", "<f8"), ("y", "<f8"), ("xx", "<f8"), ("xy", "<f8"), ("yy", "<f8")])


class Clock(NamedTuple):
    """How the capture's clock goes, measured against that of a stream's sender."""

    rate: int
    """Hz, of the RTP timestamp."""
    ppm: float
    """By how much the sender's clock is faster."""
    error_ppm: float
    """Standard error of that."""
    seconds: float


@dataclass(slots=True)
class StreamCounts:
    """One stream, as far as it was followed."""

    number: int
    src: Endpoint
    dst: Endpoint
    tags: tuple[int, ...]
    point: int
    ssrc: int
    packets: int
    bytes: int
    """Of UDP payload."""
    first_ns: int
    last_ns: int
    distinct: int
    """Sequence numbers seen, each once."""
    lost: int
    copies: int
    routed: int
    """Copies whose time to live differs."""
    types: list[int]
    """Payload types that occur."""
    length: int
    """Bytes of the payload behind the fixed header, of the newest packet."""
    voice_like: bool

    @property
    def seconds(self) -> float:
        return (self.last_ns - self.first_ns) / 1e9


@dataclass(slots=True)
class Streams:
    """State by stream number."""

    packets: int = 0
    beyond: int = 0
    """Packets of streams that were not followed."""
    gaps: list[NDArray[np.int64]] = field(default_factory=list)
    """Where packets are missing: rows of (time, stream number, how many), shape (n, 3)."""
    steps: list[NDArray[np.int64]] = field(default_factory=list)
    """Where a stream goes on as if nothing was, and the time of its packets jumps: rows of (time, stream number, ns)."""
    _state: NDArray[np.void] = field(default_factory=lambda: np.zeros(1024, _STATE))
    _rows: NDArray[np.void] = field(default_factory=lambda: np.zeros(1024, STREAM))
    _noted: int = 0

    def add(self, run: Run) -> None:
        """Takes a run whose records are in memory."""
        if run.records is None or run.payload is None or not len(run.records):
            return
        self.packets += len(run.records)
        self._grow(int(run.streams[-1]))
        fresh = run.fresh[run.fresh["number"] < FOLLOWED]
        self._rows[fresh["number"]] = fresh
        starts = run.starts.astype(np.int64)
        follow = int(np.searchsorted(run.streams, FOLLOWED))  # numbers ascend
        end = int(starts[follow])
        self.beyond += len(run.records) - end
        if end:
            self._take(run.streams[:follow], starts[:follow + 1], run.records[:end], run.payload)

    def _grow(self, highest: int) -> None:
        need = min(highest + 1, FOLLOWED)
        while len(self._state) < need:
            self._state = np.concatenate([self._state, np.zeros_like(self._state)])
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])

    def _take(self, numbers: NDArray[np.uint32], starts: NDArray[np.int64], records: NDArray[np.void],
              payload: NDArray[np.uint8]) -> None:
        state = self._state[numbers]
        begin, last = starts[:-1], starts[1:] - 1
        many = starts[1:] - begin
        of = np.repeat(np.arange(len(numbers)), many)
        head = window(payload, records["offset"].astype(np.int64), 12)
        sequence = head.view(">u2").reshape(-1, 6)[:, 1].astype(np.uint16)
        timestamp = head.view(">u4").reshape(-1, 3)[:, 1].astype(np.uint32)
        kind = (head[:, 1] & 0x7F).astype(np.uint64)
        time_ns = records["time_ns"]
        new = state["packets"] == 0
        state["first_ns"] = np.where(new, time_ns[begin], state["first_ns"])
        for name, column in (("sequence", sequence), ("timestamp", timestamp), ("last_ns", time_ns)):
            state[name] = np.where(new, column[begin], state[name])
        for name, column in (("sequence_0", sequence), ("timestamp_0", timestamp)):
            state[name] = np.where(new, column[begin], state[name])

        # Sequence numbers and timestamps as steps from packet to packet, the first of each stream from where it was.
        delta = _steps(sequence, state["sequence"], begin).view(np.int16).astype(np.int64)
        ticks = _steps(timestamp, state["timestamp"], begin).view(np.int32).astype(np.int64)
        passed = _steps(time_ns, state["last_ns"], begin)
        delta[begin[new]] = 1
        wide = np.abs(delta) > _RESTART
        if wide.any():
            state["restarts"] += np.add.reduceat(wide, begin, dtype=np.int32)
            delta[wide] = 1
        extended = np.cumsum(delta)
        base = np.concatenate([[0], extended[last[:-1]]])
        extended += (state["newest"] - base)[of]
        self._jumps(numbers, of, time_ns, delta, ticks, passed)
        self._numbers(numbers, state, of, begin, extended, delta, records["ttl"], time_ns)
        self._clock(state, of, begin, ticks, time_ns, records["length"])

        ssrc = window(payload, records["offset"].astype(np.int64) + 8, 4).view(">u4")[:, 0]
        state["mixed"] |= np.logical_or.reduceat(ssrc != self._rows["ssrc"][numbers][of], begin)
        near = (delta >= -4) & (delta <= 4)
        state["near"] += np.add.reduceat(near, begin, dtype=np.int64)
        one = np.uint64(1)
        low = np.where(kind < 64, one << np.minimum(kind, np.uint64(63)), np.uint64(0))
        high = np.where(kind >= 64, one << (np.maximum(kind, np.uint64(64)) - np.uint64(64)), np.uint64(0))
        state["low"] |= np.bitwise_or.reduceat(low, begin)
        state["high"] |= np.bitwise_or.reduceat(high, begin)
        state["packets"] += many
        state["bytes"] += np.add.reduceat(records["length"].astype(np.int64), begin)
        state["length"] = records["length"][last].astype(np.int32) - 12
        state["ttl"], state["sequence"], state["timestamp"] = records["ttl"][last], sequence[last], timestamp[last]
        state["newest"], state["last_ns"] = extended[last], time_ns[last]
        self._state[numbers] = state

    def _numbers(self, numbers: NDArray[np.uint32], state: NDArray[np.void], of: NDArray[np.int64], begin: NDArray[np.int64],
                 extended: NDArray[np.int64], delta: NDArray[np.int64], ttl: NDArray[np.uint8],
                 time_ns: NDArray[np.int64]) -> None:
        """Each number once, what is missing between them, and copies."""
        new = state["packets"] == 0
        highest = np.where(new, extended[begin] - 1, state["highest"])
        if (delta > 0).all() and (extended[begin] > highest).all():  # nearly always
            self._gaps(numbers, of, time_ns, delta - 1)
            state["distinct"] += np.diff(np.append(begin, len(of)))
        else:
            order = np.lexsort((extended, of))
            stream, number = of[order], extended[order]
            again = np.concatenate([[False], (stream[1:] == stream[:-1]) & (number[1:] == number[:-1])])
            behind = highest[stream] - number
            old = (behind >= 0) & ~again  # of before this run, or late: the history knows the newest ones
            within = np.clip(behind, 0, _HISTORY - 1).astype(np.uint64)
            known = old & ((behind >= _HISTORY) | ((state["seen"][stream] >> within) & np.uint64(1) == 1))
            copy = again | known
            before = np.where(again, np.concatenate([ttl[order][:1], ttl[order][:-1]]), state["ttl"][stream])
            routed = copy & (ttl[order] != before)
            state["copies"] += np.bincount(stream[copy], minlength=len(begin))
            state["routed"] += np.bincount(stream[routed], minlength=len(begin))
            fresh = np.flatnonzero(~copy)
            state["distinct"] += np.bincount(stream[fresh], minlength=len(begin))
            ahead = fresh[behind[fresh] < 0]
            if len(ahead):
                first = np.concatenate([[True], stream[ahead][1:] != stream[ahead][:-1]])
                previous = np.where(first, highest[stream[ahead]], np.concatenate([[0], number[ahead][:-1]]))
                self._gaps(numbers, stream[ahead], time_ns[order][ahead], number[ahead] - previous - 1)
        state["first"] = np.where(new, extended[begin], np.minimum(state["first"], np.minimum.reduceat(extended, begin)))
        top = np.maximum(highest, np.maximum.reduceat(extended, begin))
        shift = np.minimum(top - highest, _HISTORY - 1).astype(np.uint64)
        seen = np.where((top - highest < _HISTORY) & ~new, state["seen"] << shift, np.uint64(0))
        recent = np.flatnonzero(top[of] - extended < _HISTORY)
        bits = np.zeros(len(of), np.uint64)
        bits[recent] = np.uint64(1) << (top[of[recent]] - extended[recent]).astype(np.uint64)
        state["seen"] = seen | np.bitwise_or.reduceat(bits, begin)
        state["highest"] = top

    def _note(self, kept: list[NDArray[np.int64]], *columns: NDArray[np.int64]) -> None:
        if self._noted < _EVENTS:
            self._noted += len(columns[0])
            kept.append(np.stack(columns, axis=1))

    def _gaps(self, numbers: NDArray[np.uint32], of: NDArray[np.int64], time_ns: NDArray[np.int64],
              missing: NDArray[np.int64]) -> None:
        at = np.flatnonzero(missing > 0)
        if len(at):
            self._note(self.gaps, time_ns[at], numbers[of[at]].astype(np.int64), missing[at])

    def _jumps(self, numbers: NDArray[np.uint32], of: NDArray[np.int64], time_ns: NDArray[np.int64], delta: NDArray[np.int64],
               ticks: NDArray[np.int64], passed: NDArray[np.int64]) -> None:
        at = np.flatnonzero((np.abs(passed) > _STEP_NS) & (delta == 1) & (ticks > 0) & (ticks <= _NEXT_TICKS))
        if len(at):
            self._note(self.steps, time_ns[at], numbers[of[at]].astype(np.int64), passed[at])

    @staticmethod
    def _clock(state: NDArray[np.void], of: NDArray[np.int64], begin: NDArray[np.int64], ticks: NDArray[np.int64],
               time_ns: NDArray[np.int64], length: NDArray[np.uint16]) -> None:
        """Sums for a line through (arrival, timestamp) by least squares."""
        total = np.cumsum(ticks)
        last = np.append(begin[1:], len(of)) - 1
        base = np.concatenate([[0], total[last[:-1]]])
        y = total - base[of] + state["ticks"][of]
        state["ticks"] = y[last]
        x = (time_ns - state["first_ns"][of]) / 1e9
        weight = (length != _EVENT_BYTES).astype(np.float64)
        y = y * weight
        x = x * weight
        for name, column in (("n", weight), ("x", x), ("y", y), ("xx", x * x), ("xy", x * y), ("yy", y * y)):
            state[name] += np.add.reduceat(column, begin)

    # -- what came out -------------------------------------------------------
    def counts(self, number: int) -> StreamCounts | None:
        """What is known of a stream; None: it was not followed, or had no packets."""
        if number >= len(self._state) or not self._state["packets"][number]:
            return None
        s, row = self._state[number], self._rows[number]
        size = 16 if row["v6"] else 4
        src = Endpoint(text_of(row["source"][:size].tobytes()), int(row["source_port"]))
        dst = Endpoint(text_of(row["destination"][:size].tobytes()), int(row["destination_port"]))
        mask = int(s["low"]) | int(s["high"]) << 64
        lost = 0 if s["mixed"] else int(s["highest"] - s["first"] + 1 - s["distinct"])
        return StreamCounts(
            number, src, dst, tuple(row["tags"][:row["tag_count"]].tolist()), int(row["point"]), int(row["ssrc"]),
            int(s["packets"]), int(s["bytes"]), int(s["first_ns"]), int(s["last_ns"]), int(s["distinct"]),
            max(lost, 0), int(s["copies"]), int(s["routed"]), [n for n in range(128) if mask >> n & 1], int(s["length"]),
            voice_like=bool(not s["mixed"] and s["distinct"] >= 10 and s["near"] * 10 >= s["packets"] * 8))

    def all(self) -> list[StreamCounts]:
        """Of every stream that was followed."""
        numbers = np.flatnonzero(self._state["packets"]).tolist()
        return [found for number in numbers if (found := self.counts(number)) is not None]

    def jumps(self) -> NDArray[np.int64]:
        """Where the packets of a stream that goes on jump in time: rows of (time, stream number, ns), shape (n, 3).

        A stream that pauses for long has another number behind the pause: it goes on where sequence number and timestamp do.
        """
        rows = [tuple(row) for part in self.steps for row in part.tolist()]
        before: dict[bytes, int] = {}
        names = ["source", "destination", "source_port", "destination_port", "tags", "ssrc", "point"]
        for number in np.flatnonzero(self._state["packets"]).tolist():
            s, key = self._state[number], b"".join(self._rows[name][number].tobytes() for name in names)
            previous = before.get(key)
            before[key] = number
            if previous is not None and not s["mixed"]:
                p = self._state[previous]
                ticks = int(s["timestamp_0"]) - int(p["timestamp"]) & 0xFFFFFFFF
                if int(s["sequence_0"]) - int(p["sequence"]) & 0xFFFF == 1 and 0 < ticks <= _NEXT_TICKS:
                    rows.append((int(s["first_ns"]), number, int(s["first_ns"] - p["last_ns"])))
        return np.array(rows, np.int64).reshape(-1, 3)

    def clocks(self, least_s: float = 2.0) -> list[Clock]:
        """Of streams that last so long and whose packets lie on a line."""
        s = self._state[(self._state["n"] >= 50) & ~self._state["mixed"] & (self._state["restarts"] == 0)]
        s = s[(s["last_ns"] - s["first_ns"]) >= least_s * _S]
        if not len(s):
            return []
        n = s["n"]
        vx, vxy, vy = s["xx"] - s["x"] ** 2 / n, s["xy"] - s["x"] * s["y"] / n, s["yy"] - s["y"] ** 2 / n
        good = vx > 0
        slope = np.divide(vxy, vx, out=np.zeros_like(vx), where=good)
        error = np.sqrt(np.maximum(vy - slope * vxy, 0) / np.maximum(n - 2, 1) / np.where(good, vx, 1))
        found = []
        lasted = (s["last_ns"] - s["first_ns"]) / _S
        for ticks, deviation, seconds in zip(slope.tolist(), error.tolist(), lasted.tolist(), strict=True):
            rate = min(CLOCKS, key=lambda c: abs(c - ticks))
            if abs(ticks / rate - 1) < 0.02:
                found.append(Clock(rate, (ticks / rate - 1) * 1e6, deviation / rate * 1e6, seconds))
        return found


def _steps(column: NDArray[Any], before: NDArray[Any], begin: NDArray[np.int64]) -> NDArray[Any]:
    """From each packet of a stream to the next; of the first from `before`, one a stream."""
    previous = np.concatenate([column[:1], column[:-1]])
    previous[begin] = before
    steps: NDArray[Any] = column - previous
    return steps


def together(gaps: NDArray[np.int64], whose: NDArray[np.int64], within_ns: int = 50_000_000) -> tuple[int, float]:
    """How often gaps (rows as in `Streams.gaps`) of two conversations fall into one moment, and how often they would by chance.

    whose: the conversation of each gap. A mirror that is overrun loses of all at once; a network seldom does.
    """
    if not len(gaps):
        return 0, 0.0
    moments = (gaps[:, 0] - gaps[:, 0].min()) // within_ns
    once = np.unique(np.stack([moments, whose], axis=1), axis=0)[:, 0]
    _, sizes = np.unique(once, return_counts=True)
    pairs = int((sizes * (sizes - 1) // 2).sum())
    return pairs, len(once) * (len(once) - 1) / 2 / (int(moments.max()) + 1)
