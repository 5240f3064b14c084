"""Which dialogs are legs of one conversation, as far as signalling tells: transfer, shared identifiers, twins.

Sans-I/O, in packet time. Evidence, strongest first: an INVITE that replaces or joins another dialog (RFC 3891, RFC 3911), a REFER
and the INVITE that it brings about (RFC 3515, RFC 3892), a Session-ID (RFC 7989) or Call-ID of another leg that is carried along,
and twin signalling: a back-to-back user agent (RFC 7092) ends one dialog and begins another, and what happens to the one
happens to the other within a moment. Evidence in the media is the business of `rokuon.store.relays`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import unquote

from rokuon.sniffer.model import Call, CallEvent, Leg, NameAddr, SipMessage
from rokuon.sniffer.party import number_of
from rokuon.sniffer.referrals import Referral, Referrals
from rokuon.sniffer.sip_headers import name_addr

__all__ = ["PATIENCE_NS", "Link", "Linker", "same_number", "stands_across"]

_MS = 1_000_000
_INVITE_NS, _FINAL_NS = 500 * _MS, 100 * _MS
"""So soon a twin follows: its INVITE, then final response and end."""
PATIENCE_NS = 5_000 * _MS
"""How long a call that is over waits for what `Linker.waits` speaks of."""
_SHARED_NS = 1_000 * _MS
"""So soon one after the other two are answered that share their media."""
_NEAR = 64
"""Calls to one number that one host took within the time of a twin: beyond that the oldest is no candidate any more."""
_MOST = 65_536
_CANDIDATES = 16
_OF_SESSION = 16
"""Open calls of one Session-ID among which the other leg is looked for."""
_EVENTS = 512
_LEAST_DIGITS = 6
_NIL = "0" * 32


class Link(NamedTuple):
    """Two calls are legs of one."""

    older: int
    younger: int
    evidence: str
    """replaces, join, refer, session-id, call-id, twin-signalling, shared-media, relayed-payload"""
    relayed: bool
    """Both carry the same voice."""
    flipped: bool
    """The caller of one stands where the callee of the other does."""
    replaced_at: str = ""
    """A host that put the younger in the older's place: if another leg of its carries the older's voice, that goes on in it."""


class Linker:
    """Sees calls begin, be decided and end; says which of them are legs of one."""

    def __init__(self, headers: Collection[str] = ("x-call-id",)) -> None:
        """`headers`: names in lower case of header fields whose value is the Call-ID of another leg."""
        self.links: list[Link] = []
        """Found since whoever reads this last emptied it."""
        self._headers = tuple(headers)
        self._calls: dict[int, Call] = {}
        self._by_id: dict[str, list[int]] = {}
        self._sessions: OrderedDict[str, dict[int, int]] = OrderedDict()  # open calls, and which of them they are one with
        self._session_of: dict[int, str] = {}
        self._taken: dict[tuple[str, str], deque[int]] = {}  # calls that a host took lately, by its address and their callee
        self._lately: deque[tuple[int, tuple[str, str]]] = deque()  # when calls began, and under which key they are in it
        self._up: dict[int, set[int]] = {}  # of a call: those that it may be the twin of
        self._down: dict[int, set[int]] = {}
        self._referrals = Referrals()

    # -- what happens ----------------------------------------------------------
    def begun(self, call: Call, message: SipMessage | None) -> None:
        """A call began; `message`: with this, if it is known."""
        number, leg = call.number, call.legs[0]
        self._calls[number] = call
        self._seek_twin(call)
        if message is not None and message.method == "INVITE" and not message.status:
            self._declared(call, message)
        self._by_id.setdefault(leg.call_id, []).append(number)
        self._forget_taken(call.start_ns)
        key = leg.callee.address, _ending(leg.callee.number)
        self._taken.setdefault(key, deque(maxlen=_NEAR)).append(number)
        self._lately.append((call.start_ns, key))

    def _forget_taken(self, now_ns: int) -> None:
        """Calls that began too long ago to have a twin now."""
        lately = self._lately
        while lately and (now_ns - lately[0][0] > _INVITE_NS or len(lately) > _MOST):
            key = lately.popleft()[1]
            taken = self._taken.get(key, deque())
            while taken and not self._is_recent(taken[0], now_ns):
                taken.popleft()
            if not taken:
                self._taken.pop(key, None)

    def referred(self, call: Call, message: SipMessage, time_ns: int, referee: str, by_caller: bool) -> None:
        """A party of a call asks the other, at the address `referee`, to call somebody else (RFC 3515)."""
        for value in message.headers.get("refer-to", ())[:1]:
            target = name_addr(value)
            bare, _, headers = target.uri.partition("?")
            number = number_of(NameAddr("", bare))
            for name, _, content in (part.partition("=") for part in headers.split("&")):
                if name.lower() in ("replaces", "join"):
                    self._names_dialog(call, unquote(content, errors="replace"), "refer")
            referral = Referral(time_ns, call.number, "callee" if by_caller else "caller", message.cseq, number,
                                self._referrer(message) or message.from_.uri)
            if self._referrals.add(referral, referee, _ending(number)) and len(call.events) < _EVENTS:
                call.events.append(CallEvent(time_ns, "transfer", "caller" if by_caller else "callee", number or None))

    def decided(self, call: Call, now_ns: int = 0) -> None:
        """A final response came for the call's INVITE, or its end, or (again) it is `now_ns` and it may be known what did not
        happen to another.
        """
        if call.number in self._up or call.number in self._down:
            self._settle(call.number, now_ns)

    def waits(self, number: int) -> bool:
        """Whether a call that is over may yet turn out to be a leg of one that is not, within a moment."""
        return bool(self._up.get(number) or self._down.get(number)) or self._referrals.waits(number)

    def over(self, number: int) -> None:
        """The call was given out: nothing joins it any more."""
        call = self._calls.pop(number, None)
        if call is None:
            return
        for down, up in ((self._down, self._up), (self._up, self._down)):
            for other in down.pop(number, ()):
                self._part(up, other, number)
        call_id = call.legs[0].call_id
        left = [n for n in self._by_id.pop(call_id, ()) if n != number]
        if left:
            self._by_id[call_id] = left
        session = self._session_of.pop(number, "")
        if (mates := self._sessions.get(session)) is not None and mates.pop(number, None) is not None and not mates:
            del self._sessions[session]
        self._referrals.over(number)

    # -- what is said ----------------------------------------------------------
    def _declared(self, call: Call, message: SipMessage) -> None:
        """What an INVITE says of other dialogs."""
        for header in ("replaces", "join"):
            for value in message.headers.get(header, ())[:1]:
                self._names_dialog(call, value, header)
        self._answers_referral(call, message)
        for value in message.headers.get("session-id", ())[:1]:
            session = value.partition(";")[0].strip().lower()
            if len(session) == len(_NIL) and session != _NIL:
                self._of_session(call, session)
        for header in self._headers:
            for value in message.headers.get(header, ())[:1]:
                for older in self._by_id.get(value.strip(), ())[:1]:
                    self._found(older, call.number, "call-id")

    def _of_session(self, call: Call, session: str) -> None:
        """A leg goes on where another one ended. (There are phones that send the same Session-ID in every call.)"""
        mates = self._sessions.setdefault(session, {})
        mine = call.legs[0]
        near = [n for n in mates if (other := self._calls[n]).end_ns is None and _follows(other.legs[0], mine)]
        kinds = {mates[n] for n in near}
        if len(kinds) == 1:
            self._found(near[-1], call.number, "session-id")
        if len(mates) < _OF_SESSION:
            mates[call.number] = kinds.pop() if len(kinds) == 1 else call.number
            self._session_of[call.number] = session
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)

    def _names_dialog(self, call: Call, value: str, evidence: str) -> None:
        """`value`: a dialog as Replaces has it (RFC 3891 section 6.1): call-id;to-tag=…;from-tag=…"""
        call_id, *rest = (part.strip() for part in value.split(";"))
        named = (part.partition("=") for part in rest)
        tags = {tag.strip() for name, _, tag in named if name.strip().lower() in ("to-tag", "from-tag")}
        for number in self._by_id.get(call_id, ()):
            other = self._calls[number]
            if number != call.number and any({leg.from_tag, leg.to_tag} >= tags - {"", "0"} for leg in other.legs):
                self._found(number, call.number, evidence)
                return

    def _answers_referral(self, call: Call, message: SipMessage) -> None:
        """Whether the INVITE is what a REFER asked for. A PBX calls many: the number called is not enough, it has to be called
        for somebody of the call that the REFER was sent in; and of two that could have asked it is neither.
        """
        leg, by = call.legs[0], self._referrer(message)
        called = {leg.callee.number, number_of(NameAddr("", message.request_uri))}
        asked = self._referrals.asked(leg.caller.address, {_ending(number) for number in called}, by, call.start_ns)
        ranks: dict[int, list[Referral]] = {}
        for referral in asked:
            named = any(same_number(number, referral.number) for number in called)
            mine = bool(by) and by == referral.by
            rank = 4 * (named and mine) + 2 * mine + (named and self._calls_for(leg, referral.call))
            if rank > 1 or (rank and call.number not in self._up):  # someone else called that number just before
                ranks.setdefault(rank, []).append(referral)
        best = ranks.get(max(ranks, default=0), [])
        if len({referral.call for referral in best}) == 1:
            self._referrals.came(best[0])
            self._found(best[0].call, call.number, "refer", flipped=best[0].side == "callee", replaced_at=leg.caller.address)

    def _calls_for(self, leg: Leg, number: int) -> bool:
        """Whether the caller of a leg is known to be somebody of another call."""
        caller, other = leg.caller, self._calls.get(number)
        return other is not None and not caller.withheld and any(
            same_number(caller.number, party.number) for its in other.legs for party in (its.caller, its.callee) if party.number)

    @staticmethod
    def _referrer(message: SipMessage) -> str:
        for value in message.headers.get("referred-by", ())[:1]:
            return name_addr(value).uri
        return ""

    def _found(self, one: int, other: int, evidence: str, flipped: bool | None = None, replaced_at: str = "") -> None:
        """Two calls belong together. `flipped`: None: found out by who is where."""
        first, second = self._calls.get(one), self._calls.get(other)
        if first is None or second is None or one == other:
            return
        older, younger = sorted((first, second), key=lambda c: (c.start_ns, c.number))
        a, b = older.legs[0], younger.legs[0]
        relayed = evidence in ("session-id", "call-id") and bool(
            {a.caller.address, a.callee.address} & {b.caller.address, b.callee.address})
        if flipped is None and evidence in ("replaces", "join"):
            flipped = b.callee.address == a.caller.address != a.callee.address  # who is sent the INVITE stays who it is
        elif flipped is None:
            flipped = stands_across(a, b, relayed)
        self.links.append(Link(older.number, younger.number, evidence, relayed, flipped, replaced_at))

    def share_media(self, call: Call, others: Iterable[Call]) -> None:
        """`others`: calls that name an address for media that this one names. Two dialogs that a host has with one another, and
        that name the same address on either side, are one that it lets talk directly.
        """
        for other in others:
            upper, lower = sorted((call, other), key=lambda c: (c.start_ns, c.number))
            if (upper.legs[0].callee.address == lower.legs[0].caller.address and upper.answer_ns is not None
                    and lower.answer_ns is not None and abs(upper.answer_ns - lower.answer_ns) <= _SHARED_NS
                    and all(_media(upper, side) & _media(lower, side) for side in ("caller", "callee"))):
                self.links.append(Link(upper.number, lower.number, "shared-media", True, False))

    # -- twins -----------------------------------------------------------------
    def _is_recent(self, number: int, now_ns: int) -> bool:
        call = self._calls.get(number)
        return call is not None and now_ns - call.start_ns <= _INVITE_NS

    def _seek_twin(self, call: Call) -> None:
        """Calls whose callee is the host that begins this one, and which began just before."""
        leg = call.legs[0]
        if leg.caller.address == leg.callee.address:
            return  # a host that speaks with itself: its address does not tell who relays what
        for number in self._taken.get((leg.caller.address, _ending(leg.callee.number)), ()):
            other = self._calls.get(number)
            if other is None or not 0 <= call.start_ns - other.start_ns <= _INVITE_NS or other.legs[0].call_id == leg.call_id:
                continue
            theirs = other.legs[0]
            alike = same_number(leg.caller.number, theirs.caller.number) and same_number(leg.callee.number, theirs.callee.number)
            if alike and max(len(self._down.get(number, ())), len(self._up.get(call.number, ()))) < _CANDIDATES:
                self._down.setdefault(number, set()).add(call.number)
                self._up.setdefault(call.number, set()).add(number)

    def _settle(self, number: int, now_ns: int) -> None:
        """What is known of a call by now may tell who its twin is, or is not."""
        pairs = [(upper, number) for upper in self._up.get(number, ())]
        pairs += [(number, lower) for lower in self._down.get(number, ())]
        for upper, lower in pairs:
            if _alike(self._calls[upper], self._calls[lower], now_ns) is False:
                self._part(self._down, upper, lower)
                self._part(self._up, lower, upper)
        touched = {number, *(n for pair in pairs for n in pair)}
        for upper in sorted(touched.union(*(self._up.get(lower, ()) for lower in touched))):
            lowers = self._down.get(upper, set())
            if len(lowers) != 1:
                continue
            lower = next(iter(lowers))
            if len(self._up[lower]) == 1 and _alike(self._calls[upper], self._calls[lower], now_ns):
                self._part(self._down, upper, lower)
                self._part(self._up, lower, upper)
                self.links.append(Link(upper, lower, "twin-signalling", True, False))

    @staticmethod
    def _part(table: dict[int, set[int]], one: int, other: int) -> None:
        rest = table.get(one)
        if rest is not None:
            rest.discard(other)
            if not rest:
                del table[one]


def _alike(upper: Call, lower: Call, now_ns: int) -> bool | None:
    """Whether what became of one became of the other at about the same time; None: not all is known by now."""
    answers, ends = (upper.answer_ns, lower.answer_ns), (upper.end_ns, lower.end_ns)
    if answers[0] is not None and answers[1] is not None:
        if abs(answers[0] - answers[1]) > _FINAL_NS:
            return False
        return _is_near(*ends, now_ns) is not False
    if ends[0] is not None and ends[1] is not None:
        return answers == (None, None) and upper.state == lower.state and abs(ends[0] - ends[1]) <= _FINAL_NS
    if answers != (None, None):
        unanswered = lower if answers[0] is not None else upper
        return False if unanswered.end_ns is not None else _is_near(*answers, now_ns)
    return _is_near(*ends, now_ns)


def _media(call: Call, side: str) -> set[tuple[str, int]]:
    return {(claim.address, claim.port) for claim in call.claims if claim.side == side and claim.media == "audio"}


def _is_near(one: int | None, other: int | None, now_ns: int) -> bool | None:
    """Whether two things happened at about the same time; None: one of them may happen yet."""
    if one is not None and other is not None:
        return abs(one - other) <= _FINAL_NS
    happened = one if one is not None else other
    return False if happened is not None and now_ns - happened > _FINAL_NS else None


def _follows(one: Leg, other: Leg) -> bool:
    """Whether a leg may go on where another one ended: at the same host, or at one that is not seen, between the same numbers."""
    places = ((one.caller.address, one.callee.address), (other.caller.address, other.callee.address))
    if set(places[0]).isdisjoint(places[1]):
        return same_number(one.caller.number, other.caller.number) or same_number(one.callee.number, other.callee.number)
    return places[0][1] == places[1][0] or places[0][0] == places[1][1]


def stands_across(a: Leg, b: Leg, relayed: bool) -> bool:
    """Whether the caller of one leg stands where the callee of the other does, by addresses of signalling.

    A host that is in both relays between them, or (not `relayed`) is the same party in both.
    """
    across = a.callee.address == b.caller.address or a.caller.address == b.callee.address
    alike = a.caller.address == b.caller.address or a.callee.address == b.callee.address
    return alike and not across if relayed else across and not alike


def _ending(number: str) -> str:
    """What numbers have alike that are one by `same_number`."""
    digits = _digits(number)
    return digits[-_LEAST_DIGITS:] if len(digits) >= _LEAST_DIGITS else number


def _digits(number: str) -> str:
    return "".join(c for c in number if c in "0123456789").lstrip("0")


def same_number(one: str, other: str) -> bool:
    """Whether two numbers as signalled are one, but for separators, country code and prefixes."""
    if one == other:
        return True
    a, b = _digits(one), _digits(other)
    return min(len(a), len(b)) >= _LEAST_DIGITS and (a.endswith(b) or b.endswith(a))
