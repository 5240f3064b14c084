"""One direction of a TCP connection: bytes that came, in whatever order, and what of them is read (RFC 9293 section 3.4)."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.sip_framing import LINE_LIMIT

__all__ = ["MAX_PIECES", "Half", "Run", "StreamKey"]

StreamKey = tuple[Endpoint, Endpoint, int]
_BEFORE_ALL = -(1 << 62)
MAX_PIECES = 64
"""Runs, and stretches read, that are kept apart in one direction of a connection."""


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive bytes that are not yet read."""

    start: int
    """Sequence number of the first, unwrapped."""
    data: bytearray
    marks: list[tuple[int, int]]
    """(end, time) of each segment's part."""
    since_ns: int
    """When its oldest byte came."""
    synced: bool = False
    """A message begins at its beginning."""
    lost: bool = False
    """What went before is given up."""
    scanned: int = 0
    """Up to where a message's end, or its beginning, was sought in vain."""
    needed: int = 0
    """How many bytes make the message whole; 0: not known."""
    vain: tuple[int, int] = (0, 0)
    """Between these places a beginning was sought in vain before more came in front."""

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def time(self, end: int) -> int:
        """When the last of the bytes from the beginning to `end` came."""
        newest, before = self.marks[0][1], self.start
        for mark_end, time_ns in self.marks:
            if before >= end:
                break
            newest, before = max(newest, time_ns), mark_end
        return newest

    def cut(self, length: int) -> None:
        """Drops the first `length` bytes."""
        del self.data[:length]
        self.start += length
        self.scanned = self.needed = 0
        self.vain = (0, 0)
        i = 0
        while i < len(self.marks) and self.marks[i][0] <= self.start:
            i += 1
        del self.marks[:i]

    def prepend(self, data: bytes, mark: tuple[int, int]) -> None:
        """Puts bytes before the others of a run of which no beginning is known."""
        line = self.data.find(b"\n", 0, self.scanned) + 1  # what is before may be the end of a line that begins in `data`
        begin, end = (line, self.scanned) if 0 < line < self.scanned else self.vain
        self.vain = (begin + len(data), end + len(data)) if end else (0, 0)
        self.start -= len(data)
        self.data = bytearray(data) + self.data
        self.scanned = self.needed = 0
        self.marks.insert(0, mark)
        self._bound_marks()

    def extend(self, data: bytes | bytearray, marks: list[tuple[int, int]]) -> None:
        self.data += data
        self.marks += marks
        self._bound_marks()

    def _bound_marks(self) -> None:
        if len(self.marks) > 1024:  # hostile dust: times may become later by a neighbour's
            self.marks = [(b[0], max(a[1], b[1])) for a, b in zip(self.marks[::2], self.marks[1::2], strict=False)] + (
                self.marks[-1:] if len(self.marks) % 2 else [])

    def split(self, length: int) -> Run:
        """Keeps the first `length` bytes; the others as a run of their own."""
        border = self.start + length
        marks = [mark for mark in self.marks if mark[0] > border]
        rest = Run(border, self.data[length:], marks, self.since_ns)
        del self.data[length:]
        before = [mark for mark in self.marks if mark[0] <= border]
        if not before or before[-1][0] < border:
            before.append((border, self.marks[len(before)][1]))
        self.marks, self.scanned, self.vain = before, max(0, length - LINE_LIMIT), (0, 0)
        return rest


@dataclass(slots=True, eq=False)
class Half:
    """One direction of a connection."""

    key: StreamKey
    top: int
    """Behind the highest sequence number seen, unwrapped."""
    begun: int | None = None
    """Sequence number of the first byte, if the SYN was seen."""
    anchored: bool = False
    """All below the first stretch in `done` is done too: nothing older is waited for."""
    done: list[tuple[int, int]] = field(default_factory=list)
    """Stretches read or given up, sorted, never touching."""
    runs: list[Run] = field(default_factory=list)
    """Sorted, apart from `done` and from one another."""
    size: int = 0
    """Bytes in `runs`."""
    fin: int | None = None
    hurried: bool = False
    """A gap before what comes next was to be expected."""
    websocket: bool = False
    """It carries WebSocket frames."""
    fragments: bytearray = field(default_factory=bytearray)
    """The message that these have begun."""

    @property
    def held(self) -> int:
        """Bytes that are kept of it."""
        return self.size + len(self.fragments)

    def finish(self, start: int, end: int) -> None:
        """Marks a stretch as done."""
        self.done.append((start, end))
        self.done.sort()
        merged = [self.done[0]]
        for a, b in self.done[1:]:
            if a <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(merged[-1][1], b)
            else:
                merged.append((a, b))
        self.done = merged

    def anchor(self, position: int) -> None:
        """All below `position` is done."""
        self.finish(_BEFORE_ALL, position)
        self.anchored = True

    def follows_done(self, position: int) -> bool:
        return any(end == position for _, end in self.done)

    def insert(self, start: int, payload: bytes, time_ns: int) -> list[Run]:
        """Keeps what is new in a segment; the runs that grew by it."""
        position, end = start, start + len(payload)
        pieces = []
        for a, b in sorted([*self.done, *((run.start, run.end) for run in self.runs)]):
            if b <= position:
                continue
            if a >= end:
                break
            if a > position:
                pieces.append((position, a))
            position = b
        if position < end:
            pieces.append((position, end))
        grown: list[Run] = []
        for a, b in pieces:
            data = payload[a - start:b - start]
            self.size += b - a
            i = bisect_left(self.runs, a, key=lambda run: run.start)
            run = self.runs[i - 1] if i and self.runs[i - 1].end == a else None
            behind = self.runs[i] if i < len(self.runs) and self.runs[i].start == b and not self.runs[i].synced else None
            if run is not None:
                run.extend(data, [(b, time_ns)])
                if behind is not None:
                    run.extend(behind.data, behind.marks)
                    run.since_ns = min(run.since_ns, behind.since_ns)
                    self.runs.remove(behind)
            elif behind is not None:
                run = behind
                run.prepend(data, (b, time_ns))
            else:
                run = Run(a, bytearray(data), [(b, time_ns)], time_ns)
                self.runs.insert(i, run)
            run.synced = run.synced or self.follows_done(run.start)
            if run not in grown:
                grown.append(run)
        return grown
