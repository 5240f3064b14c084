"""TCP reassembly as a bystander does it (RFC 9293), up to whole SIP messages (RFC 3261 section 18.3).

Bytes are taken once, whoever brings them first. A connection need not have been seen from its beginning, nor its
segments in order: what came is kept as *runs* of consecutive bytes, and a run whose beginning is known to be a
message's is read from there. In a run of which that is not known, a line that begins like SIP is looked for. A connection
that begins with an HTTP upgrade carries its messages in WebSocket frames (RFC 7118).
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.sip import looks_like_sip
from rokuon.sniffer.sip_framing import LINE_LIMIT, Frame, Verdict, find_start, next_frame, undecided
from rokuon.sniffer.tcp_runs import MAX_PIECES, Half, Run, StreamKey
from rokuon.sniffer.websocket import HEAD_LIMIT, Opening, next_websocket_frame, opening

__all__ = ["ACK", "FIN", "RST", "SYN", "StreamMessage", "TcpReassembler"]

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

StreamMessage = tuple[int, Endpoint, Endpoint, int, bytes]
"""Time (ns) of the segment that completed it, source, destination, encap, and the message's bytes."""

_HURRIED_NS = 100_000_000


class TcpReassembler:
    """Segments in, SIP messages out. Nothing is raised; what is odd is counted in `anomalies`.

    At most `connection_limit` directions are held, the one longest silent goes first; at most `size_limit` unread bytes
    a direction and `total_limit` together; messages up to `message_limit` bytes (a real client sends 65,793). A gap that
    nobody fills for `gap_ns` of packet time, or before `size_limit` is reached, is skipped.
    """

    def __init__(self, connection_limit: int = 8_192, size_limit: int = 256 * 1024, message_limit: int = 96 * 1024,
                 total_limit: int = 32 * 1024 * 1024, gap_ns: int = 5_000_000_000) -> None:
        self.anomalies: Counter[str] = Counter()
        self.hurried = False
        """Of what comes now parts were left out: gaps are waited for no longer than packets take to overtake one another."""
        self._halves: OrderedDict[StreamKey, Half] = OrderedDict()
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
        before = half.held
        if start <= half.top:
            half.hurried = self.hurried
        if payload:
            half.top = max(half.top, start + len(payload))
            for run in half.insert(start, payload, time_ns):
                if run in half.runs:
                    self._read(half, run)
            self._bound(half, time_ns)
        if flags & (FIN | RST):
            half.fin = start + len(payload)
        if half.fin is not None and len(half.runs) == 1 and half.runs[0].synced and half.runs[0].end == half.fin:
            self._give_up(half, half.runs[0].end)
        self._total += half.held - before
        while self._total > self._total_limit and self._halves:
            self._evict()
        return self._emit()

    def expire(self, time_ns: int) -> list[StreamMessage]:
        """Skips the gaps that are older than `gap_ns` at packet time `time_ns`; the messages behind them."""
        for half in list(self._halves.values()):
            if half.runs:
                before = half.held
                self._bound(half, time_ns)
                self._total += half.held - before
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

    def _open(self, key: StreamKey, sequence: int) -> Half:
        if key not in self._halves and len(self._halves) >= self._connection_limit:
            self._evict()
        half = self._halves[key] = Half(key, sequence + (1 << 32))
        return half

    def _evict(self) -> None:
        half = next(iter(self._halves.values()))
        if half.held:
            self.anomalies["tcp-evicted"] += 1
        self._close(half)

    def _close(self, half: Half) -> None:
        """Forgets a direction, giving out what can be read of it."""
        self._total -= half.held
        while (behind := next((run for run in half.runs if not run.synced), None)) is not None:
            self._skip(half, behind)
            if behind in half.runs and not behind.synced:
                self._give_up(half, behind.end)
        self._give_up(half, half.top)
        self._halves.pop(half.key, None)

    def _syn(self, half: Half, start: int, sequence: int) -> tuple[Half, int]:
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
            before = half.held
            self._read(half, half.runs[0])
            self._total += half.held - before
        return half, start

    # -- messages ------------------------------------------------------------
    def _read(self, half: Half, run: Run) -> None:
        """Gives out the messages that are whole in `run`, and in those that follow on it."""
        while (synced := self._sync(half, run)) is not None:
            run = synced
            frame, message = self._next(half, run)
            following = next((other for other in half.runs if other.start == run.end), None)
            if frame.verdict is Verdict.MESSAGE:
                if frame.length_missing:
                    self.anomalies["tcp-no-content-length"] += 1
                if message:
                    self._out.append((run.time(run.start + frame.end), *half.key, message))
                self._drop(half, run, frame.end)
            elif frame.verdict is Verdict.MORE:
                end = run.end
                self._drop(half, run, frame.begin)
                run.scanned, run.needed = frame.end - frame.begin, max(0, frame.needed - frame.begin)
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
                garbage = frame.verdict is Verdict.GARBAGE
                self._drop(half, run, frame.begin if garbage else max(frame.end, frame.begin + 1))
                run.scanned = 1 if garbage else 0  # what stands there is not tried a second time
            if not run.data:
                if following is None:
                    return
                following.synced = True
                run = following

    def _next(self, half: Half, run: Run) -> tuple[Frame, bytes]:
        """What stands at the beginning of a run, and the message's bytes, if it is one (b"": a frame that carries no SIP)."""
        if len(run.data) < run.needed:
            return Frame(Verdict.MORE, 0, run.scanned, run.needed), b""
        if not half.websocket:
            frame = next_frame(run.data, run.scanned, self._message_limit)
            if frame.verdict is Verdict.MESSAGE:
                return frame, bytes(run.data[frame.begin:frame.end])
            begin = frame.begin
            if frame.verdict is Verdict.GARBAGE and run.data[begin:begin + 1] in b"GH":
                found, end = opening(run.data[begin:begin + HEAD_LIMIT] if begin else run.data)
                if found is Opening.MAYBE:
                    return Frame(Verdict.MORE, begin, begin), b""
                if found is Opening.WEBSOCKET:
                    half.websocket = True
                    return Frame(Verdict.MESSAGE, 0, begin + end), b""
            return frame, b""
        packed = next_websocket_frame(run.data, self._message_limit)
        if packed.end < 0:
            return Frame(Verdict.GARBAGE, 0, 0), b""
        if packed.end == 0:
            return Frame(Verdict.MORE, 0, 0, packed.needed), b""
        message = b""
        if packed.compressed:
            self.anomalies["websocket-compressed"] += 1
        elif packed.data:
            if packed.first:
                half.fragments.clear()
            half.fragments += packed.payload
            if len(half.fragments) > self._message_limit:
                self.anomalies["tcp-long-message"] += 1
                half.fragments.clear()
            if packed.final:
                message = bytes(half.fragments)
                half.fragments.clear()
        return Frame(Verdict.MESSAGE, 0, packed.end), message if looks_like_sip(message) else b""

    def _start(self, half: Half, run: Run) -> int:
        """Where in a run a message begins beyond doubt; -1: not known."""
        if half.websocket:  # frames have no marks: only one that begins the run is found again
            packed = next_websocket_frame(run.data, self._message_limit)
            return 0 if packed.end > 0 and packed.first and looks_like_sip(packed.payload) else -1
        at = find_start(run.data, run.scanned, run.vain)
        return 0 if at and not run.lost and opening(run.data)[0] is Opening.WEBSOCKET else at

    def _sync(self, half: Half, run: Run) -> Run | None:
        """The run at, or split off, where in `run` a message begins; None: not known, or what goes before it may yet come."""
        if run.synced:
            return run
        if not run.lost and (half.runs[0] is not run or (half.done and half.done[0][0] < run.start)):
            return None
        at = self._start(half, run)
        if at < 0:
            spare = len(run.data) - LINE_LIMIT
            if run.lost and spare > LINE_LIMIT:
                self._drop(half, run, spare)
            run.scanned = undecided(run.data)
            return None
        if at and run.lost:
            self._drop(half, run, at)
        elif at:
            rest = run.split(at)
            half.runs.insert(half.runs.index(run) + 1, rest)
            run = rest
        run.synced, run.lost = True, False
        return run

    @staticmethod
    def _drop(half: Half, run: Run, length: int) -> None:
        """Marks the first bytes of a run as done."""
        if length:
            half.finish(run.start, run.start + length)
            half.size -= length
            run.cut(length)
            if not run.data:
                half.runs.remove(run)

    def _give_up_run(self, half: Half, run: Run) -> None:
        """Ends a run: a message of which all header fields came is given out with the body there is."""
        if run.synced:
            self.anomalies["tcp-incomplete-message"] += 1
            whole = b"\n\r\n" in run.data.replace(b"\n\n", b"\n\r\n")
            if whole and not half.websocket and looks_like_sip(bytes(run.data[:LINE_LIMIT])):
                self._out.append((run.time(run.end), *half.key, bytes(run.data)))
        self._drop(half, run, len(run.data))

    def _give_up(self, half: Half, below: int) -> None:
        """Waits no longer for what is missing below a sequence number."""
        for run in [run for run in half.runs if run.start < below]:
            self._give_up_run(half, run)
        half.anchor(below)

    def _skip(self, half: Half, run: Run) -> None:
        """Goes on with `run` without what is missing before it."""
        mid_stream = half.runs[0] is run and not half.done
        self.anomalies["tcp-mid-stream" if mid_stream else "tcp-gap"] += 1
        self._give_up(half, run.start)
        run.lost = True
        self._read(half, run)
        if run in half.runs and not run.synced and (any(other.start == run.end for other in half.runs)
                                                    or any(a == run.end for a, _ in half.done)):
            self._give_up(half, run.end)

    def _bound(self, half: Half, time_ns: int) -> None:
        """Skips gaps that are too old or keep too much waiting."""
        patience = min(self._gap_ns, _HURRIED_NS) if half.hurried else self._gap_ns
        while half.runs:
            waiting = next((run for run in half.runs if not run.synced and not run.lost), None)
            over = half.size > self._size_limit or len(half.runs) > MAX_PIECES
            if waiting is not None and (over or time_ns - waiting.since_ns >= patience):
                self._skip(half, waiting)
            elif over:
                self._give_up(half, half.runs[0].end)
            else:
                break
        if len(half.done) > MAX_PIECES:
            self.anomalies["tcp-too-many-pieces"] += 1
            self._give_up(half, half.done[1][1])
