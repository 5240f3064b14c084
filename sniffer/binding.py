"""Which span of which stream belongs to which call: media addresses and time (RFC 3264, RFC 4961).

A stream is matched by its destination (somebody said: I receive here) and its source (symmetric RTP). Of the calls that
claim it at a time one wins, by class (live, then just ended, then not yet begun), by rank (both ends > destination of an
answered call > source > destination that was only offered), then the newest. VLAN and tunnel: a claim made in the stream's
own comes first; one made elsewhere counts only if it is the only call there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import pairwise

from rokuon.sniffer.model import Call, MediaClaim, Side
from rokuon.sniffer.packet import Endpoint

__all__ = ["Binder", "Span", "Stream", "named_by"]

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
    """Of its newest packet, as far as is known; 0: not at all."""
    taken: list[tuple[int, int, int]] = field(default_factory=list)
    """Spans that calls have: (since, until, call number)."""
    disputed: list[tuple[int, int]] = field(default_factory=list)
    """Spans that several calls of other VLANs and tunnels could have had: nobody's, also when one of the calls is gone."""
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


def speaker(claim: MediaClaim, by_destination: bool) -> Side:
    """Who speaks in a stream to the address that is claimed (`by_destination`), or from it."""
    return claim.side if not by_destination else "callee" if claim.side == "caller" else "caller"


def named_by(claims: Mapping[tuple[str, int], MediaClaim], stream: Stream) -> tuple[MediaClaim, Side] | None:
    """Of claims by address the one that a stream goes to, or else comes from, and who speaks; None: none names either end."""
    to, by = claims.get(stream.dst), claims.get(stream.src)
    claim = to or by
    return None if claim is None else (claim, speaker(claim, by_destination=to is not None))


@dataclass(slots=True)
class _Entry:
    call: Call
    claim: MediaClaim

    def end_ns(self) -> int:
        ends = [t for t in (self.claim.until_ns, self.call.end_ns) if t is not None]
        return min(ends) if ends else _FOREVER


@dataclass(slots=True, frozen=True)
class _Term:
    """A time for which a claim counts."""

    since_ns: int
    until_ns: int
    kind: int
    """2: live, 1: just ended, 0: not yet begun."""
    order: tuple[int, ...]
    """The lowest wins: by class, rank, age; no two are equal."""
    entry: _Entry
    by_destination: bool


