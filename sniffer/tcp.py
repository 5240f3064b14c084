"""TCP reassembly as a bystander does it (RFC 9293), up to whole SIP messages (RFC 3261 section 18.3).

Bytes are taken once, whoever brings them first. A connection need not have been seen from its beginning, nor its
segments in order: what came is kept as *runs* of consecutive bytes, and a run whose beginning is known to be a
message's is read from there. In a run of which that is not known, a line that begins like SIP is looked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.sip_framing import LINE_LIMIT, Verdict, find_start, next_frame

__all__ = ["ACK", "FIN", "RST", "SYN", "StreamMessage", "TcpReassembler"]

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

StreamMessage = tuple[int, Endpoint, Endpoint, int, bytes]
"""Time (ns) of the segment that completed it, source, destination, encap, and the message's bytes."""

_Key = tuple[Endpoint, Endpoint, int]
_BEFORE_ALL = -(1 << 62)
_MAX_PIECES = 64  # runs, and stretches read, that are kept apart in one direction of a connection


@dataclass(slots=True, eq=False)
class _Run:
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
        self.scanned = 0
        i = 0
        while i < len(self.marks) and self.marks[i][0] <= self.start:
            i += 1
        del self.marks[:i]

    def extend(self, data: bytes | bytearray, marks: list[tuple[int, int]]) -> None:
        self.data += data
        self.marks += marks
        if len(self.marks) > 1024:  # hostile dust: times may become later by a neighbour's
            self.marks = [(b[0], max(a[1], b[1])) for a, b in zip(self.marks[::2], self.marks[1::2], strict=False)] + (
                self.marks[-1:] if len(self.marks) % 2 else [])

    def split(self, length: int) -> _Run:
        """Keeps the first `length` bytes; the others as a run of their own."""
        border = self.start + length
        marks = [mark for mark in self.marks if mark[0] > border]
        rest = _Run(border, self.data[length:], marks, self.since_ns)
        del self.data[length:]
        before = [mark for mark in self.marks if mark[0] <= border]
        if not before or before[-1][0] < border:
            before.append((border, self.marks[len(before)][1]))
        self.marks, self.scanned = before, max(0, length - LINE_LIMIT)
        return rest


@dataclass(slots=True, eq=False)
class _Half:
    """One direction of a connection."""

    key: _Key
    top: int
    """Behind the highest sequence number seen, unwrapped."""
    begun: int | None = None
    """Sequence number of the first byte, if the SYN was seen."""
    anchored: bool = False
    """All below the first stretch in `done` is done too: nothing older is waited for."""
    done: list[tuple[int, int]] = field(default_factory=list)
    """Stretches read or given up, sorted, never touching."""
    runs: list[_Run] = field(default_factory=list)
    """Sorted, apart from `done` and from one another."""
    size: int = 0
    """Bytes in `runs`."""
    fin: int | None = None

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


