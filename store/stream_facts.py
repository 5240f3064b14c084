"""One RTP stream of a call: what is counted of it, and its voice packets in order, block after block."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders import quality, registry
from rokuon.decoders.api import Decoder, DecoderUnavailable, PayloadFormat
from rokuon.decoders.jitter import Jitter
from rokuon.decoders.order import Sequencer
from rokuon.decoders.playout import Playout
from rokuon.decoders.rtp import NOTHING, RtpPackets, RtpRecords, gather_rows, headers_of, join, parse, select
from rokuon.decoders.telephone_event import DTMF, Press, digits, parse_events
from rokuon.store.sidecar import iso

__all__ = ["KeyPress", "StreamPlan", "StreamState", "Voice"]

Side = Literal["caller", "callee"]
Rows = NDArray[np.intp]

VOICE, EVENT, NOISE = 0, 1, 2
"""What a payload type is for."""
STATIC = {0: PayloadFormat("PCMU", 8000, payload_type=0), 8: PayloadFormat("PCMA", 8000, payload_type=8),
          9: PayloadFormat("G722", 8000, payload_type=9)}
"""Taken for what RFC 3551 says, also where no description names them."""
NOISE_TYPES = (13, 19)
FIRST_DYNAMIC = 96
NO_TYPES = np.zeros(256, np.bool_)
MOST_EVENT_PACKETS = 100_000
MOST_CHANGES = 100
"""Changes of codec that are listed of a stream."""


@dataclass(slots=True)
class StreamPlan:
    """An RTP stream of a call, as signalling has it; becomes an entry of the sidecar's `streams`."""

    direction: Side
    """Whose voice it is."""
    leg: int
    hop: int
    src: str
    dst: str
    vlan: list[int]
    ssrc: int
    formats: Mapping[int, PayloadFormat]
    """What its payload types mean; beyond 127: what some of them meant before (`former`)."""
    voice: bool
    """It takes part in the audio: audio media, on the hop that is listened to."""
    sealed: bool = False
    """SRTP: its payloads cannot be decoded."""
    former: Sequence[tuple[int, int, int]] = ()
    """Payload types that changed their codec: until when, number, and under which `formats` has what it meant."""
    headers_only: bool = False
    """Video: nothing behind the headers of its packets is looked at, be it there or not."""
    talk: int = 0
    """Streams of one number are one talk; people in another of the same call need not hear it (one holds, one consults)."""
    path: int = 0
    """Whose files it is heard in: 0: the call's own; else those of its talk."""
    parties: tuple[str | None, str | None] = (None, None)
    """Numbers of who speaks left and right in its talk."""


class KeyPress(NamedTuple):
    """A DTMF key, as one stream tells it."""

    time_ns: int
    key: str
    duration_ms: int


class _EventPackets(NamedTuple):
    timestamp: NDArray[np.uint32]
    time_ns: NDArray[np.int64]
    octets: NDArray[np.uint8]
    length: NDArray[np.int32]


class Voice(NamedTuple):
    """Voice packets of a block in order of sequence number, each once; parallel arrays of length n ≥ 1."""

    data: NDArray[np.uint8]
    start: NDArray[np.int64]
    """Of the payload in `data`."""
    length: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    timestamp: NDArray[np.uint32]
    payload_type: int | NDArray[np.uint8]
    """One for all, or each its own."""
    missing: NDArray[np.int64] | None
    """Packets lost right before each; None: none."""
    payload: NDArray[np.uint8]
    """All payloads end to end."""


