"""Whether one call's voice is relayed in another: the same payload comes to a host in one leg and leaves it in the other.

Looked at for calls whose media meet at one host, for a few seconds' packets of some streams; nothing is read of others. Two that
only *receive* the same, as everybody on hold does from one source of music, are not joined: it has to come in to go out.
"""

from __future__ import annotations

import os
from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpRecords, parse
from rokuon.sniffer.binding import Stream
from rokuon.sniffer.model import Call, Side
from rokuon.store.merging import Files
from rokuon.store.runs import RECORD
from rokuon.store.spool import Spool

__all__ = ["LOOKED_NS", "Payloads", "Relays", "Sampler", "sampler"]

_S = 1_000_000_000
LOOKED_NS = (3 * _S, 8 * _S, 20 * _S, 60 * _S)
"""How long after the answer it is looked at: whoever is silent at first may speak later."""
_WINDOW_NS = 3 * _S
_LAG_NS = _S // 2
"""A relay takes no longer."""
_MOMENT_NS = _S // 10
_ENOUGH = 25
"""Packets."""
_NEAREST = 8
"""Calls that are compared with: those that were answered next before and after."""
_STREAMS = 4
"""Of a call that are looked at."""
_DISTINCT = 8
"""Bytes that differ within a payload; with fewer it is silence or a tone, which many have alike."""

_MOST_PACKETS = 1000
"""Of a stream that are looked at."""
_SPARE = 64

Payloads = dict[bytes, int]
"""When each came, of those that say something and came once."""
Sampler = Callable[[Sequence[Stream], int, int], list[Payloads]]


class _Voice(NamedTuple):
    """A stream of a call."""

    stream: Stream
    side: Side
    """Who speaks."""


class Relays:
    """Answered calls by the hosts at which their media end."""

    def __init__(self) -> None:
        self.sample: Sampler | None = None
        """Payloads of streams between two times; None: nothing can be looked at."""
        self._at: dict[str, list[tuple[int, int]]] = {}  # when answered and number, ascending, by host
        self._of: dict[int, tuple[int, set[str]]] = {}  # by number

    def answered(self, call: Call) -> None:
        """The call was answered, or (again) more is known of where its media go."""
        if call.answer_ns is None or self.sample is None:
            return
        _, known = self._of.setdefault(call.number, (call.answer_ns, set()))
        entry = self._of[call.number][0], call.number
        for host in {claim.address for claim in call.claims if claim.media == "audio"} - known:
            known.add(host)
            insort(self._at.setdefault(host, []), entry)

    def over(self, number: int, host: str | None = None) -> None:
        """The call is over, or (`host`) its other leg at that host is known."""
        answer_ns, known = self._of.get(number, (0, set()))
        for place in [host] if host is not None else list(known):
            there = self._at.get(place)
            if there is not None and (answer_ns, number) in there:
                there.remove((answer_ns, number))
                if not there:
                    del self._at[place]
        if host is None:
            self._of.pop(number, None)

    def look(self, call: Call, calls: Callable[[int], Call | None], streams: Callable[[Call], Iterable[Stream]], now_ns: int,
             is_same: Callable[[int, int], bool]) -> tuple[Call, bool] | None:
        """The one call that carries the voice of this, and whether its caller stands where this one's callee does."""
        sample, (answer_ns, hosts) = self.sample, self._of.get(call.number, (0, set()))
        if sample is None or not hosts:
            return None
        since, until = max(answer_ns, now_ns - _WINDOW_NS), now_ns
        mine: list[tuple[_Voice, Payloads]] | None = None
        found: dict[int, tuple[Call, bool, str]] = {}
        near = {(number, host): abs(at - answer_ns) for host in hosts
                for at, number in self._nearest(host, answer_ns, call.number)}
        for nearby in (True, False):  # whoever was answered in the same moment is the one, as a rule
            for number, host in sorted(near, key=lambda key: (near[key], key)):
                other = calls(number) if (near[number, host] <= _MOMENT_NS) == nearby else None
                if other is None or is_same(number, call.number):
                    continue
                if mine is None:
                    voices = _voices(call, streams(call), since, until)
                    mine = list(zip(voices, sample([v.stream for v in voices], since, until), strict=True))
                    if max((len(payloads) for _, payloads in mine), default=0) < _ENOUGH:
                        return None
                voices = _voices(other, streams(other), since - _LAG_NS, until)
                payloads = sample([v.stream for v in voices], since - _LAG_NS, until)
                flipped = _carried(host, mine, list(zip(voices, payloads, strict=True)))
                if flipped is not None:
                    found[number] = other, flipped, host
            if found:
                break
        if len(found) != 1:
            return None
        other, across, host = next(iter(found.values()))
        self.over(call.number, host)
        self.over(other.number, host)
        return other, across

    def _nearest(self, host: str, answer_ns: int, number: int) -> list[tuple[int, int]]:
        there = self._at.get(host, [])
        if len(there) < 2:
            return []
        at = next((i for i, entry in enumerate(there) if entry[1] == number), len(there))
        near = there[max(0, at - _NEAREST):at + 1 + _NEAREST]
        near.sort(key=lambda entry: (abs(entry[0] - answer_ns), entry[1]))
        return [entry for entry in near if entry[1] != number][:_NEAREST]


