"""Offer and answer (RFC 3264) as seen on the wire: who receives media where, from when to when, and who holds.

`OfferAnswer` keeps what each party said at each hop. An *exchange* is one transaction that carries an offer, an answer or
both (INVITE with its ACK, UPDATE, PRACK), named by who began it and its CSeq number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rokuon.sniffer.exchange import Exchange, address_kind, alike, differ, direction, has_fax
from rokuon.sniffer.model import (
    Call,
    CallEvent,
    FormerFormat,
    Hop,
    MediaClaim,
    MediaDescription,
    PayloadFormat,
    SessionDescription,
    Side,
)

__all__ = ["CLAIMS", "Changes", "ClaimAdded", "ClaimEnded", "OfferAnswer"]

CLAIMS = 64
"""Claims a call may have."""
_EVENTS = 1_000
_EXCHANGES = 32
_SEEN = 128
_PARTIES = 64
_MEDIA = frozenset(("audio", "video", "image"))
_FORMER = 16
_HOLDING = frozenset(("sendonly", "inactive", "unaddressed"))


@dataclass(slots=True, frozen=True)
class ClaimAdded:
    """A side named a new address for media."""

    call: Call
    claim: MediaClaim


@dataclass(slots=True, frozen=True)
class ClaimEnded:
    """A side's media moved elsewhere: the claim now has its `until_ns`."""

    call: Call
    claim: MediaClaim


class Changes(Protocol):
    """Where changes are put: a list of these or of more."""

    def append(self, change: ClaimAdded | ClaimEnded, /) -> None:
        """Adds one."""


@dataclass(slots=True)
class _Undo:
    claim: MediaClaim
    formats: Mapping[int, PayloadFormat]
    rtcp_port: int
    proto: str


class _Party:
    """What one party said at one hop: claims by index of the m= section."""

    __slots__ = ("current", "exchange", "pending", "undo")

    def __init__(self) -> None:
        self.current: list[MediaClaim | None] = []
        self.pending: list[MediaClaim | None] | None = None
        self.exchange: Exchange | None = None
        self.undo: list[_Undo] = []