class _Crowd:
    """The calls of another VLAN or tunnel whose claims count at a time, by class."""

    def __init__(self) -> None:
        self._calls: tuple[Counter[int], ...] = (Counter(), Counter(), Counter())
        self._all: Counter[int] = Counter()
        self._leaving: list[tuple[int, int, int]] = []

    def enter(self, term: _Term) -> None:
        who = id(term.entry.call)
        self._calls[term.kind][who] += 1
        self._all[who] += 1
        heappush(self._leaving, (term.until_ns, term.kind, who))

    def leave(self, now_ns: int) -> None:
        """Takes out what ends by `now_ns`."""
        while self._leaving and self._leaving[0][0] <= now_ns:
            _, kind, who = heappop(self._leaving)
            for count in (self._calls[kind], self._all):
                count[who] -= 1
                if not count[who]:
                    del count[who]

    def cannot_tell(self, kind: int) -> bool:
        """Whether several calls could have the stream, none of them alone in the best class, which is `kind`."""
        return len(self._all) > 1 and len(self._calls[kind]) > 1

    def has(self, kind: int, call: Call) -> bool:
        return id(call) in self._calls[kind]


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

    def claimed(self) -> Iterable[tuple[str, int]]:
        """The addresses that open calls name."""
        return self._claims

    def is_claimed(self, stream: Stream) -> bool:
        """Whether any open call names one of its addresses."""
        return stream.dst in self._claims or stream.src in self._claims

    def is_only(self, stream: Stream, call: Call) -> bool:
        """Whether this call, and no other open one, names its addresses."""
        named = [*self._claims.get(stream.dst, ()), *self._claims.get(stream.src, ())]
        return bool(named) and all(entry.call is call for entry in named)

    def needed_since(self, stream: Stream) -> list[tuple[Call, int]]:
        """Open calls that name its addresses, and from when on packets of a stream that others had before may be theirs."""
        named = [*self._claims.get(stream.dst, ()), *self._claims.get(stream.src, ())]
        return [(entry.call, entry.claim.since_ns - self._lead) for entry in named]

    def naming(self, address: str, port: int, most: int) -> list[Call]:
        """Open calls that name an address for media, each once: of so many claims, the newest."""
        named = self._claims.get((address, port), ())[-most:]
        return list({id(entry.call): entry.call for entry in named}.values())

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

    def last_of(self, call: Call, stream: Stream, last_ns: int, now_ns: int) -> int:
        """The latest time up to `last_ns` (of the stream's newest packet) at which it was the call's, as things are; 0: never."""
        if not stream.taken and self.is_only(stream, call):
            return min(last_ns, now_ns)
        return max((min(last_ns, span.until_ns) for span in self._won(stream, call, now_ns, count=False)
                    if span.since_ns <= last_ns), default=0)

    def _spans(self, stream: Stream, call: Call, until_ns: int) -> Iterator[Span]:
        """What the call wins of a stream, in order of time; pieces that follow on are one."""
        pending: Span | None = None
        for span in self._won(stream, call, until_ns):
            goes_on = pending and pending.until_ns == span.since_ns and pending.claim is span.claim
            if goes_on and pending and pending.direction == span.direction:
                pending = replace(pending, until_ns=span.until_ns)
                continue
            if pending:
                yield pending
            pending = span
        if pending:
            yield pending

    def _won(self, stream: Stream, call: Call, until_ns: int, *, count: bool = True) -> Iterator[Span]:
        """Goes from cut to cut, the best active claim on top of a heap: many calls may name one address."""
        plain = self._plainly(stream, call, until_ns)
        if plain is not None:
            yield plain
            return
        named = [(e, True) for e in self._claims.get(stream.dst, ())] + [(e, False) for e in self._claims.get(stream.src, ())]
        home = [n for n in named if n[0].claim.hop.encap == stream.encap]
        if not home and stream.at_home:
            return  # addresses that two networks share: what its own call does not want is not the other's
        crossed = not home
        terms = sorted(self._terms(stream, home or named, until_ns), key=lambda t: t.since_ns)
        others = sorted((max(t[0], stream.first_ns), t[1]) for t in stream.taken if t[2] != call.number)
        cuts = {stream.first_ns, until_ns, *(t.since_ns for t in terms), *(t.until_ns for t in terms)}
        disputed = [d for d in stream.disputed if crossed]
        cuts.update(time for other in [*others, *disputed] for time in other)
        best: list[tuple[tuple[int, ...], _Term]] = []
        there = _Crowd()
        coming, gone, busy_until = 0, 0, 0
        for since, until in pairwise(sorted(t for t in cuts if stream.first_ns <= t <= until_ns)):
            while coming < len(terms) and terms[coming].since_ns <= since:
                term = terms[coming]
                coming += 1
                heappush(best, (term.order, term))
                if crossed:
                    there.enter(term)
            while best and best[0][1].until_ns <= since:
                heappop(best)
            there.leave(since)
            while gone < len(others) and others[gone][0] <= since:
                busy_until = max(busy_until, others[gone][1])
                gone += 1
            if busy_until > since or not best:
                continue
            term = best[0][1]
            unclear = there.cannot_tell(term.kind)
            if unclear or any(first <= since < last for first, last in disputed):
                if count and there.has(term.kind, call):
                    call.anomalies["ambiguous-media-vlan"] += 1
                    self.anomalies["ambiguous-media-vlan"] += 1
                    if unclear:
                        stream.disputed.append((since, until))
                        del stream.disputed[:-_MAX_TAKEN]
                continue
            if term.entry.call is call:
                claim = term.entry.claim
                yield Span(stream, since, until, speaker(claim, term.by_destination), claim, crossed)

    def _plainly(self, stream: Stream, call: Call, until_ns: int) -> Span | None:
        """What `_won` comes to where no other call has to do with the stream, and it began after its destination was named, once
        and for the whole call: most streams.
        """
        there = self._claims.get(stream.dst, ())
        if len(there) != 1 or there[0].call is not call:
            return None
        entry, claim = there[0], there[0].claim
        if claim.until_ns is not None or claim.since_ns > stream.first_ns or claim.hop.encap != stream.encap or not (
                claim.answered or self._is_between(stream, entry, True)):
            return None
        if any(e.call is not call for e in self._claims.get(stream.src, ())) or any(t[2] != call.number for t in stream.taken):
            return None
        until = until_ns if call.end_ns is None else min(until_ns, call.end_ns + self._linger)
        if until <= stream.first_ns:
            return None
        return Span(stream, stream.first_ns, until, speaker(claim, by_destination=True), claim, False)

    def _terms(self, stream: Stream, named: list[tuple[_Entry, bool]], until_ns: int) -> Iterator[_Term]:
        """When each claim is live, when it lingers, and when it reaches back."""
        for n, (entry, by_destination) in enumerate(named):
            begin, end = entry.claim.since_ns, entry.end_ns()
            both = self._is_between(stream, entry, by_destination)
            if 0 < stream.last_ns < begin and not both:
                continue  # over before the offer, and with somebody else: a call without signalling that used the port before
            rank = self._rank(entry, by_destination, both)
            for kind, first, last in ((2, begin, end), (1, end, end + self._linger), (0, self._lead_of(entry, stream), begin)):
                newest = begin if kind else -begin  # before any offer: the next to come
                since, until = max(first, stream.first_ns), min(last, until_ns)
                if since < until:
                    yield _Term(since, until, kind, (-kind, -rank, -newest, n), entry, by_destination)

    def _lead_of(self, entry: _Entry, stream: Stream) -> int:
        """From when on packets before the offer are the call's: all of a stream that no call had before, if it is answered."""
        since = entry.claim.since_ns
        if entry.claim.answered and not any(t[2] != entry.call.number for t in stream.taken):
            return min(since, stream.first_ns)
        return since - self._lead

    @staticmethod
    def _is_between(stream: Stream, entry: _Entry, by_destination: bool) -> bool:
        """Whether the call's other side names the stream's other end."""
        claim, other = entry.claim, stream.src if by_destination else stream.dst
        return any(c.address == other.address and c.port == other.port and c.side != claim.side for c in entry.call.claims)

    @staticmethod
    def _rank(entry: _Entry, by_destination: bool, both: bool) -> int:
        if both:
            return 3 if by_destination else 2
        if by_destination:
            return 2 if entry.claim.answered else 0
        return 1
