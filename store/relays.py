"""Whether one call's voice is relayed in another: the same payload comes to a host in one leg and leaves it in the other.

Looked at for calls whose media meet at one host, at a few moments of each: of all that are looked at then a second or two of
packets is read, once. Two that only *receive* the same, as everybody on hold does from one source of music, are not joined: it
has to come in to go out.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpRecords, parse
from rokuon.sniffer.binding import Stream, named_by
from rokuon.sniffer.model import Call, Side
from rokuon.store.merging import Files
from rokuon.store.runs import RECORD
from rokuon.store.spool import Spool

__all__ = ["LOOKED_NS", "Payloads", "Relays", "Sampler", "next_look", "sampler"]

_S = 1_000_000_000
LOOKED_NS = (3 * _S, 8 * _S, 20 * _S, 60 * _S)
"""How long after the answer it is looked at: whoever is silent at first may speak later."""
_GRID_NS = 2 * _S
"""It is looked at when packet time is a multiple of this, so that many calls are looked at together."""
_WINDOW_NS = 1_600_000_000
_LAG_NS = _S // 2
"""A relay takes no longer."""
_MOMENT_NS = _S // 10
"""Calls that were answered so soon one after the other are looked at with one another in any case."""
_ENOUGH = 25
"""Packets."""
_FEW = 32
"""Calls at one host: up to so many all are looked at when it is one's time."""
_STREAMS = 4
"""Of a call that are looked at."""
_DISTINCT = 8
"""Bytes that differ within a payload; with fewer it is silence or a tone, which many have alike."""
_JUDGED = 64
"""Bytes of a payload in which they are counted."""
_SMALL = 4
_MOST_ALIKE = 8
"""Streams that may have a payload."""
_MOST_PACKETS = 1000
"""Of a stream that are looked at."""
_SPARE = 64

Payloads = dict[bytes, int]
"""When each came, of those that say something and came once."""
Sampler = Callable[[Sequence[Stream], int, int], list[Payloads]]
Lookup = Callable[[int], Call | None]


class _Voice(NamedTuple):
    """A stream of a call."""

    call: int
    stream: Stream
    side: Side
    """Who speaks."""


