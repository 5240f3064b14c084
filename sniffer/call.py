"""SIP messages in, calls and their media addresses out.

`CallTracker` finds the call that a message belongs to, keeps the timers, and bounds everything. What a message means for its
call is the business of `attempt`. No clock: time is that of packets, and the same sequence of messages gives the same calls
however often `expire` is called between them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from types import MappingProxyType

from rokuon.sniffer.attempt import Attempt
from rokuon.sniffer.dialog import Waits
from rokuon.sniffer.model import Call, SipMessage
from rokuon.sniffer.noting import Sighting
from rokuon.sniffer.offer_answer import ClaimAdded, ClaimEnded
from rokuon.sniffer.packet import Endpoint

__all__ = ["CallClosed", "CallTracker", "ClaimAdded", "ClaimEnded", "Event"]

SECOND = 1_000_000_000
_TOMBSTONE_NS = 64 * SECOND
_TOMBSTONES = 65_536
_NOTES = 500_000
"""Messages that are noted in all live calls together; more are taken, but not noted."""
_ORPHAN_NS = 5 * SECOND
_ORPHAN_CALL_IDS = 4_096
_ORPHANS = 12
_OF_ORPHANS = ("p-asserted-identity", "remote-party-id", "session-expires")
"""Header fields that are kept with a message that waits for its INVITE."""
_OF_CALLS = frozenset(("INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE"))
_IN_DIALOG = frozenset(("ACK", "BYE", "PRACK", "UPDATE"))
_ORPHAN_TIMER = -1


@dataclass(slots=True, frozen=True)
class CallClosed:
    """Nothing about the call changes any more. Comes once a call."""

    call: Call


Event = ClaimAdded | ClaimEnded | CallClosed


@dataclass(slots=True, frozen=True)
class _Tombstone:
    until_ns: int
    cseq: int
    """Of its newest INVITE."""


class CallTracker:
    """All calls in progress. One object for one capture; sans-I/O."""

    def __init__(self, *, linger_ns: int = SECOND, max_calls: int = 32_768, response_ns: int = 32 * SECOND,
                 ringing_ns: int = 180 * SECOND, follow_up_ns: int = 64 * SECOND, idle_ns: int = 600 * SECOND) -> None:
        """Waits are in nanoseconds of packet time and mean what `rokuon.sniffer.dialog.Waits` says; at most `max_calls` live."""
        self.anomalies: Counter[str] = Counter()
        """What was odd about messages that belong to no call, and what was dropped for want of room."""
        self._waits = Waits(linger_ns, response_ns, ringing_ns, follow_up_ns, idle_ns)
        self._max_calls = max_calls
        self._attempts: dict[tuple[str, str], Attempt] = {}  # by Call-ID and the caller's tag
        self._by_number: dict[int, Attempt] = {}
        self._live: dict[int, Call] = {}
        self._unanswered: OrderedDict[int, None] = OrderedDict()  # numbers, oldest first
        self._heap: list[tuple[int, int, str]] = []  # (when, number of the call, "") or (when, _ORPHAN_TIMER, Call-ID)
        self._tombstones: OrderedDict[tuple[str, str], _Tombstone] = OrderedDict()
        self._orphans: OrderedDict[str, list[Sighting]] = OrderedDict()
        self._numbers = 0
        self._notes = 0
        self.live: Mapping[int, Call] = MappingProxyType(self._live)
        """Calls that are not closed, by `Call.number`, oldest first."""

    def receive(self, time_ns: int, src: Endpoint, dst: Endpoint, encap: int, transport: str,
                message: SipMessage) -> list[Event]:
        """Takes a message captured at `time_ns`; what changed, timers that were due by then first."""
        heap = self._heap
        events: list[Event] = self.expire(time_ns) if heap and heap[0][0] <= time_ns else []
        self._take(Sighting(time_ns, src, dst, encap, transport, message), events)
        return events

    def next_timer_ns(self) -> int | None:
        """When `expire` may have something to do; None: never, as things are."""
        return self._heap[0][0] if self._heap else None

    def expire(self, now_ns: int) -> list[Event]:
        """Fires the timers that are due by `now_ns`, in order of time."""
        events: list[Event] = []
        while self._heap and self._heap[0][0] <= now_ns:
            at, number, call_id = heappop(self._heap)
            if number == _ORPHAN_TIMER:
                self._expire_orphans(at, call_id, events)
                continue
            attempt = self._by_number.get(number)
            if attempt is None or attempt.scheduled_ns != at:
                continue
            attempt.scheduled_ns = -1
            if attempt.expire(at):
                self._close(attempt, at, events)
            else:
                self._schedule(attempt)
        return events

    def media_seen(self, call: Call, time_ns: int) -> None:
        """Reports that media of a live call was captured at `time_ns`, so that it does not go idle."""
        call.last_ns = max(call.last_ns, time_ns)

    def close_all(self, now_ns: int, reason: str) -> list[Event]:
        """Ends all calls, because `reason` ("capture-stopped"), in order of their start; timers due by `now_ns` fire first."""
        events = self.expire(now_ns)
        for call_id in list(self._orphans):
            self._end_orphans(call_id, events)
        for attempt in sorted(self._by_number.values(), key=lambda a: (a.call.start_ns, a.call.number)):
            attempt.close(now_ns, reason)
            self._close(attempt, now_ns, events)
        self._heap.clear()
        return events

    def end(self, call: Call, now_ns: int, reason: str) -> list[Event]:
        """Ends one call, because `reason` ("recovered"); nothing where it is closed already."""
        events: list[Event] = []
        attempt = self._by_number.get(call.number)
        if attempt is not None:
            attempt.close(now_ns, reason)
            self._close(attempt, now_ns, events)
        return events

    def call_of(self, message: SipMessage) -> tuple[Call, bool] | None:
        """The live call that a message belongs to, and whether the caller sent the request that this is, or answers."""
        attempt = self._attempts.get((message.call_id, message.from_.tag))
        if attempt is not None:
            return attempt.call, True
        attempt = self._attempts.get((message.call_id, message.to.tag))
        return None if attempt is None else (attempt.call, False)

    @property
    def begun(self) -> int:
        """Calls that ever began."""
        return self._numbers

    # -- which call ------------------------------------------------------------
    def _take(self, seen: Sighting, events: list[Event]) -> None:
        message = seen.message
        call_id, sender, target = message.call_id, message.from_.tag, message.to.tag
        by_caller, attempt = True, self._attempts.get((call_id, sender))
        if attempt is None and target:
            by_caller, attempt = False, self._attempts.get((call_id, target))
        if attempt is None:
            by_caller, attempt = True, self._stranger(seen, events)
            if attempt is None:
                return
        elif attempt.former and (target in attempt.former or sender in attempt.former):
            self.anomalies["late-message"] += 1
            return
        elif sender == target and message.from_.uri == attempt.call.legs[0].callee.uri != attempt.call.legs[0].caller.uri:
            by_caller = False  # no tags at all (RFC 2543), or both chose the same
        elif not target and message.method == "INVITE" and not message.status and attempt.is_followed_by(message.cseq):
            self._renew(attempt, seen, events)
            return
        self._give(attempt, seen, by_caller, events)

    def _renew(self, attempt: Attempt, seen: Sighting, events: list[Event]) -> None:
        """The Call-ID and From tag of a call that is over, or whose BYE was not captured, are used for another one."""
        attempt.close(seen.time_ns, "timeout")
        self._close(attempt, seen.time_ns, events)
        again = self._begin(seen, False, events)
        again.former = frozenset(attempt.tags)
        again.call.anomalies["call-id-reused"] += 1
        self._give(again, seen, True, events)

    def _give(self, attempt: Attempt, seen: Sighting, by_caller: bool, events: list[Event]) -> None:
        self._notes -= attempt.notes.count
        attempt.receive(seen, events, by_caller=by_caller, note=self._notes < _NOTES)
        self._notes += attempt.notes.count
        self._schedule(attempt)
        if attempt.call.answer_ns is not None:
            self._unanswered.pop(attempt.call.number, None)

    def _stranger(self, seen: Sighting, events: list[Event]) -> Attempt | None:
        """A message of no live call: the call that it begins, if it does."""
        message, time_ns = seen.message, seen.time_ns
        if message.method not in _OF_CALLS:
            return None
        call_id = message.call_id
        if not call_id:
            self.anomalies["no-call-id"] += 1
            return None
        invite = message.method == "INVITE" and not message.status
        for tag in (message.from_.tag, message.to.tag):
            tombstone = self._tombstones.get((call_id, tag))
            if tombstone is not None and time_ns <= tombstone.until_ns:
                again = invite and not message.to.tag and message.cseq > tombstone.cseq
                if not again:
                    self.anomalies["late-message"] += 1
                    return None
        inside = message.method == "UPDATE" and not message.status and message.sdp is not None and message.to.tag
        if not invite and not inside:
            self._keep_orphan(seen)
            return None
        waiting = self._orphans.pop(call_id, ())
        attempt = self._begin(seen, bool(message.to.tag), events)
        if waiting:
            self._give(attempt, seen, True, events)
            for orphan in waiting:
                if self._attempts.get((call_id, attempt.caller_tag)) is attempt:
                    self._take(orphan, events)
            return None
        return attempt

    def _begin(self, seen: Sighting, joined: bool, events: list[Event]) -> Attempt:
        if len(self._by_number) >= self._max_calls:
            self._evict(seen.time_ns, events)
        self._numbers += 1
        attempt = Attempt(self._numbers, seen, self._waits, joined)
        self._attempts[seen.message.call_id, attempt.caller_tag] = attempt
        self._by_number[self._numbers] = attempt
        self._live[self._numbers] = attempt.call
        self._unanswered[self._numbers] = None
        return attempt

    # -- the end of calls ------------------------------------------------------
    def _schedule(self, attempt: Attempt) -> None:
        """Sees to it that the attempt is looked at when its deadline comes, at the latest."""
        at = attempt.deadline_ns()
        if at is not None and (attempt.scheduled_ns < 0 or at < attempt.scheduled_ns):
            attempt.scheduled_ns = at
            heappush(self._heap, (at, attempt.call.number, ""))

    def _close(self, attempt: Attempt, now_ns: int, events: list[Event]) -> None:
        call = attempt.call
        key = call.legs[0].call_id, attempt.caller_tag
        del self._attempts[key], self._by_number[call.number], self._live[call.number]
        self._unanswered.pop(call.number, None)
        self._notes -= attempt.notes.count
        graves = self._tombstones
        graves.pop(key, None)
        graves[key] = _Tombstone(now_ns + _TOMBSTONE_NS, attempt.cseq)
        while len(graves) > _TOMBSTONES or next(iter(graves.values())).until_ns < now_ns:
            graves.popitem(last=False)
        events.append(CallClosed(call))

    def _evict(self, now_ns: int, events: list[Event]) -> None:
        """Makes room: the oldest call without an answer goes, else the oldest of all."""
        number = next(iter(self._unanswered or self._by_number))
        attempt = self._by_number[number]
        attempt.call.anomalies["evicted"] += 1
        self.anomalies["calls-evicted"] += 1
        attempt.close(now_ns, "timeout")
        self._close(attempt, now_ns, events)

    # -- messages before their call --------------------------------------------
    def _keep_orphan(self, seen: Sighting) -> None:
        """Holds a message whose INVITE may still come (a mirror that reorders)."""
        call_id = seen.message.call_id
        waiting = self._orphans.get(call_id)
        if waiting is None:
            if len(self._orphans) >= _ORPHAN_CALL_IDS:
                self._count_orphans(self._orphans.popitem(last=False)[1])
            waiting = self._orphans[call_id] = []
            heappush(self._heap, (seen.time_ns + _ORPHAN_NS, _ORPHAN_TIMER, call_id))
        if len(waiting) < _ORPHANS:
            message = seen.message
            kept = {name: message.headers[name] for name in _OF_ORPHANS if name in message.headers}
            waiting.append(replace(seen, message=replace(message, headers=kept)))
        else:
            self.anomalies["orphans-dropped"] += 1

    def _expire_orphans(self, at: int, call_id: str, events: list[Event]) -> None:
        waiting = self._orphans.get(call_id)
        if waiting is not None and waiting[0].time_ns + _ORPHAN_NS == at:  # else its INVITE came, and these are others
            self._end_orphans(call_id, events)

    def _end_orphans(self, call_id: str, events: list[Event]) -> None:
        """No INVITE came. A 2xx with a session description and a request after it show a call that began before the capture."""
        waiting = self._orphans.pop(call_id)
        for answer in waiting:
            message = answer.message
            if message.method == "INVITE" and 200 <= message.status < 300 and message.sdp is not None and message.to.tag:
                tags = {message.from_.tag, message.to.tag}
                if any(not o.message.status and o.message.method in _IN_DIALOG and {o.message.from_.tag, o.message.to.tag} == tags
                       for o in waiting):
                    self._begin(answer, True, events)
                    for orphan in waiting:
                        if orphan.time_ns >= answer.time_ns:
                            self._take(orphan, events)
                    return
        self._count_orphans(waiting)

    def _count_orphans(self, waiting: list[Sighting]) -> None:
        for orphan in waiting:
            kind = "response" if orphan.message.status else orphan.message.method.lower()
            self.anomalies[f"{kind}-of-unknown-dialog"] += 1
