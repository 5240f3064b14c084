"""What makes several SIP dialogs one call: evidence from signalling and media, and the groups that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rokuon.sniffer.binding import Binder
from rokuon.sniffer.linking import PATIENCE_NS, Link, Linker
from rokuon.sniffer.model import Call, SipMessage
from rokuon.store.call_facts import call_id
from rokuon.store.joining import Group, Groups
from rokuon.store.relays import LOOKED_NS, Relays, next_look
from rokuon.store.signalling import Received

__all__ = ["Legs"]

_ADDRESSES, _NAMED = 4, 64
"""Of a call that are looked at, newest first; and how many other calls of each."""
_RELATED = 16
"""Other calls that a call mentions."""
Lookup = Callable[[int], Call | None]
"""The call of a number, unless it was given out."""


class Legs:
    """Told of what happens to calls; groups those that are one."""

    def __init__(self, binder: Binder, at: Callable[[int, str, int], None], headers: str) -> None:
        """`at`: has `look_for_relays` called at a time, of the timer "relay"; `headers`: [record] leg_headers."""
        self.groups = Groups()
        self.relays = Relays()
        self._linker = Linker(headers.lower().split())
        self._due: dict[int, list[int]] = {}  # numbers of calls by when they are looked at
        self._binder = binder
        self._at = at

    @property
    def found(self) -> bool:
        """Whether `join` has something to do."""
        return bool(self._linker.links)

    @staticmethod
    def concerns(message: SipMessage) -> bool:
        """Whether a message of a call is of interest beyond what it does to its call."""
        return (message.method == "INVITE" and message.status >= 200) or (message.method == "REFER" and not message.status)

    def begun(self, call: Call, message: SipMessage | None) -> None:
        """A call began; `message`: with this, if it is known."""
        mine = message if message is not None and message.call_id == call.legs[0].call_id else None
        self._linker.begun(call, mine)

    def heard(self, call: Call, by_caller: bool, received: Received) -> None:
        """A message that `concerns` says is of interest has been taken."""
        if received.message.method == "REFER":
            self._linker.referred(call, received.message, received.time_ns, received.dst.address, by_caller)
            return
        self._linker.decided(call, received.time_ns)
        if call.answer_ns == received.time_ns and self.relays.sample is not None:
            self.relays.answered(call)
            self._plan(call, call.answer_ns, LOOKED_NS)
        self._look_for_shared(call)

    def _look_for_shared(self, call: Call) -> None:
        """Whether another call names the same addresses for media."""
        if call.answer_ns is None:
            return
        ends = {(claim.address, claim.port): claim for claim in reversed(call.claims) if claim.side == "callee"}
        named = (other for end in list(ends)[:_ADDRESSES] for other in self._binder.naming(*end, _NAMED))
        self._linker.share_media(call, [other for other in {id(o): o for o in named}.values() if other is not call])

    def _plan(self, call: Call, since_ns: int, delays: Iterable[int]) -> None:
        for delay in delays:
            at = next_look(since_ns, delay)
            if at not in self._due:
                self._due[at] = []
                self._at(at, "relay", 0)
            self._due[at].append(call.number)

    def look_for_relays(self, calls: Lookup, now_ns: int) -> None:
        """Looks whether the voice of calls whose time it is is another's too."""
        for at in [at for at in self._due if at <= now_ns]:
            due = [call for number in self._due.pop(at) if (call := calls(number)) is not None]
            self._look(due, calls, at)
            for call in due:
                last = call.answer_ns is None or at >= next_look(call.answer_ns, LOOKED_NS[-1])
                if last and call.end_ns is None:
                    self._look_later(call, now_ns)  # not from `at`: who was answered in 1970 would be looked at all years since

    def _look_later(self, call: Call, now_ns: int) -> None:
        """Nobody spoke yet, or what was said is not there any more: it is looked again when somebody has begun to."""
        if all(stream.first_ns >= now_ns for stream in self._binder.streams_of(call)):
            self._plan(call, now_ns, LOOKED_NS[-1:])

    def _look(self, due: Sequence[Call], calls: Lookup, until_ns: int) -> None:
        for call in due:
            self.relays.answered(call)
        for one, other, flipped in self.relays.look(due, calls, self._binder.streams_of, until_ns):
            older, younger = sorted((one, other), key=lambda c: (c.start_ns, c.number))
            self._linker.links.append(Link(older.number, younger.number, "relayed-payload", True, flipped))

    def ended(self, call: Call, calls: Lookup, now_ns: int) -> None:
        """A call is over."""
        self._linker.decided(call, now_ns)
        self._look_for_shared(call)
        answer_ns, end_ns = call.answer_ns, call.end_ns
        if answer_ns is not None and end_ns is not None and end_ns < next_look(answer_ns, LOOKED_NS[1]):
            self._look([call], calls, end_ns)

    def join(self, calls: Lookup, given_out: Mapping[int, int]) -> list[int]:
        """Makes groups of what was found; numbers of calls that are in one now. `given_out`: up to when parts of calls were."""
        links, joined = self._linker.links, []
        while links:
            link = links.pop(0)
            older, younger = calls(link.older), calls(link.younger)
            if older is None or younger is None:
                continue
            if self.groups.is_same(link.older, link.younger):
                if link.relayed:
                    self.relays.joined(older, younger, link.flipped)
                continue
            if self.groups.join(link, older, younger, given_out):
                joined.append(link.older)
                if link.relayed:
                    self.relays.joined(older, younger, link.flipped)
            else:
                for one, other in ((older, younger), (younger, older)):
                    entry = call_id(self.groups.of(other).root), "late-evidence"
                    if len(one.related) < _RELATED and entry not in one.related:
                        one.related.append(entry)
        return joined

    def patience_ns(self, group: Group) -> int:
        """For how long a group whose calls are all over waits for others to join it; 0: for nobody."""
        waits = any(self._linker.waits(member.call.number) for member in group.members)
        return PATIENCE_NS if waits else 0

    def over(self, group: Group) -> None:
        """The group was given out."""
        for member in group.members:
            self._linker.over(member.call.number)
            self.relays.over(member.call.number)
        self.groups.over(group)
