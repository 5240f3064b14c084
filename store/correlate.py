"""The correlate stage: what a run holds becomes calls, and calls get the spans of streams that are theirs.

Everything happens at packet times that the packets themselves set, in order of time, so that it makes no difference how the
capture was cut into runs.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass, replace
from itertools import count

from rokuon.sniffer.binding import Binder, Span, Stream
from rokuon.sniffer.call import CallClosed, CallTracker, ClaimAdded, Event
from rokuon.sniffer.careful import text_of
from rokuon.sniffer.classify import Kind
from rokuon.sniffer.model import Call
from rokuon.sniffer.packet import Endpoint
from rokuon.store.frames import CallFrames
from rokuon.store.loose import Loose
from rokuon.store.marks import Marks
from rokuon.store.runs import Run
from rokuon.store.signalling import Encapsulations, Frame, Received, Signalling

__all__ = ["NEVER", "Correlator", "Ended", "Piece"]

NEVER = (1 << 63) - 1
_S = 1_000_000_000
_LISTENED = frozenset((Kind.SIP, Kind.TCP, Kind.FRAGMENT))
_MOST_GAPS = 1000
_BEFORE = -(1 << 62)
"""The number of whatever call had part of a stream before the correlator was started."""


@dataclass(slots=True)
class Ended:
    """A call that is over, with the spans of streams that are its own."""

    call: Call
    spans: list[Span]
    frames: list[Frame]
    """Its signalling as captured."""
    pieced: bool = False
    """Pieces of it were given out before."""


@dataclass(slots=True)
class Piece:
    """Part of a call that goes on: its spans up to a time, so that a long call need not be held whole."""

    call: Call
    spans: list[Span]
    until_ns: int
    pieced: bool = False


class Correlator:
    """Runs in, ended calls out. Holds no voice; `keep_from` says what of the spool is still needed."""

    def __init__(self, *, linger_ns: int = _S, window_ns: int = 30 * _S, lead_ns: int = 5 * _S, idle_ns: int = 600 * _S,
                 piece_ns: int = 600 * _S, rtp_only: bool = True, max_loose: int = 4096, recover_ns: int = 0) -> None:
        """`recover_ns`: so much of what was given out as pieces stays in the spool, in case the files in the making are lost."""
        self.encapsulations = Encapsulations()
        self.signalling = Signalling(self.encapsulations)
        self.tracker = CallTracker(linger_ns=linger_ns, idle_ns=idle_ns)
        self.binder = Binder(linger_ns, lead_ns)
        self.counts: Counter[str] = Counter()
        self.now_ns = 0
        self._window, self._piece, self._rtp_only, self._max_loose = window_ns, piece_ns, rtp_only, max_loose
        self._linger = linger_ns
        self._look = max(idle_ns // 10, 1)
        self._streams: dict[int, Stream] = {}
        self._last_ns = Marks(0)
        self.keep_from = Marks(NEVER)
        """By stream number: the time from which on its packets in the spool are needed; NEVER: none are."""
        self.packets = Marks(0)
        """By stream number: how many there were so far."""
        self.gaps: deque[tuple[int, int]] = deque(maxlen=_MOST_GAPS)
        """Times between which nothing was captured, for want of a capture."""
        self.drops: deque[tuple[int, int]] = deque(maxlen=_MOST_GAPS)
        """When packets were lost before they got here, and how many."""
        self.taken: dict[int, int] = {}
        """Of streams to come, by number: up to when they were given to calls before this correlator was started."""
        self.forgotten: list[int] = []
        """Streams that are needed no more, since whoever reads this last emptied it."""
        self._timers: list[tuple[int, int, str, int]] = []
        self._order = count()
        self._loose: dict[frozenset[Endpoint | int], Loose] = {}
        self._loose_of: dict[int, frozenset[Endpoint | int]] = {}
        self._frames = CallFrames()
        self._recover = recover_ns
        self._out: list[Ended | Piece] = []
        self._dozing: set[int] = set()  # streams that are over, while a call that goes on names their addresses
        self._fed: dict[int, int] = {}  # up to when pieces of a call were given out, by its number
        self._loose_numbers = count(-1, -1)
        self._loose_begun = 0

    # -- in ------------------------------------------------------------------
    def process(self, run: Run) -> list[Ended | Piece]:
        """What a run, which is in the spool, brings to an end. Its packets are handled in order of capture."""
        self._note_streams(run)
        if run.gap_ns:
            self.note_gap(run.gap_ns, run.first_ns)
        if run.step_ns > 0:  # no time has passed: what goes on is not idle
            for call in self.tracker.live.values():
                self.tracker.media_seen(call, run.first_ns)
        if run.dropped:
            self.drops.append((run.last_ns, run.dropped))
            self.counts["packets-dropped"] += run.dropped
        if len(run.packets):
            data = run.packet_bytes.tobytes()
            for time_ns, offset, captured, wire, link_type, kind, _ in run.packets.tolist():
                if kind not in _LISTENED:
                    continue
                self._advance(time_ns)
                for received in self.signalling.receive(Frame(time_ns, link_type, wire, data[offset:offset + captured])):
                    self._receive(received)
        if run.last_ns:
            self._advance(run.last_ns)
        return self._taken()

    def note_gap(self, since_ns: int, until_ns: int) -> None:
        """Nothing was captured between two times, for want of a capture."""
        if self.gaps and self.gaps[-1][0] == since_ns:
            self.gaps[-1] = (since_ns, max(until_ns, self.gaps[-1][1]))
        elif until_ns > since_ns:
            self.gaps.append((since_ns, until_ns))
            self._at(until_ns + self._window, "gap", 0)

    def advance(self, now_ns: int) -> list[Ended | Piece]:
        """No packet came up to `now_ns`: what ends by the lapse of time. A time that is past changes nothing."""
        self._advance(now_ns)
        return self._taken()

    def finish(self, reason: str = "capture-stopped") -> list[Ended | Piece]:
        """The capture is over: everything that is open ends."""
        for received in self.signalling.finish():
            self._receive(received)
        for call in list(self.tracker.live.values()):
            self._note_media(call)
        self._events(self.tracker.close_all(self.now_ns, reason))
        for number in sorted(self._streams):
            self._judge(number, final=True)
        for key in sorted(self._loose, key=lambda k: self._loose[k].number, reverse=True):
            self._close_loose(key)
        return self._taken()

    def _taken(self) -> list[Ended | Piece]:
        out, self._out = self._out, []
        return out

    def _note_streams(self, run: Run) -> None:
        for row in run.fresh:
            number = int(row["number"])
            size = 16 if row["v6"] else 4
            tags = tuple(row["tags"][:row["tag_count"]].tolist())
            stream = Stream(number, Endpoint(text_of(row["source"][:size].tobytes()), int(row["source_port"])),
                            Endpoint(text_of(row["destination"][:size].tobytes()), int(row["destination_port"])),
                            self.encapsulations.number(tags), int(row["ssrc"]), int(row["first_ns"]))
            if number in self._streams:
                continue
            if number in self.taken:
                stream.taken.append((stream.first_ns, self.taken.pop(number), _BEFORE))
            self.keep_from[number] = 0
            self._streams[number] = stream
            self.binder.add(stream)
            self._at(stream.first_ns + self._window, "judge", number)
        if len(run.streams):
            self._last_ns.raise_to(run.streams, run.last)
            if self._recover:
                self.packets.raise_to(run.streams, self.packets.of(run.streams) + (run.starts[1:] - run.starts[:-1]))

    # -- time ----------------------------------------------------------------
    def _at(self, time_ns: int, what: str, number: int) -> None:
        heapq.heappush(self._timers, (time_ns, next(self._order), what, number))

    def _advance(self, now_ns: int) -> None:
        """Fires what is due, in order of time; time never goes back, though packets may."""
        if now_ns <= self.now_ns:
            return
        while True:
            theirs, ours = self.tracker.next_timer_ns(), self._timers[0][0] if self._timers else None
            if theirs is not None and theirs <= now_ns and (ours is None or theirs <= ours):
                self.now_ns = max(self.now_ns, theirs)
                self._events(self.tracker.expire(theirs))
            elif ours is not None and ours <= now_ns:
                at, _, what, number = heapq.heappop(self._timers)
                self.now_ns = max(self.now_ns, at)
                if what == "judge":
                    self._judge(number)
                elif what == "media":
                    self._look_for_media(number)
                elif what == "gap":
                    self._after_gap()
                elif what == "piece" and number < 0:
                    self._feed_loose(number)
                elif what == "piece":
                    self._feed(number)
            else:
                break
        self.now_ns = now_ns
        for received in self.signalling.expire(now_ns):
            self._receive(received)

    def _look_for_media(self, number: int) -> None:
        """A call with media is not idle: looked at now and then, well within the time after which it would be."""
        call = self.tracker.live.get(number)
        if call is not None:
            self._note_media(call)
            self._at(self.now_ns + self._look, "media", number)

    def _note_media(self, call: Call) -> None:
        there = (s for s in self.binder.streams_of(call) if s.first_ns <= self.now_ns)  # a run tells of what is still to come
        last = max((self.binder.last_of(call, s, self._last_ns[s.number], self.now_ns) for s in there), default=0)
        if last > 0:
            self.tracker.media_seen(call, last)

    def _after_gap(self) -> None:
        """Capture is back for a while: calls of which nothing was heard since are over."""
        since, until = self.gaps[-1]
        for call in list(self.tracker.live.values()):
            self._note_media(call)
            if call.last_ns <= since and call.start_ns < until:
                self._events(self.tracker.end(call, self.now_ns, "recovered"))

    # -- calls ---------------------------------------------------------------
    def _receive(self, received: Received) -> None:
        message = received.message
        if message.method in ("INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO", "REFER", "NOTIFY"):
            self._frames.keep(message.call_id, received.frames)
        self._events(self.tracker.receive(received.time_ns, received.src, received.dst, received.encap, received.transport,
                                          message))

    def open_frames(self) -> list[Frame]:
        """The signalling of all calls in progress, as captured."""
        return self._frames.of(self.tracker.live.values(), self.now_ns - self._window)

    def trim(self) -> None:
        """Takes back the room of streams that are over."""
        lowest = min(self._streams, default=None)
        if lowest is not None:
            self._last_ns.trim(lowest)
            self.packets.trim(lowest)
            self.keep_from.trim(lowest)

    @property
    def begun(self) -> int:
        """Calls that ever began, with signalling or without."""
        return self.tracker.begun + self._loose_begun

    @property
    def open(self) -> int:
        """Those that are in progress."""
        return len(self.tracker.live) + len(self._loose)

    @property
    def stream_count(self) -> int:
        """Streams that are not done with."""
        return len(self._streams)

    def _events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, ClaimAdded):
                if not event.call.claims or event.claim is event.call.claims[0]:
                    self._at(event.call.start_ns + self._piece, "piece", event.call.number)
                    self._at(event.call.start_ns + self._look, "media", event.call.number)
                self.binder.claim(event.call, event.claim)
                for stream in self.binder.streams_of(event.call):
                    self._adopt(stream)
            elif isinstance(event, CallClosed):
                self._close(event.call)

    def _feed(self, number: int) -> None:
        """A long call: what lies far enough back is given to its file, and the spool may let it go."""
        call = self.tracker.live.get(number)
        if call is None:
            return
        self._at(self.now_ns + self._piece, "piece", number)
        if call.answer_ns is None:
            return
        until = self.now_ns - 5 * _S
        spans = self._new_part(call, self._bind(call, until))
        pieced = number in self._fed
        self._fed[number] = until
        if spans:
            self._out.append(Piece(call, spans, until, pieced))
            for stream in {s.stream.number: s.stream for s in spans}.values():
                self._keep_until(stream, until - self._recover)
        # Media that pauses for long is another stream each time: one that is over and given out need not be carried along.
        for stream in self.binder.streams_of(call):
            over = self._last_ns[stream.number] + self._window
            if over <= until - self._recover and self.binder.is_only(stream, call):
                self._forget(stream)

    def _keep_until(self, stream: Stream, time_ns: int) -> None:
        """What came before this time is needed no more."""
        self.keep_from[stream.number] = max(self.keep_from[stream.number], time_ns)

    def _bind(self, call: Call, until_ns: int) -> list[Span]:
        for stream in self.binder.streams_of(call):
            stream.last_ns = self._last_ns[stream.number]
        return self.binder.bind(call, until_ns)

    def _new_part(self, call: Call, spans: list[Span]) -> list[Span]:
        """What of the spans was not given out as a piece before."""
        fed = self._fed.get(call.number, 0)
        return [replace(s, since_ns=max(s.since_ns, fed)) for s in spans if s.until_ns > fed] if fed else spans

    def _close(self, call: Call) -> None:
        end = call.end_ns if call.end_ns is not None else call.last_ns
        spans = self._bind(call, max(end, self.now_ns) + self._linger)
        self._out.append(Ended(call, self._new_part(call, spans), self._frames.take(call), call.number in self._fed))
        self._fed.pop(call.number, None)
        for number in sorted(self._dozing.intersection(s.number for s in self.binder.streams_of(call))):
            self._dozing.discard(number)
            self._at(self.now_ns + self._window, "judge", number)
        self.binder.end(call)
        for stream in {s.stream.number: s.stream for s in spans}.values():
            last = max(t[1] for t in stream.taken)
            self._keep_until(stream, last)

    # -- streams that nobody claims ------------------------------------------
    def _adopt(self, stream: Stream) -> None:
        key = self._loose_of.get(stream.number)
        if key is None:
            return
        loose = self._loose[key]
        if loose.call is not None:  # part of it is in a file already: that call ends here, and what comes is the other's
            self._give_up_loose(key)
            return
        del self._loose_of[stream.number]
        loose.streams.remove(stream)
        if not loose.streams:
            del self._loose[key]
            self._loose_begun -= 1  # it was the call's that signalling knows

    def _give_up_loose(self, key: frozenset[Endpoint | int]) -> None:
        loose = self._loose.pop(key)
        assert loose.call is not None
        spans = loose.spans(loose.call, self.now_ns, self._last_ns)
        for stream in loose.streams:
            del self._loose_of[stream.number]
            stream.taken.append((stream.first_ns, self.now_ns, loose.number))
        loose.call.end_ns = loose.call.last_ns = self.now_ns
        self._out.append(Ended(loose.call, spans, [], pieced=True))

    def _forget(self, stream: Stream) -> None:
        self.binder.forget(stream)
        self._dozing.discard(stream.number)
        del self._streams[stream.number]
        self.keep_from[stream.number] = NEVER
        self.forgotten.append(stream.number)

    def _judge(self, number: int, final: bool = False) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        last = self._last_ns[number]
        if not final and self.binder.is_claimed(stream):
            if last + self._window <= self.now_ns:
                self._dozing.add(number)
            else:
                self._at(self.now_ns + self._window, "judge", number)
            return
        if number in self._loose_of:
            key = self._loose_of[number]
            newest = self._newest(stream)
            if final or newest + self._window <= self.now_ns:
                self._close_loose(key)
            else:
                self._at(newest + self._window, "judge", number)
        elif stream.taken:
            end = max(t[1] for t in stream.taken)
            if last > end:
                self.counts["rtp-after-call"] += 1
            if final or last + self._window <= self.now_ns:
                self._forget(stream)
            else:
                self._let_go(stream)
                self._at(last + self._window, "judge", number)
        elif not self._rtp_only or (len(self._loose) >= self._max_loose and self._place(stream) not in self._loose):
            if final or last + self._window <= self.now_ns:
                self.counts["unclaimed-streams-let-go"] += 1
                self._forget(stream)
            else:  # a call may yet claim what is to come of it
                self._let_go(stream)
                stream.first_ns = max(stream.first_ns, self.keep_from[number])
                self._at(self.now_ns + self._window, "judge", number)
        else:
            key = self._place(stream)
            loose = self._loose.get(key)
            if loose is None:
                loose = self._loose[key] = Loose([], next(self._loose_numbers))
                self._loose_begun += 1
                self._at(stream.first_ns + self._piece, "piece", loose.number)
            loose.streams.append(stream)
            self._loose_of[number] = key
            if not final:
                self._at(max(self.now_ns, last + self._window), "judge", number)

    def _let_go(self, stream: Stream) -> None:
        """Nothing claimed the stream within the window: the spool need not keep what is older."""
        self._keep_until(stream, self.now_ns - self._window)

    def _place(self, stream: Stream) -> frozenset[Endpoint | int]:
        """The conversation that it belongs to: of the same ends and tags, or with other tags if a mirror brings copies."""
        there = [s for s in self.binder.streams_between(stream.src, stream.dst) if s.first_ns <= self.now_ns]
        mine = {(s.src, s.ssrc) for s in there if s.encap == stream.encap}
        copied = (self._loose_of.get(s.number) for s in there if s.encap != stream.encap and (s.src, s.ssrc) in mine)
        return next((key for key in copied if key is not None), frozenset((stream.src, stream.dst, stream.encap)))

    def _newest(self, stream: Stream) -> int:
        """When the newest packet came that a stream's ends exchanged unclaimed, also in streams that are not judged yet."""
        return max(self._last_ns[s.number] for s in self.binder.streams_between(stream.src, stream.dst)
                   if s is stream or (s.encap == stream.encap and s.first_ns <= self.now_ns and not s.taken))

    def _feed_loose(self, number: int) -> None:
        """The same for a long call without signalling."""
        loose = next((loose for loose in self._loose.values() if loose.number == number), None)
        if loose is None:
            return
        self._at(self.now_ns + self._piece, "piece", number)
        until = self.now_ns - 5 * _S
        loose.call = loose.call or loose.begin()
        spans, pieced = loose.spans(loose.call, until, self._last_ns), loose.fed_ns > 0
        loose.fed_ns = until
        if spans:
            self._out.append(Piece(loose.call, spans, until, pieced))
        for stream in loose.streams:
            self._keep_until(stream, until - self._recover)

    def _close_loose(self, key: frozenset[Endpoint | int]) -> None:
        loose = self._loose.pop(key)
        call = loose.call or loose.begin()
        call.end_ns = call.last_ns = max(self._last_ns[s.number] for s in loose.streams)
        spans = loose.spans(call, NEVER, self._last_ns)
        for stream in loose.streams:
            self._loose_of.pop(stream.number, None)
            self._forget(stream)
        self._out.append(Ended(call, spans, [], loose.fed_ns > 0))