class TcpReassembler:
    """Segments in, SIP messages out. Nothing is raised; what is odd is counted in `anomalies`.

    At most `connection_limit` directions are held, the one longest silent goes first; at most `size_limit` unread bytes
    a direction and `total_limit` together; messages up to `message_limit` bytes (a real client sends 65,793). A gap that
    nobody fills for `gap_ns` of packet time, or before `size_limit` is reached, is skipped.
    """

    def __init__(self, connection_limit: int = 8_192, size_limit: int = 256 * 1024, message_limit: int = 96 * 1024,
                 total_limit: int = 32 * 1024 * 1024, gap_ns: int = 5_000_000_000) -> None:
        self.anomalies: Counter[str] = Counter()
        self._halves: OrderedDict[_Key, _Half] = OrderedDict()
        self._connection_limit = connection_limit
        self._size_limit = size_limit
        self._message_limit = min(message_limit, size_limit // 2)
        self._total_limit = total_limit
        self._gap_ns = gap_ns
        self._total = 0
        self._out: list[StreamMessage] = []

    def __len__(self) -> int:
        """Directions of connections held."""
        return len(self._halves)

    def receive(self, time_ns: int, src: Endpoint, dst: Endpoint, encap: int, sequence: int, flags: int,
                payload: bytes) -> list[StreamMessage]:
        """The messages that this segment completes, in the order of the stream.

        `sequence`: as in the header, 32 bits. `flags`: the header's low byte (`FIN`, `SYN`, `RST` matter). `payload`: what
        was captured of it. A FIN or RST behind which nothing is missing also gives a message whose body was cut short.
        """
        key = (src, dst, encap)
        half = self._halves.get(key)
        if half is not None:
            self._halves.move_to_end(key)
        elif not payload and not flags & SYN:
            return []
        if flags & SYN:
            sequence = sequence + 1 & 0xFFFFFFFF
        if half is None:
            half = self._open(key, sequence)
        start = half.top + ((sequence - half.top + 0x80000000 & 0xFFFFFFFF) - 0x80000000)
        if flags & SYN:
            half, start = self._syn(half, start, sequence)
        if abs(start - half.top) > self._size_limit:
            if find_start(bytearray(payload[:LINE_LIMIT]), 0) != 0:
                if payload:
                    self.anomalies["tcp-out-of-window"] += 1
                return self._emit()
            self._close(half)  # the port is used again and the SYN was missed
            half = self._open(key, sequence)
            start = half.top
        before = half.size
        if payload:
            half.top = max(half.top, start + len(payload))
            for run in self._insert(half, start, payload, time_ns):
                if run in half.runs:
                    self._read(half, run)
            self._bound(half, time_ns)
        if flags & (FIN | RST):
            half.fin = start + len(payload)
        if half.fin is not None and len(half.runs) == 1 and half.runs[0].synced and half.runs[0].end == half.fin:
            self._give_up(half, half.runs[0].end)
        self._total += half.size - before
        while self._total > self._total_limit and self._halves:
            self._evict()
        return self._emit()

    def expire(self, time_ns: int) -> list[StreamMessage]:
        """Skips the gaps that are older than `gap_ns` at packet time `time_ns`; the messages behind them."""
        for half in list(self._halves.values()):
            if half.runs:
                before = half.size
                self._bound(half, time_ns)
                self._total += half.size - before
        return self._emit()

    def flush(self) -> list[StreamMessage]:
        """Ends all connections; what can be said of messages that are not whole."""
        for half in list(self._halves.values()):
            self._close(half)
        return self._emit()

    # -- connections ---------------------------------------------------------
    def _emit(self) -> list[StreamMessage]:
        out, self._out = self._out, []
        return out

    def _open(self, key: _Key, sequence: int) -> _Half:
        if key not in self._halves and len(self._halves) >= self._connection_limit:
            self._evict()
        half = self._halves[key] = _Half(key, sequence + (1 << 32))
        return half

    def _evict(self) -> None:
        half = next(iter(self._halves.values()))
        if half.size:
            self.anomalies["tcp-evicted"] += 1
        self._close(half)

    def _close(self, half: _Half) -> None:
        """Forgets a direction, giving out what can be read of it."""
        self._total -= half.size
        while (behind := next((run for run in half.runs if not run.synced), None)) is not None:
            self._skip(half, behind)
            if behind in half.runs and not behind.synced:
                self._give_up(half, behind.end)
        self._give_up(half, half.top)
        self._halves.pop(half.key, None)

    def _syn(self, half: _Half, start: int, sequence: int) -> tuple[_Half, int]:
        """The half a SYN belongs to, and its first byte's number: this one if the SYN came late or again, else a new one."""
        if half.begun == start:
            return half, start
        oldest = min([*(a for a, _ in half.done), *(run.start for run in half.runs)], default=start)
        if half.begun is not None or not 0 <= oldest - start <= self._size_limit:
            self._close(half)
            half = self._open(half.key, sequence)
            start = half.top
        half.begun = start
        half.anchor(start)
        for run in half.runs:
            run.synced = run.synced or run.start == start
        if half.runs and half.runs[0].synced:
            before = half.size
            self._read(half, half.runs[0])
            self._total += half.size - before
        return half, start

    # -- bytes ---------------------------------------------------------------
    @staticmethod
    def _insert(half: _Half, start: int, payload: bytes, time_ns: int) -> list[_Run]:
        """Keeps what is new in a segment; the runs that grew by it."""
        position, end = start, start + len(payload)
        pieces = []
        for a, b in sorted([*half.done, *((run.start, run.end) for run in half.runs)]):
            if b <= position:
                continue
            if a >= end:
                break
            if a > position:
                pieces.append((position, a))
            position = b
        if position < end:
            pieces.append((position, end))
        grown: list[_Run] = []
        for a, b in pieces:
            data = payload[a - start:b - start]
            half.size += b - a
            i = bisect_left(half.runs, a, key=lambda run: run.start)
            run = half.runs[i - 1] if i and half.runs[i - 1].end == a else None
            behind = half.runs[i] if i < len(half.runs) and half.runs[i].start == b and not half.runs[i].synced else None
            if run is not None:
                run.extend(data, [(b, time_ns)])
                if behind is not None:
                    run.extend(behind.data, behind.marks)
                    run.since_ns = min(run.since_ns, behind.since_ns)
                    half.runs.remove(behind)
            elif behind is not None:
                run = behind
                run.start, run.data, run.scanned = a, bytearray(data) + run.data, 0
                run.marks.insert(0, (b, time_ns))
            else:
                run = _Run(a, bytearray(data), [(b, time_ns)], time_ns)
                half.runs.insert(i, run)
            run.synced = run.synced or half.follows_done(run.start)
            if run not in grown:
                grown.append(run)
        return grown

    # -- messages ------------------------------------------------------------
    def _read(self, half: _Half, run: _Run) -> None:
        """Gives out the messages that are whole in `run`, and in those that follow on it."""
        while (synced := self._sync(half, run)) is not None:
            run = synced
            frame = next_frame(run.data, 0, run.scanned, self._message_limit)
            following = next((other for other in half.runs if other.start == run.end), None)
            if frame.verdict is Verdict.MESSAGE:
                if frame.length_missing:
                    self.anomalies["tcp-no-content-length"] += 1
                self._out.append((run.time(run.start + frame.end), *half.key, bytes(run.data[frame.begin:frame.end])))
                self._drop(half, run, frame.end)
            elif frame.verdict is Verdict.MORE:
                run.scanned = frame.end - frame.begin
                scanned, end = run.scanned, run.end
                self._drop(half, run, frame.begin)
                run.scanned = scanned
                if following is not None and run.data:  # a line in the message's body was taken for a beginning
                    half.runs.remove(following)
                    run.extend(following.data, following.marks)
                    continue
                if run.data:
                    if any(a == end for a, _ in half.done):
                        self._give_up_run(half, run)
                    return
            else:
                self.anomalies["tcp-resync" if frame.verdict is Verdict.GARBAGE else "tcp-long-message"] += 1
                run.synced, run.lost = False, True
                self._drop(half, run, frame.begin if frame.verdict is Verdict.GARBAGE else max(frame.end, frame.begin + 1))
            if not run.data:
                if following is None:
                    return
                following.synced = True
                run = following

    @staticmethod
    def _sync(half: _Half, run: _Run) -> _Run | None:
        """The run at, or split off, where in `run` a message begins; None: not known, or what goes before it may yet come."""
        if run.synced:
            return run
        if not run.lost and (half.runs[0] is not run or (half.done and half.done[0][0] < run.start)):
            return None
        at = find_start(run.data, run.scanned)
        if at < 0:
            spare = len(run.data) - LINE_LIMIT
            if run.lost and spare > LINE_LIMIT:
                TcpReassembler._drop(half, run, spare)
            run.scanned = max(0, len(run.data) - LINE_LIMIT)
            return None
        if at and run.lost:
            TcpReassembler._drop(half, run, at)
        elif at:
            rest = run.split(at)
            half.runs.insert(half.runs.index(run) + 1, rest)
            run = rest
        run.synced, run.lost = True, False
        return run

    @staticmethod
    def _drop(half: _Half, run: _Run, length: int) -> None:
        """Marks the first bytes of a run as done."""
        if length:
            half.finish(run.start, run.start + length)
            half.size -= length
            run.cut(length)
            if not run.data:
                half.runs.remove(run)

    def _give_up_run(self, half: _Half, run: _Run) -> None:
        """Ends a run: a message of which all header fields came is given out with the body there is."""
        if run.synced:
            self.anomalies["tcp-incomplete-message"] += 1
            if b"\n\r\n" in run.data or b"\n\n" in run.data:
                self._out.append((run.time(run.end), *half.key, bytes(run.data)))
        self._drop(half, run, len(run.data))

    def _give_up(self, half: _Half, below: int) -> None:
        """Waits no longer for what is missing below a sequence number."""
        for run in [run for run in half.runs if run.start < below]:
            self._give_up_run(half, run)
        half.anchor(below)

    def _skip(self, half: _Half, run: _Run) -> None:
        """Goes on with `run` without what is missing before it."""
        mid_stream = half.runs[0] is run and not half.done
        self.anomalies["tcp-mid-stream" if mid_stream else "tcp-gap"] += 1
        self._give_up(half, run.start)
        run.lost = True
        self._read(half, run)
        if run in half.runs and not run.synced and (any(other.start == run.end for other in half.runs)
                                                    or any(a == run.end for a, _ in half.done)):
            self._give_up(half, run.end)

    def _bound(self, half: _Half, time_ns: int) -> None:
        """Skips gaps that are too old or keep too much waiting."""
        while half.runs:
            waiting = next((run for run in half.runs if not run.synced and not run.lost), None)
            over = half.size > self._size_limit or len(half.runs) > _MAX_PIECES
            if waiting is not None and (over or time_ns - waiting.since_ns >= self._gap_ns):
                self._skip(half, waiting)
            elif over:
                self._give_up(half, half.runs[0].end)
            else:
                break
        if len(half.done) > _MAX_PIECES:
            self._give_up(half, half.done[1][1])