def _voices(call: Call, streams: Iterable[Stream], since_ns: int, until_ns: int) -> list[_Voice]:
    """The audio streams that a call has about then, and who speaks in them."""
    claims = {(claim.address, claim.port): claim for claim in call.claims if claim.media == "audio"}
    found: list[_Voice] = []
    for stream in streams:
        to, by = claims.get(stream.dst), claims.get(stream.src)
        claim = to or by
        if claim is None or stream.first_ns > until_ns:
            continue
        from_caller = claim.side == ("callee" if to is not None else "caller")
        found.append(_Voice(stream, "caller" if from_caller else "callee"))
    return found[-_STREAMS:]


def _carried(host: str, ours: list[tuple[_Voice, Payloads]], theirs: list[tuple[_Voice, Payloads]]) -> bool | None:
    """Whether what one call brings to a host leaves it in the other, and then whether their sides are crossed; None: no."""
    for one, other in ((ours, theirs), (theirs, ours)):
        for coming, came in one:
            if coming.stream.dst.address != host:
                continue
            for going, went in other:
                if going.stream.src.address == host and _enough(came, went):
                    return coming.side != going.side
    return None


def _enough(came: Mapping[bytes, int], went: Mapping[bytes, int]) -> bool:
    return sum(0 <= went[payload] - came[payload] <= _LAG_NS for payload in came.keys() & went.keys()) >= _ENOUGH


def sampler(spool: Spool) -> Sampler:
    """Reads what `Relays` looks at from a spool. What cannot be read is not there."""

    def sample(streams: Sequence[Stream], since_ns: int, until_ns: int) -> list[Payloads]:
        numbers = sorted({stream.number for stream in streams})
        if not numbers:
            return []
        spool.settle()
        slices = dict(zip(numbers, spool.slices(np.array(numbers, np.uint32), since_ns, until_ns), strict=True))
        try:
            with Files(spool.root) as files:
                return [_payloads(spool, files, slices[stream.number], since_ns, until_ns) for stream in streams]
        except OSError:  # given back, or damaged
            return [{} for _ in streams]

    return sample


def _payloads(spool: Spool, files: Files, slices: NDArray[np.void], since_ns: int, until_ns: int) -> Payloads:
    found: Payloads = {}
    twice: set[bytes] = set()
    left = _MOST_PACKETS
    for records_at, count, payload_at, size, base, _, _, segment in slices.tolist():
        file = files.open(spool.files([segment])[segment])
        records = np.frombuffer(os.pread(file, count * RECORD.itemsize, records_at), RECORD)
        octets = os.pread(file, size, payload_at)
        if len(records) != count or len(octets) != size:
            raise OSError("cut short")
        offset, captured = records["offset"].astype(np.int64) - base, records["captured"].astype(np.int64)
        good = (records["time_ns"] >= since_ns) & (records["time_ns"] < until_ns) & (offset >= 0) & (offset + captured <= size)
        rows = np.flatnonzero(good)[:left]
        left -= len(rows)
        records = records[rows]
        data = np.frombuffer(octets + bytes(_SPARE), np.uint8)
        packets = parse(RtpRecords(records["time_ns"].astype(np.int64), data, offset[rows], captured[rows].astype(np.int32),
                                   records["length"].astype(np.int32)))
        for time_ns, begin, length in zip(packets.time_ns.tolist(), packets.start.tolist(), packets.length.tolist(), strict=True):
            payload = octets[begin:begin + length]
            if payload in found:
                twice.add(payload)
            elif len(set(payload)) >= min(_DISTINCT, max(2, length // 2)):
                found[payload] = time_ns
    for payload in twice:
        del found[payload]
    return found
