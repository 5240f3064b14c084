"""The correlate stage: what a run holds becomes calls, and calls get the spans of streams that are theirs.

Everything happens at packet times that the packets themselves set, in order of time, so that it makes no difference how the
capture was cut into runs.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from rokuon.sniffer.binding import Binder, Span, Stream
from rokuon.sniffer.call import CallClosed, CallTracker, ClaimAdded, Event
from rokuon.sniffer.careful import text_of
from rokuon.sniffer.classify import Kind
from rokuon.sniffer.model import Call
from rokuon.sniffer.packet import Endpoint
from rokuon.store.loose import Loose
from rokuon.store.runs import Run
from rokuon.store.signalling import Encapsulations, Frame, Received, Signalling

__all__ = ["NEVER", "Correlator", "Ended", "Piece"]

NEVER = np.iinfo(np.int64).max
_S = 1_000_000_000
_LISTENED = frozenset((Kind.SIP, Kind.TCP, Kind.FRAGMENT))
_FRAMES_PER_CALL = 600
_FRAME_BYTES = 64 << 20


@dataclass(slots=True)
class Ended:
    """A call that is over, with the spans of streams that are its own."""

    call: Call
    spans: list[Span]
    frames: list[Frame]
    """Its signalling as captured."""
    related: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Piece:
    """Part of a call that goes on: its spans up to a time, so that a long call need not be held whole."""

    call: Call
    spans: list[Span]
    until_ns: int


class Correlator:
    """Runs in, ended calls out. Holds no voice; `keep_from` says what of the spool is still needed."""

    def __init__(self, *, linger_ns: int = _S, window_ns: int = 30 * _S, lead_ns: int = 5 * _S, idle_ns: int = 600 * _S,
                 piece_ns: int = 600 * _S, rtp_only: bool = True, max_loose: int = 4096) -> None:
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
        self._last_ns = np.zeros(1024, np.int64)
        self.keep_from = np.zeros(1024, np.int64)
        """By stream number: the time from which on its packets in the spool are needed; NEVER: none are."""
        self.forgotten: list[int] = []
        """Streams that are needed no more, since whoever reads this last emptied it."""
        self._timers: list[tuple[int, int, str, int]] = []
        self._order = count()
        self._loose: dict[frozenset[Endpoint | int], Loose] = {}
        self._loose_of: dict[int, frozenset[Endpoint | int]] = {}
        self._frames: OrderedDict[str, list[Frame]] = OrderedDict()
        self._frame_bytes = 0
        self._out: list[Ended | Piece] = []
        self._dozing: set[int] = set()  # streams that are over, while a call that goes on names their addresses
        self._fed: dict[int, int] = {}  # up to when pieces of a call were given out, by its number
        self._loose_numbers = count(-1, -1)

    # -- in ------------------------------------------------------------------
    def process(self, run: Run) -> list[Ended | Piece]:
        """What a run, which is in the spool, brings to an end. Its packets are handled in order of capture."""
        self._note_streams(run)
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
            self._streams[number] = stream
            self.binder.add(stream)
            self._at(stream.first_ns + self._window, "judge", number)
        if len(run.streams):
            highest = int(run.streams[-1])
            while len(self._last_ns) <= highest:
                self._last_ns = np.concatenate([self._last_ns, np.zeros_like(self._last_ns)])
                self.keep_from = np.concatenate([self.keep_from, np.zeros_like(self.keep_from)])
            assert run.records is not None
            last = run.records["time_ns"][run.starts[1:] - 1]
            self._last_ns[run.streams] = np.maximum(self._last_ns[run.streams], last)

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
        last = max((self.binder.last_of(call, s, int(self._last_ns[s.number]), self.now_ns) for s in there), default=0)
        if last > 0:
            self.tracker.media_seen(call, last)

    # -- calls ---------------------------------------------------------------
    def _receive(self, received: Received) -> None:
        message = received.message
        if message.method in ("INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO", "REFER", "NOTIFY"):
            self._keep_frames(message.call_id, received.frames)
        self._events(self.tracker.receive(received.time_ns, received.src, received.dst, received.encap, received.transport,
                                          message))

    def _keep_frames(self, call_id: str, frames: list[Frame]) -> None:
        mine = self._frames.setdefault(call_id, [])
        if len(mine) < _FRAMES_PER_CALL:
            mine += frames
            self._frame_bytes += sum(len(f.data) for f in frames)
        self._frames.move_to_end(call_id)
        while self._frame_bytes > _FRAME_BYTES and len(self._frames) > 1:
            _, gone = self._frames.popitem(last=False)
            self._frame_bytes -= sum(len(f.data) for f in gone)

    def _take_frames(self, call: Call) -> list[Frame]:
        frames: list[Frame] = []
        for call_id in dict.fromkeys(leg.call_id for leg in call.legs):
            frames += self._frames.pop(call_id, [])
        self._frame_bytes -= sum(len(f.data) for f in frames)
        return frames

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
        self._fed[number] = until
        if spans:
            self._out.append(Piece(call, spans, until))
            for stream in {s.stream.number: s.stream for s in spans}.values():
                self.keep_from[stream.number] = max(int(self.keep_from[stream.number]), until)
        # Media that pauses for long is another stream each time: one that is over and given out need not be carried along.
        for stream in self.binder.streams_of(call):
            if int(self._last_ns[stream.number]) + self._window <= until and self.binder.is_only(stream, call):
                self._forget(stream)

    def _bind(self, call: Call, until_ns: int) -> list[Span]:
        for stream in self.binder.streams_of(call):
            stream.last_ns = int(self._last_ns[stream.number])
        return self.binder.bind(call, until_ns)

    def _new_part(self, call: Call, spans: list[Span]) -> list[Span]:
        """What of the spans was not given out as a piece before."""
        fed = self._fed.get(call.number, 0)
        return [replace(s, since_ns=max(s.since_ns, fed)) for s in spans if s.until_ns > fed] if fed else spans

    def _close(self, call: Call) -> None:
        end = call.end_ns if call.end_ns is not None else call.last_ns
        spans = self._bind(call, max(end, self.now_ns) + self._linger)
        self._out.append(Ended(call, self._new_part(call, spans), self._take_frames(call)))
        self._fed.pop(call.number, None)
        for number in sorted(self._dozing.intersection(s.number for s in self.binder.streams_of(call))):
            self._dozing.discard(number)
            self._at(self.now_ns + self._window, "judge", number)
        self.binder.end(call)
        for stream in {s.stream.number: s.stream for s in spans}.values():
            last = max(t[1] for t in stream.taken)
            self.keep_from[stream.number] = max(int(self.keep_from[stream.number]), last)

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

    def _give_up_loose(self, key: frozenset[Endpoint | int]) -> None:
        loose = self._loose.pop(key)
        assert loose.call is not None
        spans = loose.spans(loose.call, self.now_ns, self._last_ns)
        for stream in loose.streams:
            del self._loose_of[stream.number]
            stream.taken.append((stream.first_ns, self.now_ns, loose.number))
        loose.call.end_ns = loose.call.last_ns = self.now_ns
        self._out.append(Ended(loose.call, spans, []))

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
        last = int(self._last_ns[number])
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
                stream.first_ns = max(stream.first_ns, int(self.keep_from[number]))
                self._at(self.now_ns + self._window, "judge", number)
        else:
            key = self._place(stream)
            loose = self._loose.get(key)
            if loose is None:
                loose = self._loose[key] = Loose([], next(self._loose_numbers))
                self._at(stream.first_ns + self._piece, "piece", loose.number)
            loose.streams.append(stream)
            self._loose_of[number] = key
            if not final:
                self._at(max(self.now_ns, last + self._window), "judge", number)

    def _let_go(self, stream: Stream) -> None:
        """Nothing claimed the stream within the window: the spool need not keep what is older."""
        self.keep_from[stream.number] = max(int(self.keep_from[stream.number]), self.now_ns - self._window)

    def _place(self, stream: Stream) -> frozenset[Endpoint | int]:
        """The conversation that it belongs to: of the same ends and tags, or with other tags if a mirror brings copies."""
        there = [s for s in self.binder.streams_between(stream.src, stream.dst) if s.first_ns <= self.now_ns]
        mine = {(s.src, s.ssrc) for s in there if s.encap == stream.encap}
        copied = (self._loose_of.get(s.number) for s in there if s.encap != stream.encap and (s.src, s.ssrc) in mine)
        return next((key for key in copied if key is not None), frozenset((stream.src, stream.dst, stream.encap)))

    def _newest(self, stream: Stream) -> int:
        """When the newest packet came that a stream's ends exchanged unclaimed, also in streams that are not judged yet."""
        return max(int(self._last_ns[s.number]) for s in self.binder.streams_between(stream.src, stream.dst)
                   if s is stream or (s.encap == stream.encap and s.first_ns <= self.now_ns and not s.taken))

    def _feed_loose(self, number: int) -> None:
        """The same for a long call without signalling."""
        loose = next((loose for loose in self._loose.values() if loose.number == number), None)
        if loose is None:
            return
        self._at(self.now_ns + self._piece, "piece", number)
        until = self.now_ns - 5 * _S
        loose.call = loose.call or loose.begin()
        spans = loose.spans(loose.call, until, self._last_ns)
        loose.fed_ns = until
        if spans:
            self._out.append(Piece(loose.call, spans, until))
        for stream in loose.streams:
            self.keep_from[stream.number] = max(int(self.keep_from[stream.number]), until)

    def _close_loose(self, key: frozenset[Endpoint | int]) -> None:
        loose = self._loose.pop(key)
        call = loose.call or loose.begin()
        call.end_ns = call.last_ns = max(int(self._last_ns[s.number]) for s in loose.streams)
        spans = loose.spans(call, NEVER, self._last_ns)
        for stream in loose.streams:
            self._loose_of.pop(stream.number, None)
            self._forget(stream)
        self._out.append(Ended(call, spans, []))
