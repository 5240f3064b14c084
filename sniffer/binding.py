"""Which span of which stream belongs to which call: media addresses and time (RFC 3264, RFC 4961).

A stream is matched by its destination (somebody said: I receive here) and its source (symmetric RTP). Of the calls that
claim it at a time one wins, by class (live, then just ended, then not yet begun), by rank (both ends > destination of an
answered call > source > destination that was only offered), then the newest. VLAN and tunnel: a claim made in the stream's
own comes first; one made elsewhere counts only if it is the only call there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from rokuon.sniffer.model import Call, MediaClaim, Side
from rokuon.sniffer.packet import Endpoint

__all__ = ["Binder", "Span", "Stream"]

_FOREVER = 1 << 62
_S = 1_000_000_000
_MAX_TAKEN = 256


@dataclass(slots=True, eq=False)
class Stream:
    """What binding knows of an RTP stream."""

    number: int
    src: Endpoint
    dst: Endpoint
    encap: int
    ssrc: int
    first_ns: int
    last_ns: int = 0
    taken: list[tuple[int, int, int]] = field(default_factory=list)
    """Spans that calls have: (since, until, call number)."""
    at_home: bool = False
    """A call that was signalled in the stream's own VLAN and tunnel had part of it: no other network's call ever will."""


@dataclass(slots=True, frozen=True)
class Span:
    """Part of a stream that is a call's: since <= time < until."""

    stream: Stream
    since_ns: int
    until_ns: int
    direction: Side
    """Who speaks."""
    claim: MediaClaim
    crossed: bool
    """Signalling was seen in another VLAN or tunnel than the media."""


@dataclass(slots=True)
class _Entry:
    call: Call
    claim: MediaClaim

    def end_ns(self) -> int:
        ends = [t for t in (self.claim.until_ns, self.call.end_ns) if t is not None]
        return min(ends) if ends else _FOREVER