@dataclass(slots=True)
class StreamState:
    """What is known of a stream so far."""

    plan: StreamPlan
    packets: int = 0
    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    first_ns: int = 0
    last_ns: int = 0
    anomalies: Counter[str] = field(default_factory=Counter)
    changes: list[tuple[int, str, str]] = field(default_factory=list)
    """Codec changes: time, from, to."""
    hash: Any = field(default_factory=hashlib.sha256)
    jitter: Jitter = field(default_factory=Jitter)
    playouts: dict[int, Playout] = field(default_factory=dict)
    """By clock rate."""
    counts: Counter[int] = field(default_factory=Counter)
    """Voice packets by payload type."""
    other_ns: tuple[int, int] | None = None
    """When the first and last packet of the newest block came that makes no sound."""
    _decoders: dict[int, Decoder | str] = field(default_factory=dict)
    _sequencer: Sequencer = field(default_factory=Sequencer)
    _held: list[RtpRecords] = field(default_factory=list)
    _events: list[_EventPackets] = field(default_factory=list)
    _event_packets: int = 0
    _event_clock: int = 0
    _kinds: NDArray[np.uint8] | None = None
    _unsaid: NDArray[np.bool_] = field(default_factory=lambda: NO_TYPES)
    """Dynamic payload types that no description names."""
    _formats: Mapping[int, PayloadFormat] | None = None
    _last_type: int = -1
    _bare: bool = False
    """Of some packets only the headers were looked at."""

    # -- what comes in -------------------------------------------------------
    def feed(self, records: RtpRecords) -> None:
        """Further packets, in order of arrival."""
        if len(records):
            if self.plan.headers_only:
                self._bare = True
                records = headers_of(records)
            self._held.append(records)

    def held_span(self) -> tuple[int, int] | None:
        """Earliest and latest arrival of the packets not yet taken; None where there are none."""
        if not self._held:
            return None
        spans = [records.span for records in self._held]
        return spans[0] if len(spans) == 1 else (min(s[0] for s in spans), max(s[1] for s in spans))

    def own(self) -> None:
        """Copy what is held, so that the buffers it came in can be used again."""
        self._held = [select(r, np.arange(len(r))) for r in self._held]

    def take(self, until_ns: int | None, seen_ns: int) -> Voice | None:
        """Count the packets up to `until_ns` (None: all there are), and return the voice among them; None: no voice.

        With `until_ns`, packets that arrived before `seen_ns` are looked at, so that a late one finds its place.
        """
        self.other_ns = None
        if not self._held:
            return None
        records = self._held[0]
        for more in self._held[1:]:
            records = join(records, more)
        self._held = []
        rest = NOTHING
        if until_ns is not None:
            early = records.time_ns < seen_ns
            if not early.all():
                rest = select(records, np.flatnonzero(~early))
                records = select(records, np.flatnonzero(early))
        packets = parse(records)
        if self.plan.former:
            self._date(packets)
        if self._bare:
            del packets.anomalies["truncated-packets"]
        self.anomalies.update(packets.anomalies)
        order = self._sequencer.arrange(packets, self.clock_rate(packets), until_ns)
        later = order.later
        if later is not None and len(later):
            rest = join(select(records, later if packets.record is None else packets.record[later]), rest)
        self.feed(rest)
        for name, count in (("stray-packets", order.strays), ("late-packets", order.late), ("stream-restarts", order.restarts)):
            if count:
                self.anomalies[name] += count
        self.duplicates += order.duplicates
        self.lost += order.lost
        self.reordered += order.reordered
        n = len(packets) if order.rows is None else len(order.rows)
        whole = packets.record is None and order.rows is None
        return self._count(packets, order.rows, order.missing, records.span if whole else None) if n else None

    def _count(self, packets: RtpPackets, rows: Rows | None, missing: NDArray[np.int64] | None,
               span: tuple[int, int] | None) -> Voice | None:
        """Count ordered packets, and set the voice apart from events and comfort noise. `span`: of their times, if known."""
        kinds = self.kinds()
        time_ns, kind = packets.time_ns, packets.payload_type
        if rows is not None:
            time_ns, kind = time_ns[rows], kind[rows]
        one = int(kind[0])
        types: int | NDArray[np.uint8] = one
        alike = int(kind.min()) == int(kind.max())
        if (self._unsaid[one] if alike else self._unsaid[kind].any()) and not (self.plan.sealed or self._bare):
            self._guess_events(packets, np.arange(len(packets)) if rows is None else rows)
        first, last = span or (int(time_ns.min()), int(time_ns.max()))
        self.first_ns = min(self.first_ns, first) if self.packets else first
        self.last_ns = max(self.last_ns, last)
        self.packets += len(time_ns)
        if alike:
            if kinds[one] == VOICE:
                self.counts[one] += len(kind)
            else:
                self.other_ns = first, last
                if kinds[one] == EVENT:
                    self._note_events(packets, np.arange(len(packets)) if rows is None else rows)
                return None
        else:
            use = kinds[kind]
            voice = use == VOICE
            if voice.all():
                types = kind
            else:
                rows = np.arange(len(packets)) if rows is None else rows
                other = time_ns[~voice]
                self.other_ns = int(other.min()), int(other.max())
                self._note_events(packets, rows[use == EVENT])
                if missing is not None:  # packets lost between two of voice, also where there are others between them
                    total = np.cumsum(missing)[voice]
                    missing = np.diff(total, prepend=total[:1] - missing[voice][:1])
                rows, time_ns, spoken = rows[voice], time_ns[voice], kind[voice]
                if not len(rows):
                    return None
                types = int(spoken[0]) if spoken.min() == spoken.max() else spoken
            for number, count in enumerate(np.bincount(kind[voice]).tolist()):
                if count:
                    self.counts[number] += count
        return self._voice(packets, rows, time_ns, types, missing)

    def _voice(self, packets: RtpPackets, rows: Rows | None, time_ns: NDArray[np.int64], types: int | NDArray[np.uint8],
               missing: NDArray[np.int64] | None) -> Voice:
        start, length, timestamp = packets.start, packets.length, packets.timestamp
        clock = self.clock_rate(packets)
        if rows is None:
            self.jitter.add(time_ns, timestamp, clock)
        else:
            arrived = np.sort(rows)
            self.jitter.add(packets.time_ns[arrived], timestamp[arrived], clock)
            start, length, timestamp = start[rows], length[rows], timestamp[rows]
        payload = gather_rows(packets.data, start, length)
        self.hash.update(payload.data)
        self._note_changes(time_ns, types)
        return Voice(packets.data, start, length, time_ns, timestamp, types, missing, payload)

    # -- payload types -------------------------------------------------------
    def kinds(self) -> NDArray[np.uint8]:
        """What each of the 128 payload types is for, and each stand-in beyond them."""
        if self._kinds is None or self._formats is not self.plan.formats:
            before, self._formats = self._formats or {}, self.plan.formats
            self._decoders = {n: known for n, known in self._decoders.items() if before.get(n) == self._formats.get(n)}
            kinds, unsaid = _kinds_of(tuple([(number, known.encoding) for number, known in self._formats.items()]))
            self._kinds, self._unsaid = kinds.copy(), unsaid.copy()
        return self._kinds

    def _date(self, packets: RtpPackets) -> None:
        """Gives packets that came before their payload type changed its codec the number that stands for what it meant then."""
        types = packets.payload_type.copy()
        for until_ns, number, stand_in in reversed(self.plan.former):
            types[(packets.payload_type == number) & (packets.time_ns < until_ns)] = stand_in
        packets.payload_type = types

    def _guess_events(self, packets: RtpPackets, rows: Rows) -> None:
        """Takes a dynamic type that nobody has described for telephone events where all its packets look like DTMF keys."""
        kind = packets.payload_type[rows]
        for number in np.flatnonzero(np.bincount(kind[self._unsaid[kind]])).tolist():
            self._unsaid[number] = False
            mine = rows[kind == number]
            if (packets.length[mine] == 4).all():
                octets = gather_rows(packets.data, packets.start[mine], packets.length[mine]).reshape(-1, 4)
                if (octets[:, 0] < len(DTMF)).all() and not (octets[:, 1] & 0x40).any():
                    self.kinds()[number] = EVENT
                    self.anomalies["guessed-telephone-event"] += 1

    def format(self, number: int) -> PayloadFormat | None:
        """What a payload type means here; None: nobody has said so."""
        known = self.plan.formats.get(number) or STATIC.get(number)
        return known if known is None or known.payload_type == number or number > 127 else known._replace(payload_type=number)

    def decoder(self, number: int) -> Decoder | str:
        """The stream's decoder for a payload type, or one line that says why there is none."""
        if number not in self._decoders:
            self._decoders[number] = self._open(number)
        return self._decoders[number]

    def _open(self, number: int) -> Decoder | str:
        if self.plan.sealed:
            return "the media is encrypted (SRTP)"
        known = self.format(number)
        if known is None:
            return f"no description says what payload type {number} is"
        try:
            return registry.open_decoder(known)
        except DecoderUnavailable as error:
            if registry.find(known) is None:
                return f"no decoder for {_printable(known.encoding)}"
            return str(error)

    def main_type(self) -> int | None:
        """The payload type of most voice packets, of one that can be decoded if any can; None: no voice."""
        if len(self.counts) <= 1:
            return next(iter(self.counts), None)
        able = [n for n in self.counts if (known := self.format(n)) is not None and registry.find(known) is not None]
        return max(able or self.counts, key=lambda n: (self.counts[n], -n))

    def clock_rate(self, packets: RtpPackets | None = None) -> int:
        """Of the stream's timestamps, Hz; where nothing is known, 8000."""
        number = self.main_type()
        if number is None and packets is not None and len(packets):
            kinds = self.kinds()
            number = next((int(n) for n in packets.payload_type[:256:16].tolist() if kinds[n] == VOICE), None)
        known = self.format(number) if number is not None else next(iter(self.plan.formats.values()), None)
        return known.clock_rate if known is not None and known.clock_rate > 0 else 8000

    def _note_changes(self, time_ns: NDArray[np.int64], types: int | NDArray[np.uint8]) -> None:
        first = types if isinstance(types, int) else int(types[0])
        spots = [(int(time_ns[0]), self._last_type, first)] if self._last_type not in (-1, first) else []
        if isinstance(types, int):
            self._last_type = types
        else:
            at = np.flatnonzero(types[1:] != types[:-1])[:MOST_CHANGES] + 1
            spots += zip(time_ns[at].tolist(), types[at - 1].tolist(), types[at].tolist(), strict=True)
            self._last_type = int(types[-1])
        for when, old, new in spots:
            names = [known.encoding if (known := self.format(n)) else f"payload type {n}" for n in (old, new)]
            if names[0] != names[1] and len(self.changes) < MOST_CHANGES:
                self.changes.append((when, names[0], names[1]))

    # -- keys ----------------------------------------------------------------
    def _note_events(self, packets: RtpPackets, rows: Rows) -> None:
        if len(rows) and self._event_packets < MOST_EVENT_PACKETS and not (self.plan.sealed or self._bare):
            known = self.plan.formats.get(int(packets.payload_type[rows[0]]))
            self._event_clock = self._event_clock or (known.clock_rate if known is not None else 0)
            self._event_packets += len(rows)
            length = np.minimum(packets.length[rows], 4).astype(np.int32)
            self._events.append(_EventPackets(packets.timestamp[rows], packets.time_ns[rows],
                                              gather_rows(packets.data, packets.start[rows], length), length))

    def presses(self) -> list[KeyPress]:
        """The DTMF keys pressed, in order."""
        if not self._events:
            return []
        stamps, times, octets, lengths = (np.concatenate(column) for column in zip(*self._events, strict=True))
        padded = np.concatenate([octets, np.zeros(8, np.uint8)])
        rows = parse_events(padded, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)
        clock = self._event_clock or 8000
        found: list[Press] = digits(stamps, rows)
        return [KeyPress(int(times[p.row]), p.key, round(p.duration * 1000 / clock)) for p in found]

    # -- what is known in the end --------------------------------------------
    def entry(self) -> dict[str, Any]:
        """The stream's entry in the sidecar."""
        plan, number = self.plan, self.main_type()
        known = self.format(number) if number is not None else None
        rated = quality.rate(known.encoding, self.packets, self.lost) if known is not None else None
        mean, largest = self.jitter.mean_ms, self.jitter.max_ms
        return {
            "direction": plan.direction, "leg": plan.leg, "hop": plan.hop, "src": plan.src, "dst": plan.dst,
            "vlan": list(plan.vlan), "ssrc": plan.ssrc, "payload_type": known.payload_type if known else number,
            "codec": known.encoding if known is not None else None, "clock_rate": known.clock_rate if known is not None else None,
            "first": iso(self.first_ns), "last": iso(self.last_ns), "packets": self.packets, "lost": self.lost,
            "duplicates": self.duplicates, "reordered": self.reordered, "jitter_ms": None if mean is None else round(mean, 3),
            "max_jitter_ms": None if largest is None else round(largest, 3),
            "r_factor": rated.r_factor if rated else None, "mos": rated.mos if rated else None,
            "payload_sha256": None if self._bare else self.hash.hexdigest(),
        }


@lru_cache
def _kinds_of(formats: tuple[tuple[int, str], ...]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """By payload type, what it is for, and whether it is a dynamic one that no description names."""
    kinds = np.zeros(256, np.uint8)
    unsaid = (np.arange(256) >= FIRST_DYNAMIC) & (np.arange(256) < 128)
    for number in NOISE_TYPES:
        kinds[number] = NOISE
    for number, encoding in formats:
        if 0 <= number < 256:
            unsaid[number] = False
            name = encoding.upper()
            kinds[number] = EVENT if name == "TELEPHONE-EVENT" else NOISE if name == "CN" else VOICE
    return kinds, unsaid


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:40]).strip() or "a codec without a name"