class OfferAnswer:
    """All exchanges of one call."""

    __slots__ = ("_answered", "_call", "_caller_tag", "_directions", "_exchanges", "_fax", "_holds", "_parties", "_seen")

    def __init__(self, call: Call, caller_tag: str) -> None:
        self._call = call
        self._caller_tag = caller_tag
        self._parties: dict[tuple[Hop, str], _Party] = {}
        self._exchanges: dict[tuple[bool, int, str], Exchange] = {}
        self._seen: dict[object, None] = {}
        self._answered: set[str] = set()  # callees' tags
        self._directions: dict[Side, str] = {}
        self._holds: set[Side] = set()
        self._fax = False

    def exchange(self, by_caller: bool, cseq: int, time_ns: int, peer: str = "") -> Exchange:
        """The exchange of that name; begun at `time_ns` if it is new.

        `peer`: the callee's tag, as requests are numbered in each dialog by itself (RFC 3261 12.2.1.1); "" where the request
        makes the dialogs, which share its offer.
        """
        found = self._exchanges.get((by_caller, cseq, "")) or self._exchanges.get((by_caller, cseq, peer))
        if found is None:
            if len(self._exchanges) >= _EXCHANGES:
                del self._exchanges[next(iter(self._exchanges))]
            found = self._exchanges[by_caller, cseq, peer] = Exchange(time_ns)
        return found

    def awaiting(self, by_caller: bool, cseq: int, peer: str) -> Exchange | None:
        """The exchange whose answer is still to come in the ACK (RFC 3261 13.2.1), if none has the number of that ACK."""
        if (by_caller, cseq, "") in self._exchanges or (by_caller, cseq, peer) in self._exchanges:
            return None
        side: Side = "caller" if by_caller else "callee"
        for (by, _, tag), exchange in reversed(self._exchanges.items()):
            if by == by_caller and tag in ("", peer) and exchange.agreed and not exchange.answered and exchange.offerer not in (
                    side, None):
                return exchange
        return None

    def describe(self, exchange: Exchange, time_ns: int, sdp: SessionDescription, changes: Changes, *, hop: Hop, tag: str,
                 leg: int, what: object) -> None:
        """A party (`tag`) describes what it receives, as part of `exchange`, at `hop`.

        `what` names the message: once more the same at the same hop says nothing new.
        """
        key = hop, what, sdp.origin, tuple([(m.address, m.port) for m in sdp.media])
        if key in self._seen:
            return
        if len(self._seen) >= _SEEN:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        side: Side = "caller" if tag == self._caller_tag else "callee"
        before = exchange.said.get((hop, tag))
        if before == sdp:  # in a 2xx what a provisional response said: it may have been changed by UPDATE since
            return
        if before is not None or len(exchange.said) < _PARTIES:
            exchange.said[hop, tag] = sdp
        if before is not None and side == "callee" and exchange.offerer == "caller" and not alike(before, sdp):
            self._count("answer-changed")  # it must be the same, and phones move on so (RFC 3261 13.2.1)
        if exchange.offerer is None:
            exchange.offerer, exchange.offered = side, direction(sdp)
            exchange.fax = has_fax(sdp), False
        elif exchange.offerer != side and not exchange.answered:
            exchange.answered = direction(sdp)
            exchange.fax = exchange.fax[0], has_fax(sdp)
            offer = next((said for (where, who), said in exchange.said.items() if where == hop and who != tag), sdp)
            if len(sdp.media) != len(offer.media):  # RFC 3264 6
                self._count("answer-sections-differ")
        if exchange.agreed is False:
            return
        party = self._parties.get((hop, tag))
        if party is None:
            if len(self._parties) >= _PARTIES:
                self._count("parties-dropped")
                return
            party = self._parties[hop, tag] = _Party()
        self._propose(party, exchange, time_ns, sdp, changes, hop=hop, side=side, leg=leg)
        if exchange.agreed:
            self._commit(party, time_ns, side == "caller" or tag in self._answered, changes)
            if not exchange.held and exchange.answered:
                self._hold(exchange)

    def agree(self, exchange: Exchange, requester: Side, time_ns: int, changes: Changes) -> None:
        """2xx: what was offered and answered in `exchange` is in force, at every hop. `requester`: who sent its request."""
        if exchange.agreed is not None:
            return
        exchange.agreed = True
        for (_, tag), party in self._parties.items():
            if party.exchange is exchange:
                self._commit(party, time_ns, tag == self._caller_tag or tag in self._answered, changes)
        if exchange.answered or exchange.offerer == requester:  # else the answer is in the ACK (RFC 3261 13.2.1)
            self._hold(exchange)

    def refuse(self, exchange: Exchange, time_ns: int, changes: Changes) -> None:
        """A final refusal: what was offered is void, what was in force stays (RFC 3261 14.1, RFC 3264 8)."""
        if exchange.agreed is not None:
            return
        exchange.agreed = False
        for party in self._parties.values():
            if party.exchange is exchange and party.pending is not None:
                self._drop(party, [], time_ns, changes)
                for undo in reversed(party.undo):
                    undo.claim.formats, undo.claim.rtcp_port, undo.claim.proto = undo.formats, undo.rtcp_port, undo.proto
                party.pending, party.exchange, party.undo = None, None, []

    def answer(self, tag: str, leg: int, time_ns: int, changes: Changes) -> None:
        """The callee `tag` answered the call with 2xx; the descriptions of branches that did not are over."""
        first = not self._answered
        self._answered.add(tag)
        for (_, other), party in self._parties.items():
            if other in (tag, self._caller_tag):
                for claim in party.current:
                    if claim is not None and claim.until_ns is None:
                        claim.answered = True
                        if other == tag:
                            claim.leg = leg
        for (hop, other), party in self._parties.items():
            if first and other not in (tag, self._caller_tag):
                winner = self._parties.get((hop, tag))
                kept = winner.current if winner else []
                self._drop(party, kept, time_ns, changes)
                for claim in party.current:
                    self._end(claim, kept, time_ns, changes)
                party.current, party.pending, party.exchange = [], None, None

    def abandon(self, tag: str, time_ns: int, changes: Changes) -> None:
        """The early dialog with the callee `tag` is over (RFC 6228); another branch may have named the same address."""
        if tag in self._answered or tag == self._caller_tag:
            return
        kept = [claim for (_, other), party in self._parties.items() if other != tag
                for claim in (*party.current, *(party.pending or ()))]
        for (_, other), party in self._parties.items():
            if other == tag:
                self._drop(party, kept, time_ns, changes)
                for claim in party.current:
                    self._end(claim, kept, time_ns, changes)
                party.current, party.pending, party.exchange, party.undo = [], None, None, []

    def _propose(self, party: _Party, exchange: Exchange, time_ns: int, sdp: SessionDescription, changes: Changes, *, hop: Hop,
                 side: Side, leg: int) -> None:
        """Makes a description the party's pending one; claims that it repeats are renewed in place."""
        before = party.pending or []
        undo = party.undo  # also of an offer that was never decided
        proposed: list[MediaClaim | None] = []
        for i, m in enumerate(sdp.media[:CLAIMS]):
            current = party.current[i] if i < len(party.current) else None
            kind = address_kind(m.address)
            claim = None
            if m.port and m.media in _MEDIA and kind == "named":
                claim = self._repeated(m, current, before[i] if i < len(before) else None) or self._elsewhere(m, hop, side)
                if claim is None:
                    claim = self._claim(m, time_ns, changes, hop=hop, side=side, leg=leg)
                else:
                    undo.append(_Undo(claim, claim.formats, claim.rtcp_port, claim.proto))
                    claim.formats, claim.rtcp_port, claim.proto = self._meanings(claim, m), m.rtcp_port, m.proto
            elif m.port and kind == "unaddressed":
                claim = current  # held in the manner of RFC 2543: it will be back, most likely at the same address
            elif m.port and m.media in _MEDIA:
                self._count("media-address-unusable")
            proposed.append(claim)
        if party.pending is not None:
            self._drop(party, proposed, time_ns, changes)
        party.exchange = exchange
        if party.current:
            party.pending, party.undo = proposed, undo
        else:  # the first description there: nothing it could be taken back to
            party.current, party.pending, party.undo = proposed, None, []

    def _meanings(self, claim: MediaClaim, m: MediaDescription) -> Mapping[int, PayloadFormat]:
        """What payload types mean there from now on: also those that are not spoken of any more, for what came before.

        A codec may get another number in mid-call, but no number another codec (RFC 3264 8.3.2); who does that is counted.
        """
        before, now = claim.formats, m.formats
        if before == now:
            return now
        if any(differ(now[n], form) for n, form in before.items() if n in now):
            self._count("payload-type-remapped")
        return {**now, **{n: form for n, form in before.items() if n not in now}}

    @staticmethod
    def _outdate(claim: MediaClaim, before: Mapping[int, PayloadFormat], time_ns: int) -> None:
        """Keeps what payload types meant until now, where they mean something else from now on."""
        for number, form in before.items():
            if number in claim.formats and differ(claim.formats[number], form) and len(claim.former) < _FORMER:
                claim.former.append(FormerFormat(time_ns, number, form))

    @staticmethod
    def _repeated(m: MediaDescription, *claims: MediaClaim | None) -> MediaClaim | None:
        for claim in claims:
            if (claim is not None and claim.address == m.address and claim.port == m.port and claim.media == m.media
                    and claim.until_ns is None):
                return claim
        return None

    def _elsewhere(self, m: MediaDescription, hop: Hop, side: Side) -> MediaClaim | None:
        """The same address named by another branch of the callee (183 of one dialog, 200 of another), or another section."""
        for claim in self._call.claims:
            if (claim.port == m.port and claim.address == m.address and claim.hop == hop and claim.side == side
                    and claim.media == m.media and claim.until_ns is None):
                return claim
        return None

    def _claim(self, m: MediaDescription, time_ns: int, changes: Changes, *, hop: Hop, side: Side, leg: int) -> MediaClaim | None:
        if len(self._call.claims) >= CLAIMS:
            self._count("claims-dropped")
            return None
        claim = MediaClaim(side, leg, hop, m.media, m.address, m.port, m.rtcp_port, m.proto, m.formats, time_ns)
        self._call.claims.append(claim)
        changes.append(ClaimAdded(self._call, claim))
        return claim

    def _commit(self, party: _Party, time_ns: int, answered: bool, changes: Changes) -> None:
        """The pending description is in force: what it moved ends."""
        if party.pending is not None:
            for claim in party.current:
                self._end(claim, party.pending, time_ns, changes)
            for undo in reversed(party.undo):
                self._outdate(undo.claim, undo.formats, time_ns)
            party.current, party.pending, party.undo = party.pending, None, []
        if answered and self._answered:
            for claim in party.current:
                if claim is not None:
                    claim.answered = True

    def _drop(self, party: _Party, kept: list[MediaClaim | None], time_ns: int, changes: Changes) -> None:
        """The pending description is void, but for claims in force or in `kept`."""
        for claim in party.pending or ():
            if not any(claim is c for c in party.current):
                self._end(claim, kept, time_ns, changes)

    def _end(self, claim: MediaClaim | None, kept: list[MediaClaim | None], time_ns: int, changes: Changes) -> None:
        if claim is not None and claim.until_ns is None and not any(claim is c for c in kept):
            claim.until_ns = max(time_ns, claim.since_ns)
            changes.append(ClaimEnded(self._call, claim))

    def _hold(self, exchange: Exchange) -> None:
        """What an exchange in force means for hold (RFC 3264 8.4, RFC 6337 5.3), and for fax (RFC 3362, ITU-T T.38 annex D).

        Who offers sendonly, inactive or c=0.0.0.0 holds, unless it only repeats what it said; who answers so holds if it was
        offered sendrecv. An answer that was bound to be one-way tells nothing of the one who gives it.
        """
        exchange.held = True
        offerer, offered, answered = exchange.offerer, exchange.offered, exchange.answered
        if offerer is None or not offered:
            return
        if all(exchange.fax) != self._fax:
            self._fax = not self._fax
            self._note(CallEvent(exchange.time_ns, "codec-change", offerer, "audio to T.38" if self._fax else "T.38 to audio"))
        other: Side = "callee" if offerer == "caller" else "caller"
        begun = offerer in self._directions
        if begun and self._answered:
            if offered not in _HOLDING:
                self._mark(offerer, False, exchange.time_ns)
            elif self._directions[offerer] not in _HOLDING:
                self._mark(offerer, True, exchange.time_ns)
                if offered == "unaddressed":  # as RFC 2543 had it (RFC 3264 8.4)
                    self._count("hold-by-zero-address")
            if offered == "sendrecv" and answered in _HOLDING and self._directions.get(other) not in _HOLDING:
                self._mark(other, True, exchange.time_ns)
            elif offered in ("sendrecv", "sendonly") and answered in ("sendrecv", "recvonly"):
                self._mark(other, False, exchange.time_ns)
        self._directions[offerer] = offered
        if answered:
            self._directions[other] = answered

    def _mark(self, side: Side, holds: bool, time_ns: int) -> None:
        if (side in self._holds) == holds:
            return
        self._note(CallEvent(time_ns, "hold" if holds else "resume", side))
        (self._holds.add if holds else self._holds.discard)(side)

    def _note(self, event: CallEvent) -> None:
        if len(self._call.events) >= _EVENTS:
            self._count("events-dropped")
        else:
            self._call.events.append(event)

    def _count(self, name: str) -> None:
        self._call.anomalies[name] += 1