def next_look(answer_ns: int, delay_ns: int) -> int:
    """When a call that was answered then is looked at."""
    return -(-(answer_ns + delay_ns) // _GRID_NS) * _GRID_NS


class Relays:
    """Answered calls by the hosts at which their media end, but for those whose other leg there is known."""

    def __init__(self) -> None:
        self.sample: Sampler | None = None
        """Payloads of streams between two times; None: nothing can be looked at."""
        self._at: dict[str, list[tuple[int, int]]] = {}  # when answered and number, ascending, by host
        self._of: dict[int, tuple[int, dict[str, bool]]] = {}  # by number: when answered; hosts, and whether they are in `_at`

    def answered(self, call: Call) -> None:
        """The call was answered, or (again) more is known of where its media go."""
        if call.answer_ns is None or self.sample is None:
            return
        answer_ns, known = self._of.setdefault(call.number, (call.answer_ns, {}))
        for host in {claim.address for claim in call.claims if claim.media == "audio"} - known.keys():
            known[host] = True
            insort(self._at.setdefault(host, []), (answer_ns, call.number))

    def over(self, number: int) -> None:
        """The call is over."""
        for host in list(self._of.get(number, (0, {}))[1]):
            self._leave(number, host)
        self._of.pop(number, None)

    def joined(self, one: Call, other: Call, flipped: bool) -> None:
        """Two are legs of one, the older first: at the host that relays between them nobody else is looked for."""
        hosts = _between(one, other, flipped)
        for host in hosts & self._of.get(one.number, (0, {}))[1].keys() & self._of.get(other.number, (0, {}))[1].keys():
            self._leave(one.number, host)
            self._leave(other.number, host)

    def _leave(self, number: int, host: str) -> None:
        answer_ns, known = self._of[number]
        if known[host]:
            known[host] = False
            del self._at[host][bisect_left(self._at[host], (answer_ns, number))]
            if not self._at[host]:
                del self._at[host]

    def look(self, due: Iterable[Call], calls: Lookup, streams: Callable[[Call], Iterable[Stream]],
             until_ns: int) -> list[tuple[Call, Call, bool]]:
        """Which calls carry the voice of those whose time it is, and whether the caller of the one stands where the callee of
        the other does: what was sent until then tells.
        """
        met: dict[str, set[int]] = {}
        for call in due:
            answer_ns, hosts = self._of.get(call.number, (0, {}))
            for host in (host for host, open_ in hosts.items() if open_ and len(self._at[host]) > 1):
                met.setdefault(host, {call.number}).update(self._near(host, answer_ns), (call.number,))
        there = {number: known for number in sorted(set().union(*met.values())) if (known := calls(number)) is not None}
        met = {host: some & there.keys() for host, some in met.items()}
        met = {host: some for host, some in met.items() if _may_relay(host, [there[number] for number in some])}
        there = {number: call for number, call in there.items() if any(number in some for some in met.values())}
        since_ns = until_ns - _WINDOW_NS
        voices = [voice for each in there.values() for voice in _voices(each, streams(each), since_ns, until_ns)]
        if len(there) < 2 or self.sample is None:
            return []
        payloads = self.sample([voice.stream for voice in voices], since_ns, until_ns)
        found: list[tuple[Call, Call, bool]] = []
        for host in sorted(met):
            mine = [(v, p) for v, p in zip(voices, payloads, strict=True) if v.call in met[host]]
            for one, other, flipped in _pairs(host, mine):
                found.append((there[one], there[other], flipped))
        return found

    def _near(self, host: str, answer_ns: int) -> Iterable[int]:
        there = self._at[host]
        if len(there) > _FEW:
            there = there[bisect_left(there, (answer_ns - _MOMENT_NS, 0)):bisect_right(there, (answer_ns + _MOMENT_NS, 1 << 62))]
        return (number for _, number in there)


def _may_relay(host: str, calls: Sequence[Call]) -> bool:
    """Whether a host is somebody's caller and another's callee, as it is between two legs; where many call or are called at one
    host, as behind a gateway, nothing is passed on. (One that rings both parties is found where it has few calls.)
    """
    sides = [{claim.side for claim in call.claims if claim.address == host} for call in calls]
    return len(calls) > 1 and (len(calls) <= _SMALL or {"caller", "callee"} <= set().union(*sides))


def _between(older: Call, younger: Call, flipped: bool) -> set[str]:
    """The hosts that may relay from one call to the other."""
    (a, b), (c, d) = (tuple({claim.address for claim in call.claims if claim.media == "audio" and claim.side == side}
                            for side in ("caller", "callee")) for call in (older, younger))
    return (a & c) | (b & d) if flipped else (b & c) or (a & d)


def _pairs(host: str, voices: Sequence[tuple[_Voice, Payloads]]) -> list[tuple[int, int, bool]]:
    """Calls of which what comes to a host in one leaves it in the other; whether they are crossed.

    Each with one other only; or both voices do, either way: others may hear what two say to one another (a recorder, a
    supervisor), and a call that goes out to the provider and comes back is relayed twice at one host.
    """
    came: dict[bytes, list[tuple[_Voice, int]]] = defaultdict(list)
    for voice, payloads in voices:
        if voice.stream.dst.address == host:
            for payload, time_ns in payloads.items():
                came[payload].append((voice, time_ns))
    echoes: set[bytes] = set()
    """Of a host that sends back what it is sent: two that say the same to it hear nothing of one another."""
    alike: Counter[tuple[int, int, bool]] = Counter()  # in which it comes, in which it leaves
    going = [(voice, payloads) for voice, payloads in voices if voice.stream.src.address == host]
    for voice, payloads in going:
        for payload in came.keys() & payloads.keys():
            if any(coming.call == voice.call for coming, _ in came[payload]):
                echoes.add(payload)
    for voice, payloads in going:
        for payload in (came.keys() & payloads.keys()) - echoes:
            for coming, time_ns in came[payload] if len(came[payload]) <= _MOST_ALIKE else ():
                if 0 <= payloads[payload] - time_ns <= _LAG_NS:
                    alike[coming.call, voice.call, coming.side != voice.side] += 1
    ways = {way for way, count in alike.items() if count >= _ENOUGH}
    partners: dict[int, set[int]] = defaultdict(set)
    for one, other, _ in ways:
        partners[one].add(other)
        partners[other].add(one)
    return sorted({(min(one, other), max(one, other), crossed) for one, other, crossed in ways
                   if (other, one, crossed) in ways or len(partners[one]) == 1 == len(partners[other])})


def _voices(call: Call, streams: Iterable[Stream], since_ns: int, until_ns: int) -> list[_Voice]:
    """The audio streams that a call has about then, and who speaks in them."""
    claims = {(claim.address, claim.port): claim for claim in call.claims if claim.media == "audio"}
    found: list[_Voice] = []
    for stream in streams:
        if stream.first_ns <= until_ns and (named := named_by(claims, stream)) is not None:
            found.append(_Voice(call.number, stream, named[1]))
    return found[-_STREAMS:]


def sampler(spool: Spool) -> Sampler:
    """Reads what `Relays` looks at from a spool. What cannot be read is not there."""

    def sample(streams: Sequence[Stream], since_ns: int, until_ns: int) -> list[Payloads]:
        numbers = sorted({stream.number for stream in streams})
        if not numbers:
            return []
        spool.settle()
        try:
            slices = dict(zip(numbers, spool.slices(np.array(numbers, np.uint32), since_ns, until_ns), strict=True))
            with Files(spool.root) as files:
                return [_payloads(spool, files, slices[stream.number], since_ns, until_ns) for stream in streams]
        except OSError:  # given back, or damaged
            return [{} for _ in streams]

    return sample


def _payloads(spool: Spool, files: Files, slices: NDArray[np.void], since_ns: int, until_ns: int) -> Payloads:
    found: Payloads = {}
    sent: dict[bytes, int] = {}  # under which sequence number; a mirror may bring a packet more than once
    twice: set[bytes] = set()
    left = _MOST_PACKETS
    for records_at, count, payload_at, size, base, _, _, segment in slices.tolist():
        file = files.open(spool.files([segment])[segment])
        rows_read, octets = os.pread(file, count * RECORD.itemsize, records_at), os.pread(file, size, payload_at)
        if len(rows_read) != count * RECORD.itemsize or len(octets) != size:
            raise OSError("cut short")
        records = np.frombuffer(rows_read, RECORD)
        offset, captured = records["offset"].astype(np.int64) - base, records["captured"].astype(np.int64)
        good = (records["time_ns"] >= since_ns) & (records["time_ns"] < until_ns) & (offset >= 0) & (offset + captured <= size)
        rows = np.flatnonzero(good)[:left]
        left -= len(rows)
        records = records[rows]
        data = np.frombuffer(octets + bytes(_SPARE), np.uint8)
        packets = parse(RtpRecords(records["time_ns"].astype(np.int64), data, offset[rows], captured[rows].astype(np.int32),
                                   records["length"].astype(np.int32)))
        for time_ns, number, begin, length in zip(packets.time_ns.tolist(), packets.sequence.tolist(), packets.start.tolist(),
                                                  packets.length.tolist(), strict=True):
            payload = octets[begin:begin + length]
            if payload in found:
                if sent[payload] != number:
                    twice.add(payload)
            elif len(set(payload[:_JUDGED])) >= min(_DISTINCT, max(2, length // 2)):
                found[payload], sent[payload] = time_ns, number
    for payload in twice:
        del found[payload]
    return found
