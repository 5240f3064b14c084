"""Calls that turn out to be legs of one: kept together until all of them are over, then made one call."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rokuon.sniffer.binding import Span
from rokuon.sniffer.linking import Link, same_number
from rokuon.sniffer.model import Call, CallEvent, MediaClaim, Party, Side

__all__ = ["Group", "Groups", "Member", "merged"]

_NEVER = 1 << 62
_MOST = 16
"""Calls that are made one."""
_SAME_NS = 500_000_000
"""What happens on one leg so soon after the same on another that carries the same voice has happened once."""
_TOGETHER_NS = 2_000_000_000
"""Legs of one call that end within this time end with it."""
_Events = dict[tuple[str, Side, str | None], list[int]]
"""When each came, ascending."""


@dataclass(slots=True)
class Member:
    """One of the calls."""

    call: Call
    talk: int
    """Members of one number carry the same voice."""
    evidence: str | None = None
    """What links it to an older one; None: it is the oldest."""
    flipped: bool = False
    """Its caller stands on the side of the whole call's callee."""


@dataclass(slots=True)
class Group:
    """Calls that are one, oldest first."""

    members: list[Member]
    talks: dict[int, int] = field(default_factory=dict)
    """As which talk of the call members' `talk` counts, since parts of it were given out."""

    @property
    def root(self) -> Call:
        """The oldest; its number is the whole call's."""
        return self.members[0].call

    def member(self, number: int) -> Member:
        return next(member for member in self.members if member.call.number == number)


@dataclass(slots=True)
class Groups:
    """Calls that are not given out yet and that belong together, by number."""

    found: int = 0
    """How many calls ever became part of another."""
    joined: int = 0
    """How many of those that were not given out yet are part of another."""
    _groups: dict[int, Group] = field(default_factory=dict)

    def of(self, call: Call) -> Group:
        """The call's group; it may be alone in it."""
        return self._groups.get(call.number) or Group([Member(call, call.number)])

    def is_same(self, one: int, other: int) -> bool:
        """Whether two are in one group already."""
        group = self._groups.get(one)
        return group is not None and group is self._groups.get(other)

    def join(self, link: Link, older: Call, younger: Call, given_out: Mapping[int, int]) -> bool:
        """Makes one of two groups; whether it was done. `given_out`: up to when parts of calls were given out already."""
        first, second = self.of(older), self.of(younger)
        if first is second:
            return False
        a, b = first.member(older.number), second.member(younger.number)
        if (second.root.start_ns, second.root.number) < (first.root.start_ns, first.root.number):
            first, second, a, b = second, first, b, a
        done = given_out.get(first.root.number, 0)
        late = any(m.call.number in given_out or _heard_ns(m.call) < done for m in second.members)
        if late or len(first.members) + len(second.members) > _MOST:
            return False
        flip = a.flipped ^ link.flipped ^ b.flipped
        talk = (a.talk, b.talk) if link.relayed or _takes_place(link, first, second) else (-1, -1)
        for member in second.members:
            member.flipped ^= flip
            if member.talk == talk[1]:
                member.talk = talk[0]
            if member.evidence is None:
                member.evidence = link.evidence
        first.members += second.members
        first.members.sort(key=lambda m: (m.call.start_ns, m.call.number))
        for member in first.members:
            self._groups[member.call.number] = first
        self.found += 1
        self.joined += 1
        return True

    def over(self, group: Group) -> None:
        """It was given out."""
        self.joined -= len(group.members) - 1
        for member in group.members:
            self._groups.pop(member.call.number, None)


def _heard_ns(call: Call) -> int:
    """From when on there may be media of a call: nobody speaks before the callee has said where to."""
    said = [claim.since_ns for claim in call.claims if claim.side == "callee"]
    return min([_NEVER if call.answer_ns is None else call.answer_ns, *said])


def _takes_place(link: Link, first: Group, second: Group) -> bool:
    """Whether a host that relayed one call's voice has another leg, and relays it into the other call now."""
    older = (first if any(m.call.number == link.older for m in first.members) else second).member(link.older)
    others = [m for group in (first, second) for m in group.members if m.talk == older.talk and m is not older]
    return bool(link.replaced_at) and any(
        link.replaced_at in (leg.caller.address, leg.callee.address) for m in others for leg in m.call.legs)