class Binder:
    """Streams and claims by address. Bounded by what its users add and remove: `forget`, `end`."""

    def __init__(self, linger_ns: int = 1 * _S, lead_ns: int = 5 * _S) -> None:
        self._linger = linger_ns
        self._lead = lead_ns
        self._claims: dict[tuple[str, int], list[_Entry]] = {}
        self._at: dict[tuple[str, int], dict[int, Stream]] = {}  # by number
        self.anomalies: Counter[str] = Counter()

    # -- what there is -------------------------------------------------------
    def add(self, stream: Stream) -> None:
        for end in {stream.src, stream.dst}:
            self._at.setdefault(end, {})[stream.number] = stream

    def forget(self, stream: Stream) -> None:
        """The stream is over and done with."""
        for end in {stream.src, stream.dst}:
            there = self._at.get(end)
            if there and there.pop(stream.number, None) and not there:
                del self._at[end]

    def claim(self, call: Call, claim: MediaClaim) -> None:
        """A call names an address."""
        self._claims.setdefault((claim.address, claim.port), []).append(_Entry(call, claim))

    def end(self, call: Call) -> None:
        """The call is bound for good: its claims go."""
        for claim in call.claims:
            key = (claim.address, claim.port)
            left = [e for e in self._claims.get(key, ()) if e.call is not call]
            if left:
                self._claims[key] = left
            else:
                self._claims.pop(key, None)

    def is_claimed(self, stream: Stream) -> bool:
        """Whether any open call names one of its addresses."""
        return stream.dst in self._claims or stream.src in self._claims

    def streams_of(self, call: Call) -> list[Stream]:
        """Streams from or to an address that the call claims, each once, by number."""
        found: dict[int, Stream] = {}
        for claim in call.claims:
            found.update(self._at.get((claim.address, claim.port), {}))
        return [found[number] for number in sorted(found)]

    def streams_between(self, one: Endpoint, other: Endpoint) -> list[Stream]:
        """Streams from one address to the other, and back."""
        there = min(self._at.get(one, {}), self._at.get(other, {}), key=len)
        return [s for s in there.values() if {s.src, s.dst} == {one, other}]

    # -- who wins ------------------------------------------------------------
    def bind(self, call: Call, until_ns: int) -> list[Span]:
        """The spans that are the call's, up to a time, with what is known now. They are taken from then on."""
        spans = [span for stream in self.streams_of(call) for span in self._spans(stream, call, until_ns)]
        for span in spans:
            taken = span.stream.taken
            taken[:] = [t for t in taken if t[2] != call.number or t[1] <= span.since_ns or t[0] >= span.until_ns]
            taken.append((span.since_ns, span.until_ns, call.number))
            span.stream.at_home |= not span.crossed
            del taken[:-_MAX_TAKEN]
        return spans

    def _spans(self, stream: Stream, call: Call, until_ns: int) -> Iterator[Span]:
        named = [(e, True) for e in self._claims.get(stream.dst, ())] + [(e, False) for e in self._claims.get(stream.src, ())]
        cuts = {stream.first_ns, until_ns}
        for entry, _ in named:
            end = entry.end_ns()
            cuts.update((entry.claim.since_ns, self._lead_of(entry, stream), end, min(end, _FOREVER) + self._linger))
        for since, until, _ in stream.taken:
            cuts.update((since, until))
        times = sorted(t for t in cuts if stream.first_ns <= t <= until_ns)
        pending: Span | None = None
        for since, until in pairwise(times):
            span = self._winner(stream, call, named, since, until)
            goes_on = span and pending and pending.until_ns == since and pending.claim is span.claim
            if goes_on and span and pending and pending.direction == span.direction:
                pending = Span(stream, pending.since_ns, until, span.direction, span.claim, span.crossed)
                continue
            if pending:
                yield pending
            pending = span
        if pending:
            yield pending

    def _lead_of(self, entry: _Entry, stream: Stream) -> int:
        """From when on packets before the offer are the call's: all of a stream that no call had before, if it is answered."""
        since = entry.claim.since_ns
        if entry.claim.answered and not any(t[2] != entry.call.number for t in stream.taken):
            return min(since, stream.first_ns)
        return since - self._lead

    def _winner(self, stream: Stream, call: Call, named: list[tuple[_Entry, bool]], since: int, until: int) -> Span | None:
        """The call's span from `since` to `until`, if it wins there; no cut lies between."""
        if any(t[0] <= since < t[1] and t[2] != call.number for t in stream.taken):
            return None
        active: list[tuple[int, _Entry, bool]] = []  # class, entry, by destination
        for entry, by_destination in named:
            end = entry.end_ns()
            if entry.claim.since_ns <= since < end:
                active.append((2, entry, by_destination))
            elif end <= since < end + self._linger:
                active.append((1, entry, by_destination))
            elif self._lead_of(entry, stream) <= since < entry.claim.since_ns:
                active.append((0, entry, by_destination))
        if not active:
            return None
        own = [a for a in active if a[1].claim.hop.encap == stream.encap]
        crossed = not own
        if crossed and (stream.at_home or any(e.claim.hop.encap == stream.encap for e, _ in named)):
            return None  # addresses that two networks share: what its own call does not want is not the other's
        if crossed and len({id(a[1].call) for a in active}) > 1:
            top = max(a[0] for a in active)
            active = [a for a in active if a[0] == top]
            if len({id(a[1].call) for a in active}) > 1:
                if any(a[1].call is call for a in active):
                    call.anomalies["ambiguous-media-vlan"] += 1
                    self.anomalies["ambiguous-media-vlan"] += 1
                return None
        best: tuple[tuple[int, int, int], _Entry, bool] | None = None
        for kind, entry, by_destination in own or active:
            rank = self._rank(stream, entry, by_destination)
            newest = entry.claim.since_ns if kind else -entry.claim.since_ns  # before any offer: the next to come
            if best is None or (kind, rank, newest) > best[0]:
                best = (kind, rank, newest), entry, by_destination
        assert best is not None
        _, entry, by_destination = best
        if entry.call is not call:
            return None
        speaks: Side = ("callee" if entry.claim.side == "caller" else "caller") if by_destination else entry.claim.side
        return Span(stream, since, until, speaks, entry.claim, crossed)

    @staticmethod
    def _rank(stream: Stream, entry: _Entry, by_destination: bool) -> int:
        claim, other = entry.claim, stream.src if by_destination else stream.dst
        if any(c.address == other.address and c.port == other.port and c.side != claim.side for c in entry.call.claims):
            return 3 if by_destination else 2
        if by_destination:
            return 2 if claim.answered else 0
        return 1
