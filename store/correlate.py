"""The correlate stage: what a run holds becomes calls, and calls get the spans of streams that are theirs.

Everything happens at packet times that the packets themselves set, in order of time, so that it makes no difference how the
capture was cut into runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rokuon.sniffer.binding import Binder, Span, Stream
from rokuon.sniffer.call import CallClosed, CallTracker, ClaimAdded, Event
from rokuon.sniffer.classify import Kind
from rokuon.sniffer.model import Call, SipMessage
from rokuon.store.ended import Ended, Piece
from rokuon.store.frames import CallFrames
from rokuon.store.joining import Group, merged
from rokuon.store.legs import Legs
from rokuon.store.losses import Losses
from rokuon.store.runs import Run
from rokuon.store.signalling import Frame, Received, Signalling
from rokuon.store.unclaimed import NEVER, StreamKeeper

__all__ = ["Correlator"]

_S = 1_000_000_000
_PAUSE = 2 * _S
"""Media that came so lately, and after whatever was signalled, has not stopped by itself."""
_MOST_WAITING = 32_768
"""Calls that are over and not given out: beyond that none waits for what may yet turn out to be a leg of it."""
_LISTENED = frozenset((Kind.SIP, Kind.TCP, Kind.FRAGMENT))


class Correlator(StreamKeeper):
    """Runs in, ended calls out. Holds no voice; `keep_from` says what of the spool is still needed."""

    def __init__(self, *, linger_ns: int = _S, window_ns: int = 30 * _S, lead_ns: int = 5 * _S, idle_ns: int = 600 * _S,
                 piece_ns: int = 600 * _S, rtp_only: bool = True, max_loose: int = 4096, recover_ns: int = 0,
                 leg_headers: str = "X-Call-ID") -> None:
        """`recover_ns`: so much of what was given out as pieces stays in the spool, in case the files in the making are lost."""
        super().__init__(Binder(linger_ns, lead_ns), window_ns, piece_ns, recover_ns, max_loose if rtp_only else None)
        self.signalling = Signalling(self.encapsulations)
        self.tracker = CallTracker(linger_ns=linger_ns, idle_ns=idle_ns)
        self.losses = Losses()
        self.ended_before: Callable[[Call], int | None] | None = None
        """Says of a call that begins when it ended, if that is known because it was recorded before: not all of its signalling
        may be there any more."""
        self._looked = 0
        self._linger = linger_ns
        self._look = max(idle_ns // 10, 1)
        self._frames = CallFrames()
        self._fed: dict[int, int] = {}  # up to when pieces of a call were given out, by its number
        self._over: dict[int, Call] = {}  # that are over, and wait for others that are legs of the same
        self.legs = Legs(self.binder, self._at, leg_headers)

    # -- in ------------------------------------------------------------------
    def process(self, run: Run) -> list[Ended | Piece]:
        """What a run, which is in the spool, brings to an end. Its packets are handled in order of capture."""
        self._note_streams(run)
        if run.gap_ns:
            self.note_gap(run.gap_ns, run.epoch if run.gap_ns < run.epoch < run.first_ns else run.first_ns)
        if run.step_ns > 0:  # no time has passed: what goes on is not idle
            for call in self.tracker.live.values():
                self.tracker.media_seen(call, run.last_ns)
        if run.dropped:
            self.losses.drop(run.last_ns, run.dropped)
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
        if self.losses.gap(since_ns, until_ns):
            self._at(until_ns + self._window, "gap", since_ns)

    def advance(self, now_ns: int) -> list[Ended | Piece]:
        """No packet came up to `now_ns`: what ends by the lapse of time. A time that is past changes nothing."""
        self._advance(now_ns)
        return self._taken()

    def finish(self, reason: str = "capture-stopped") -> list[Ended | Piece]:
        """The capture is over: everything that is open ends."""
        for received in self.signalling.finish():
            self._receive(received)
        self._end_calls(reason)
        self._part_with(self._strangers.over(NEVER))
        for number in sorted(self._streams):
            self._judge(number, final=True)
        for key in sorted(self._loose, key=lambda k: self._loose[k].number, reverse=True):
            self._close_loose(key)
        return self._taken()

    def end_open(self, reason: str) -> list[Ended | Piece]:
        """Ends what goes on, while capture does as well: what comes later is other calls'."""
        self._end_calls(reason)
        for key in sorted(self._loose, key=lambda k: self._loose[k].number, reverse=True):
            self._give_up_loose(key)
        return self._taken()

    def _end_calls(self, reason: str) -> None:
        for call in list(self.tracker.live.values()):
            self._note_media(call)
        self._events(self.tracker.close_all(self.now_ns, reason))
        for number in list(self._over):
            self._settle(number, patient=False)

    def _taken(self) -> list[Ended | Piece]:
        out, self._out = self._out, []
        return out

    # -- time ----------------------------------------------------------------
    def _advance(self, now_ns: int) -> None:
        """Fires what is due, in order of time; time never goes back, though packets may."""
        if now_ns <= self.now_ns:
            return
        while True:
            theirs, ours = self.tracker.next_timer_ns(), self._timers.next_ns
            if theirs is not None and theirs <= now_ns and (ours is None or theirs <= ours):
                self.now_ns = max(self.now_ns, theirs)
                self._events(self.tracker.expire(theirs))
                self._look_back()
            elif ours is not None and ours <= now_ns:
                at, what, number = self._timers.pop()
                self.now_ns = max(self.now_ns, at)
                if what == "strangers":
                    self._part_with(self._strangers.over(self.now_ns))
                elif what == "judge":
                    self._judge(number)
                elif what == "over":
                    self._end_known(number, at - self._linger)
                elif what == "media":
                    self._look_for_media(number)
                elif what == "gap":
                    self._after_gap(number)
                elif what == "relay":
                    self.legs.look_for_relays(self._open_call, self.now_ns)
                    self._link()
                elif what == "release":
                    self._settle(number, patient=False)
                elif what == "piece" and number < 0:
                    self._feed_loose(number)
                elif what == "piece":
                    self._feed(number)
            else:
                break
        self.now_ns = now_ns
        for received in self.signalling.expire(now_ns):
            self._receive(received)

    def _end_known(self, number: int, end_ns: int) -> None:
        """The call was over then, and what ended it is not in the spool any more."""
        call = self.tracker.live.get(number)
        if call is not None:
            self.tracker.media_seen(call, end_ns)
            self._events(self.tracker.end(call, self.now_ns, "recovered"))

    def _look_for_media(self, number: int) -> None:
        """A call with media is not idle: looked at now and then, well within the time after which it would be."""
        call = self.tracker.live.get(number)
        if call is not None:
            self._note_media(call)
            self._at(self.now_ns + self._look, "media", number)

    def _note_media(self, call: Call) -> int:
        """Says when the newest media of the call came; 0: none did."""
        there = (s for s in self.binder.streams_of(call) if s.first_ns <= self.now_ns)  # a run tells of what is still to come
        last = max((self.binder.last_of(call, s, self._last_ns[s.number], self.now_ns) for s in there), default=0)
        if last > 0:
            self.tracker.media_seen(call, last)
        return last

    def _after_gap(self, since_ns: int) -> None:
        """Capture is back for a while: calls whose media went on before, and of which nothing was heard since, are over. One that
        was held, or rang, may be silent as before.
        """
        since, until = self.losses.gaps[-1]
        if since != since_ns:  # another one has come since, in which calls were not heard, whether over or not; it is judged too
            return
        for call in list(self.tracker.live.values()):
            heard = self._note_media(call)
            told = call.messages[-1].time_ns if call.messages else 0
            if call.last_ns <= since and call.start_ns < until and heard > max(since - _PAUSE, told):
                self._events(self.tracker.end(call, self.now_ns, "recovered"))

    # -- calls ---------------------------------------------------------------
    def _receive(self, received: Received) -> None:
        message = received.message
        if message.method in ("INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO", "REFER", "NOTIFY"):
            self._frames.keep(message.call_id, received.frames)
        self._events(self.tracker.receive(received.time_ns, received.src, received.dst, received.encap, received.transport,
                                          message))
        self._look_back(message)
        if self.legs.concerns(message) and (found := self.tracker.call_of(message)) is not None:
            self.legs.heard(*found, received)
            self._link()

    def _look_back(self, message: SipMessage | None = None) -> None:
        """Calls that began: one that was recorded before ends when it did."""
        while self._looked < self.tracker.begun:
            self._looked += 1
            call = self.tracker.live.get(self._looked)
            if call is None:
                continue
            self.legs.begun(call, message)
            if self.ended_before is not None:
                end_ns = self.ended_before(call)
                if end_ns is not None:
                    self._at(end_ns + self._linger, "over", call.number)
        self._link()

    # -- legs ------------------------------------------------------------------
    def _open_call(self, number: int) -> Call | None:
        """A call that was not given out yet, whether it is over or not."""
        return self.tracker.live.get(number) or self._over.get(number)

    def _link(self) -> None:
        if self.legs.found:
            for number in self.legs.join(self._open_call, self._fed):
                self._settle(number)

    def open_frames(self) -> list[Frame]:
        """The signalling of all calls in progress, as captured."""
        return self._frames.of([*self.tracker.live.values(), *self._over.values()], self.now_ns - self._window)

    @property
    def begun(self) -> int:
        """Calls that ever began, with signalling or without."""
        return self.tracker.begun - self.legs.groups.found + self._loose_begun

    @property
    def open(self) -> int:
        """Those that are in progress."""
        calls = len(self.tracker.live) + len(self._over)
        return calls - self.legs.groups.joined + len(self._loose)

    def _events(self, events: list[Event]) -> None:
        closed: list[Call] = []
        for event in events:
            if isinstance(event, ClaimAdded):
                self._close(closed)
                if not event.call.claims or event.claim is event.call.claims[0]:
                    self._at(event.call.start_ns + self._piece, "piece", event.call.number)
                    self._at(event.call.start_ns + self._look, "media", event.call.number)
                self.binder.claim(event.call, event.claim)
                self._recognise((event.claim.address, event.claim.port))
                for stream in self.binder.streams_of(event.call):
                    self._adopt(stream)
            elif isinstance(event, CallClosed):
                closed.append(event.call)
        self._close(closed)

    def _feed(self, number: int) -> None:
        """A long call: what lies far enough back is given to its file, and the spool may let it go."""
        call = self._open_call(number)
        if call is None:
            return
        group = self.legs.groups.of(call)
        if call is not next(member.call for member in group.members if member.call.claims):
            return  # it goes with another, whose timer sees to it
        self._at(self.now_ns + self._piece, "piece", number)
        calls = [member.call for member in group.members]
        if all(each.answer_ns is None for each in calls):
            return
        until = self.now_ns - 5 * _S
        spans = [self._new_part(each, self._bind(each, until)) for each in calls]
        pieced = group.root.number in self._fed
        self._fed.update(dict.fromkeys((each.number for each in calls), until))
        if any(spans):
            whole, mine = merged(group, spans)
            self._out.append(Piece(whole, mine, until, pieced))
            for stream in {s.stream.number: s.stream for s in mine}.values():
                self._let_go_until(stream, until - self.recover_ns)
        # Media that pauses for long is another stream each time: one that is over and given out need not be carried along.
        for each in calls:
            for stream in self.binder.streams_of(each):
                over = self._last_ns[stream.number] + self._window
                if over <= until - self.recover_ns and self.binder.is_only(stream, each):
                    self._forget(stream)

    def _bind(self, call: Call, until_ns: int) -> list[Span]:
        for stream in self.binder.streams_of(call):
            stream.last_ns = self._last_ns[stream.number]
        return self.binder.bind(call, until_ns)

    def _new_part(self, call: Call, spans: list[Span]) -> list[Span]:
        """What of the spans was not given out as a piece before."""
        fed = self._fed.get(call.number, 0)
        return [replace(s, since_ns=max(s.since_ns, fed)) for s in spans if s.until_ns > fed] if fed else spans

    def _close(self, calls: list[Call]) -> None:
        """Calls are over; of those that are at once, each may be a leg of another."""
        self._over.update((call.number, call) for call in calls)
        for call in calls:
            self.legs.ended(call, self._open_call, self.now_ns)
        self._link()
        for call in calls:
            self._settle(call.number)
        calls.clear()

    def _settle(self, number: int, patient: bool = True) -> None:
        """Gives a call out if all of its legs are over. `patient`: not while another may yet turn out to be one."""
        call = self._over.get(number)
        if call is None:
            return
        group = self.legs.groups.of(call)
        if any(member.call.number not in self._over for member in group.members):
            return
        if patient and len(self._over) < _MOST_WAITING and (wait_ns := self.legs.patience_ns(group)):
            self._at(self.now_ns + wait_ns, "release", number)
            return
        self._give_out(group)

    def _give_out(self, group: Group) -> None:
        """Nothing changes any more of the calls that are one."""
        calls = [member.call for member in group.members]
        spans: list[list[Span]] = []
        for call in calls:
            end = call.end_ns if call.end_ns is not None else call.last_ns
            spans.append(self._new_part(call, self._bind(call, max(end, self.now_ns) + self._linger)))
        whole, mine = merged(group, spans)
        frames = [frame for call in calls for frame in self._frames.take(call)]
        if len(calls) > 1:
            frames.sort(key=lambda frame: frame.time_ns)
        self._out.append(Ended(whole, mine, frames, group.root.number in self._fed))
        for call in calls:
            del self._over[call.number]
            self._fed.pop(call.number, None)
            for number in sorted(self._dozing.intersection(s.number for s in self.binder.streams_of(call))):
                self._dozing.discard(number)
                self._at(self.now_ns + self._window, "judge", number)
            self.binder.end(call)
        self.legs.over(group)
        for stream in {s.stream.number: s.stream for each in spans for s in each}.values():
            self._let_go_until(stream, max(t[1] for t in stream.taken))

    def _let_go_until(self, stream: Stream, time_ns: int) -> None:
        """What came before that time was given out; but parts of it may be for other calls that are open."""
        for call, since_ns in self.binder.needed_since(stream):
            fed = self._fed.get(call.number)
            time_ns = min(time_ns, since_ns if fed is None else max(since_ns, fed - self.recover_ns))
        self._keep_until(stream, time_ns)