def merged(group: Group, spans: Sequence[Sequence[Span]]) -> tuple[Call, list[Span]]:
    """One call of a group, and its spans, of which `spans` has those of each member. The members stay as they are."""
    if len(group.members) == 1:
        return group.root, list(spans[0])
    root = group.root
    talks = group.talks
    talks.setdefault(group.members[0].talk, 0)
    call = replace(root, legs=[], claims=[], events=[], messages=[], parties=[], anomalies=Counter(), related=[])
    bound: list[Span] = []
    known: dict[int, _Events] = {}
    for member, mine in zip(group.members, spans, strict=True):
        talk = talks.setdefault(member.talk, len(talks))
        first = len(call.legs)
        call.legs += [replace(leg, linked_by=leg.linked_by or member.evidence, talk=talk,
                              flipped=member.flipped) for leg in member.call.legs]
        claims: dict[int, MediaClaim] = {}
        for claim in member.call.claims:
            claims[id(claim)] = replace(claim, leg=first + claim.leg, side=_side(claim.side, member.flipped))
        call.claims += claims.values()
        for span in mine:
            claim = claims.get(id(span.claim)) or replace(span.claim, leg=first + span.claim.leg)
            bound.append(replace(span, claim=claim, direction=_side(span.direction, member.flipped)))
        _add_events(call, member, known.setdefault(talk, {}))
        call.related += [entry for entry in member.call.related if entry not in call.related]
        call.messages += member.call.messages
        call.anomalies += member.call.anomalies
        call.last_ns = max(call.last_ns, member.call.last_ns)
    call.messages.sort(key=lambda m: m.time_ns)
    call.events.sort(key=lambda e: e.time_ns)
    _decide(call, group.members)
    _add_parties(call, group.members)
    return call, bound


def _side(side: Side, flipped: bool) -> Side:
    return side if not flipped else "callee" if side == "caller" else "caller"


def _add_events(call: Call, member: Member, known: _Events) -> None:
    """A hold that a relay passes on is one. `known`: those of other legs that carry the same voice."""
    fresh: _Events = {}
    for event in member.call.events:
        mine = CallEvent(event.time_ns, event.type, _side(event.side, member.flipped), event.detail)
        times = known.get((mine.type, mine.side, mine.detail), [])
        at = bisect_left(times, mine.time_ns - _SAME_NS)
        if at == len(times) or times[at] > mine.time_ns + _SAME_NS:
            call.events.append(mine)
            fresh.setdefault((mine.type, mine.side, mine.detail), []).append(mine.time_ns)
    for what, times in fresh.items():
        known[what] = sorted([*known.get(what, []), *times])


def _decide(call: Call, members: Sequence[Member]) -> None:
    """State, answer and end of the whole: of a call that was answered, refused legs decide nothing."""
    answered = [m.call for m in members if m.call.answer_ns is not None]
    if answered and call.answer_ns is None:
        call.answer_ns = min(c.answer_ns for c in answered if c.answer_ns is not None)
        call.state, call.sip_status = "answered", answered[0].sip_status
    counted = [m for m in members if m.call.answer_ns is not None] or list(members)
    ends = [m for m in counted if m.call.end_ns is not None]
    if len(ends) < len(counted):
        call.end_ns = None
        return
    call.end_ns = max(m.call.end_ns or 0 for m in ends)
    newest = max(ends, key=lambda m: m.call.end_ns or 0)
    last = [m for m in ends if m.talk == newest.talk and (m.call.end_ns or 0) >= call.end_ns - _TOGETHER_NS]
    first = min(last, key=lambda m: (m.call.end_reason != "bye", m.call.end_ns or 0))
    if not answered:
        first = members[0]
    call.end_reason = first.call.end_reason
    call.hangup_by = None if first.call.hangup_by is None else _side(first.call.hangup_by, first.flipped)


def _add_parties(call: Call, members: Sequence[Member]) -> None:
    """Whoever takes part beside caller and callee, each number once."""
    known: list[Party] = [call.caller, call.callee]
    for member in members[1:]:
        for leg in member.call.legs:
            for party in (leg.caller, leg.callee):
                if party.number and not any(same_number(party.number, other.number) for other in known):
                    known.append(party)
    call.parties = known[2:]
