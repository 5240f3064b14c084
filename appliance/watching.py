"""Loss and jitter of calls in progress, worked out from the spool for as long as somebody watches."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.reception import TYPES, Received, Reception
from rokuon.decoders.rtp import RtpRecords, parse
from rokuon.sniffer.model import PayloadFormat
from rokuon.sniffer.sdp import STATIC
from rokuon.store.layout import Layout
from rokuon.store.runs import RECORD, Run

__all__ = ["WATCHED", "Watching", "clock_rates"]

WATCHED = "watched"
"""Name of the file in DATA/state that whoever watches renews every 2 s: only its time counts."""
_WATCHED_S = 10.0
_LAGS_S = 5.0
"""Who is so far behind the wire has better things to do."""
_MOST_STREAMS = 4096
_NEAR = 16 << 10
"""Parts of a file are read in one piece, with what lies between, where that takes no more bytes."""
_SPARE = 64
_UNKNOWN_HZ = 8000
_NO_VOICE = ("telephone-event", "cn")

Formats = Mapping[int, PayloadFormat]
Rows = NDArray[np.int64]


class Watching:
    """What is received of the streams of calls in progress, since somebody began to watch."""

    def __init__(self, layout: Layout) -> None:
        self._file, self._spool = layout.state / WATCHED, layout.spool
        self._received = Reception()
        self._formats: dict[int, tuple[Formats, NDArray[np.int32]]] = {}
        self.on = False

    def look(self, behind_s: float) -> None:
        """Looks whether somebody watches. `behind_s`: how far correlation is behind the wire."""
        self.on = behind_s < _LAGS_S and self._is_watched()
        if not self.on:
            self._forget()

    def _is_watched(self) -> bool:
        with suppress(OSError):
            return abs(time.time() - os.stat(self._file).st_mtime) < _WATCHED_S
        return False

    def _forget(self) -> None:
        if self._formats:
            self._received, self._formats = Reception(), {}

    def follow(self, streams: Mapping[int, Formats]) -> None:
        """Which streams are of interest from now on, by number, and what their payload types mean."""
        numbers = sorted(streams)[-_MOST_STREAMS:]
        before, self._formats = self._formats, {}
        for number in numbers:
            known, formats = before.get(number), streams[number]
            same = known is not None and known[0] is formats
            self._formats[number] = known if known is not None and same else (formats, clock_rates(formats))
        clocks = np.stack([self._formats[n][1] for n in numbers]) if numbers else np.zeros((0, TYPES), np.int32)
        self._received.follow(np.array(numbers, np.int64), clocks)

    def see(self, run: Run) -> None:
        """Takes a run that was just read; what it holds may be gone from the disk. Never raises."""
        if not len(self._received) or not len(run.streams):
            return
        try:
            self._see(run)
        except (OSError, EOFError):  # given back meanwhile: what is missing now must not look like a loss
            self._forget()
        except Exception:  # whatever it is, recording goes on
            self._forget()

    def _see(self, run: Run) -> None:
        numbers, streams = self._received.numbers, run.streams.astype(np.int64)
        at = np.searchsorted(numbers, streams)
        at[at == len(numbers)] = 0
        mine = numbers[at] == streams
        mine[1:] &= streams[1:] != streams[:-1]  # those that nobody knows bear the number of the one before
        which = np.flatnonzero(mine)
        if not len(which):
            return
        starts, edges, width = run.starts.astype(np.int64), run.payload_starts.astype(np.int64), RECORD.itemsize
        begin, count = starts[which], starts[which + 1] - starts[which]
        edge, end = edges[which], edges[which + 1]
        file = os.open(self._spool / run.segment, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found, where = _read(file, run.records_at + begin * width, run.records_at + (begin + count) * width)
            data, place = _read(file, run.payload_at + edge, run.payload_at + end)
        finally:
            os.close(file)
        rank = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        records = found[:len(found) // width * width].view(RECORD)[np.repeat(where // width, count) + rank]
        offset, length = records["offset"].astype(np.int64), records["captured"].astype(np.int32)
        good = np.flatnonzero((offset >= np.repeat(edge, count)) & (offset + length <= np.repeat(end, count)))
        offset += np.repeat(place - edge, count)
        who = np.repeat(at[which], count)[good]
        packets = parse(RtpRecords(records["time_ns"][good].astype(np.int64), data, offset[good], length[good],
                                   records["length"][good].astype(np.int32)))
        if packets.record is not None:
            who = who[packets.record]
        self._received.add(who, packets.time_ns, packets.sequence, packets.timestamp, packets.payload_type)

    def of(self, number: int) -> Received | None:
        """What was received of a stream since somebody watches; None: nothing, or nobody does."""
        return self._received.of(number)


def clock_rates(formats: Formats) -> NDArray[np.int32]:
    """RTP clock rate by payload type, 0 where it is no voice."""
    clocks = np.full(TYPES, _UNKNOWN_HZ, np.int32)
    for known in (STATIC, formats):
        for number, form in known.items():
            if 0 <= number < TYPES:
                clocks[number] = 0 if form.encoding.lower() in _NO_VOICE else min(max(form.clock_rate, 0), 1 << 30)
    return clocks


def _read(file: int, begin: Rows, end: Rows) -> tuple[NDArray[np.uint8], Rows]:
    """The parts of a file from each `begin` to its `end`, ascending, and where in what was read each begins. Behind the last are
    64 bytes to spare. Raises OSError, EOFError.
    """
    first = np.flatnonzero(np.concatenate([[True], begin[1:] - end[:-1] > _NEAR]))
    since, until = begin[first], end[np.append(first[1:], len(end)) - 1]
    parts = []
    for start, size in zip(since.tolist(), (until - since).tolist(), strict=True):
        parts.append(os.pread(file, size, start))
        if len(parts[-1]) != size:
            raise EOFError
    parts.append(bytes(_SPARE))
    at = np.cumsum(until - since) - (until - since)
    return np.frombuffer(b"".join(parts), np.uint8), begin + np.repeat(at - since, np.diff(first, append=len(begin)))
