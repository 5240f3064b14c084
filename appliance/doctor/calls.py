"""What calls that are over tell of the mirror: which of what their signalling announced was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rokuon.appliance.doctor.streams import Streams
from rokuon.decoders import registry
from rokuon.decoders.api import DecoderUnavailable, PayloadFormat
from rokuon.sniffer.binding import Span
from rokuon.sniffer.model import Call, MediaClaim, Side
from rokuon.store.ended import Ended, Piece
from rokuon.store.jobs import formats_of

__all__ = ["Calls", "Lonely", "add"]

_S = 1_000_000_000
SETTLED_NS = 1 * _S
"""So long after the answer media must have been seen in both directions."""
_NAMES = 4096
_PACKETS = 10
"""Packets of a stream from which on it counts as media: fewer open a firewall, or are a stray."""
_ONE_WAY = (b"a=sendonly", b"a=recvonly", b"a=inactive")
_NO_VOICE = frozenset(("TELEPHONE-EVENT", "CN", "RED", "T140"))
_RATES = {"PCMU": 8000, "PCMA": 8000, "G722": 32_000, "OPUS": 96_000, "L16": 32_000}
"""Bytes a second that one direction takes in a recording."""


def add(counter: Counter[Any], key: Hashable, number: int = 1) -> None:
    """Counts under a name from the network; names beyond a bound are not counted."""
    if key in counter or len(counter) < _NAMES:
        counter[key] += number


@dataclass(slots=True)
class _Seen:
    """Of a call that may have been given out in pieces: the media that was its own."""

    sides: set[Side] = field(default_factory=set)
    streams: dict[int, Span] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Lonely:
    """RTP without signalling, between two addresses."""

    start_ns: int
    packets: int
    both: bool
    sender: str
    receiver: str


@dataclass(slots=True)
class Calls:
    """Counts over ended calls; those with signalling, unless it says otherwise."""

    streams: Streams
    states: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    """Calls that were answered so long before the capture ended that their media had to be seen."""
    both: int = 0
    one: int = 0
    none: int = 0
    one_of: Counter[str] = field(default_factory=Counter)
    """Whose voice was heard in calls of one direction: "caller", "callee"."""
    missing: Counter[str] = field(default_factory=Counter)
    """In calls without both directions: addresses whose media was not seen, each once a call."""
    never: Counter[str] = field(default_factory=Counter)
    """In calls without any media: addresses that were announced."""
    held: int = 0
    """Calls in which one direction is as it should be: on hold, or announced so."""
    unanswerable: int = 0
    """Calls whose session descriptions were not seen, so nobody knows where their media is."""
    no_response: int = 0
    """INVITEs to which no response at all was seen."""
    no_response_to: Counter[str] = field(default_factory=Counter)
    sealed: int = 0
    """Calls that announce SRTP."""
    sealed_streams: set[int] = field(default_factory=set)
    codecs: Counter[str] = field(default_factory=Counter)
    """Streams of audio by codec."""
    undecodable: dict[str, str] = field(default_factory=dict)
    """Codecs that occur and cannot be decoded, and why."""
    undecodable_calls: int = 0
    video: int = 0
    crossed: int = 0
    """Calls whose media runs in another VLAN than their signalling."""
    lonely: list[Lonely] = field(default_factory=list)
    lonely_packets: int = 0
    not_voice: int = 0
    """Packets that look like RTP and do not behave like it."""
    claimed_packets: int = 0
    octets: float = 0.0
    """That recordings of what was seen take, about."""
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _decodable: dict[str, str] = field(default_factory=dict)

    def take(self, items: Iterable[Ended | Piece], now_ns: int) -> None:
        """What the correlator gave out. `now_ns`: packet time up to which the capture has come."""
        for item in items:
            seen = self._seen.setdefault(item.call.number, _Seen())
            for span in item.spans:
                counts = self.streams.counts(span.stream.number)
                if counts is not None and counts.packets >= _PACKETS:
                    seen.sides.add(span.direction)
                seen.streams[span.stream.number] = span
            if isinstance(item, Ended):
                del self._seen[item.call.number]
                if item.call.legs:
                    one_way = any(word in frame.data for frame in item.frames for word in _ONE_WAY)
                    self._signalled(item.call, seen, now_ns, one_way)
                else:
                    self._alone(item.call, seen)

    # -- with signalling -----------------------------------------------------
    def _signalled(self, call: Call, seen: _Seen, now_ns: int, one_way: bool) -> None:
        """`one_way`: some description of it says that media goes in one direction, or not at all."""
        self.states[call.state] += 1
        first_lines = [m.first_line for m in call.messages]
        lasted = now_ns - call.start_ns >= SETTLED_NS
        if lasted and call.answer_ns is None and not any(line.startswith("SIP/2.0 ") for line in first_lines):
            self.no_response += 1
            add(self.no_response_to, str(call.messages[0].dst) if call.messages else "?")
        if any("SAVP" in claim.proto.upper() for claim in call.claims):
            self.sealed += 1
            self.sealed_streams.update(n for n, span in seen.streams.items() if "SAVP" in span.claim.proto.upper())
        self.crossed += any(span.crossed for span in seen.streams.values())
        self.video += any(claim.media == "video" and claim.port for claim in call.claims)
        self.claimed_packets += self._packets(seen)
        self._codecs(call, seen)
        self._directions(call, seen, now_ns, one_way)

    def _packets(self, seen: _Seen) -> int:
        return sum(counts.packets for n in seen.streams if (counts := self.streams.counts(n)) is not None)

    def _directions(self, call: Call, seen: _Seen, now_ns: int, one_way: bool) -> None:
        if call.answer_ns is None:
            return
        end = min(now_ns, call.end_ns if call.end_ns is not None else now_ns)
        if end - call.answer_ns < SETTLED_NS:
            return
        claims = [c for c in call.claims if c.media == "audio" and c.port]
        if not claims:
            self.unanswerable += 1
            return
        self.answered += 1
        if len(seen.sides) == 2:
            self.both += 1
            return
        if one_way or any(event.type == "hold" for event in call.events):
            self.held += 1
            return
        if seen.sides:
            side = next(iter(seen.sides))
            self.one += 1
            self.one_of[side] += 1
            silent: tuple[Side, ...] = ("callee",) if side == "caller" else ("caller",)
        else:
            self.none += 1
            silent = ("caller", "callee")
            for address in _addresses(claims, silent):
                add(self.never, address)
        names = _addresses(claims, silent) or {str(span.stream.dst) for span in seen.streams.values()}
        for address in {name.rpartition(":")[0].strip("[]") for name in names}:
            add(self.missing, address)

    def _codecs(self, call: Call, seen: _Seen) -> None:
        failed = False
        for number, span in seen.streams.items():
            counts = self.streams.counts(number)
            if counts is None or counts.packets < _PACKETS or span.claim.media != "audio":
                continue
            formats = formats_of(call, span)
            names = [self._codec(formats.get(n), n) for n in counts.types]
            voice = [name for name in names if name and name.upper() not in _NO_VOICE]
            for name in dict.fromkeys(voice):
                add(self.codecs, name)
            failed |= any(name in self.undecodable for name in voice)
            self.octets += counts.seconds * max((_RATES.get(name.upper(), 0) for name in voice), default=0)
        self.undecodable_calls += failed

    def _codec(self, form: PayloadFormat | None, number: int) -> str:
        """The name of a payload type's codec, "" where nobody said what it means; notes those that cannot be decoded."""
        if form is None:
            return ""
        name = form.encoding
        if name.upper() in _NO_VOICE or len(self._decodable) >= _NAMES:
            return name
        if name not in self._decodable:
            try:
                registry.open_decoder(form)
                self._decodable[name] = ""
            except DecoderUnavailable as error:
                self._decodable[name] = self.undecodable[name] = str(error)
            except Exception as error:  # a plugin's fault, which `rokuon plugins` tells more of
                self._decodable[name] = self.undecodable[name] = f"{type(error).__name__}: {error}"[:200]
        return name

    # -- without -------------------------------------------------------------
    def _alone(self, call: Call, seen: _Seen) -> None:
        found = [counts for n in seen.streams if (counts := self.streams.counts(n)) is not None]
        voice = [counts for counts in found if counts.voice_like]
        self.not_voice += sum(counts.packets for counts in found) - sum(counts.packets for counts in voice)
        if not voice:
            return
        packets = sum(counts.packets for counts in voice)
        self.lonely_packets += packets
        self.octets += sum(counts.seconds for counts in voice) * _RATES["PCMU"]
        if len(self.lonely) < _NAMES:
            both = len({(counts.src, counts.dst) for counts in voice}) > 1
            self.lonely.append(Lonely(call.start_ns, packets, both, str(voice[0].src), str(voice[0].dst)))


def _addresses(claims: list[MediaClaim], sides: tuple[Side, ...]) -> set[str]:
    """Where these sides said that they receive media, and so send it from (RFC 4961)."""
    return {f"[{c.address}]:{c.port}" if ":" in c.address else f"{c.address}:{c.port}" for c in claims if c.side in sides}
