"""What a finaliser is given: the facts of a call, its streams, and where in the spool their packets lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.api import PayloadFormat
from rokuon.sniffer import model
from rokuon.sniffer.binding import Span
from rokuon.sniffer.model import Call, Hop, Side
from rokuon.sniffer.sdp import STATIC
from rokuon.store.call_facts import call_facts, call_id
from rokuon.store.correlate import Correlator
from rokuon.store.ended import Ended, Piece
from rokuon.store.finalize import StreamPlan
from rokuon.store.runs import STREAM
from rokuon.store.sidecar import iso
from rokuon.store.signalling import Frame
from rokuon.store.spool import Spool

__all__ = ["Job", "StreamJob", "make_jobs"]

_SPELLING = {name.casefold(): name for name in (*(form.encoding for form in STATIC.values()), "opus", "telephone-event",
                                                 "G726-16", "G726-24", "G726-32", "G726-40", "iLBC", "speex", "AMR", "AMR-WB")}
"""Encoding names as they are registered: in SDP their case does not matter (RFC 8866 section 6.6)."""


def _decoder_format(form: model.PayloadFormat, number: int) -> PayloadFormat:
    encoding = _SPELLING.get(form.encoding.casefold(), form.encoding)
    return PayloadFormat(encoding, form.clock_rate, form.channels, form.fmtp, number)


_MOST_DATED = 64
_STATIC = {number: _decoder_format(form, number) for number, form in STATIC.items()}


@dataclass(slots=True)
class StreamJob:
    """One stream of the call: what it is, when it is the call's, and where its packets are."""

    plan: StreamPlan
    spans: list[tuple[int, int]]
    """since <= time < until, nanoseconds, ascending."""
    slices: NDArray[np.void]
    """SLICE rows."""
    template: bytes
    """STREAM row: the headers of its packets."""


@dataclass(slots=True)
class Job:
    """A call to be finalised, or a piece of one that goes on."""

    number: int
    """The call's number in this process: pieces of one call go to one worker."""
    id: str
    facts: dict[str, Any]
    streams: list[StreamJob]
    until_ns: int | None
    """Of a piece: up to where; None: the call is over."""
    frames: list[Frame] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    """That the slices lie in."""
    rtp_only: bool = False
    files: dict[int, str] = field(default_factory=dict)
    """Their names, relative to the spool's directory."""
    pieced: bool = False
    """Parts of the call were given out before this one."""
    taken: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    """Streams, by source, epoch and the capture's number, since and until when they are this call's."""


def formats_of(call: Call, span: Span) -> dict[int, PayloadFormat]:
    """What payload types mean in media of `span`.

    Each side says what it wants to receive (RFC 3264 section 5.1), so the listener's description decides; the speaker's own
    helps where the listener's is not known, and RFC 3551 where neither says anything.
    """
    known = dict(_STATIC)
    speaker = span.direction
    dialog = call.legs[span.claim.leg].call_id if call.legs else ""
    claims = [c for c in call.claims if c.media == span.claim.media and call.legs[c.leg].call_id == dialog]
    listening = [c for c in claims if c.side != speaker]
    speaking = [c for c in claims if c.side == speaker]
    for said in (speaking, listening):
        said.sort(key=lambda c: ((c.address, c.port) in (span.stream.dst, span.stream.src), c.hop == span.claim.hop,
                                   c.since_ns))
        for claim in said:
            known.update({n: _decoder_format(form, n) for n, form in claim.formats.items()})
    if not call.claims:
        known.update({n: _decoder_format(form, n) for n, form in span.claim.formats.items()})
    return known


def _date_formats(call: Call, span: Span, known: dict[int, PayloadFormat]) -> list[tuple[int, int, int]]:
    """Adds to `known` what payload types of `span` meant before they came to mean another codec, under numbers beyond 127.

    Until when, the number, and its stand-in; ascending. RFC 3264 section 8.3.2 forbids it, and phones do.
    """
    claims = [c for c in call.claims if c.side != span.direction and c.media == span.claim.media and c.leg == span.claim.leg]
    claims = sorted([c for c in claims if (c.address, c.port) == span.stream.dst] or claims, key=lambda c: c.since_ns)
    dated: dict[tuple[int, int], PayloadFormat] = {}
    before: dict[int, model.PayloadFormat] = {}
    for claim in claims:  # the same address may have been left and named again
        begun = {**claim.formats, **{f.number: f.meaning for f in reversed(claim.former)}}
        dated.update({(claim.since_ns, n): _decoder_format(before[n], n) for n, form in begun.items()
                      if n in before and _decoder_format(before[n], n)[:2] != _decoder_format(form, n)[:2]})
        dated.update({(f.until_ns, f.number): _decoder_format(f.meaning, f.number) for f in claim.former})
        before.update(claim.formats)
    found = [(until_ns, number, 128 + i) for i, (until_ns, number) in enumerate(sorted(dated)[:_MOST_DATED])]
    known.update({stand_in: dated[until_ns, number] for until_ns, number, stand_in in found})
    return found


def make_jobs(ended: Sequence[Ended | Piece], spool: Spool, correlator: Correlator, interface: str | None = None) -> list[Job]:
    """The jobs of calls that are over, or of pieces of some that go on. Holds the segments they name until they are done.

    `interface`: where they were captured, of live ones.
    """
    slices = _slices(spool, [span for item in ended for span in item.spans])
    return [_job(item, spool, correlator, slices, interface) for item in ended]


def _job(ended: Ended | Piece, spool: Spool, correlator: Correlator, slices: dict[int, NDArray[np.void]],
         interface: str | None) -> Job:
    encapsulations = correlator.encapsulations
    call = ended.call
    groups: dict[tuple[Any, ...], list[Span]] = {}
    for span in ended.spans:
        stream = span.stream
        groups.setdefault((stream.src, stream.dst, stream.encap, stream.ssrc), []).append(span)
    hops: dict[Hop, int] = {}
    streams: list[StreamJob] = []
    ordered = sorted(groups.values(), key=lambda spans: min((s.since_ns, s.stream.number) for s in spans))
    for spans in ordered:
        # Where an address is named at several hops, the first moments may be another claim's than the rest.
        # Behind a switch to T.38 it is an image's, most often; what was talked before it is voice all the same.
        first = max(spans, key=lambda s: (s.claim.media != "image", s.until_ns - s.since_ns))
        stream, claim = first.stream, first.claim
        crossed = any(s.crossed for s in spans)
        if crossed:
            call.anomalies["media-in-another-vlan"] += 1
        direction: Side = first.direction
        formats = formats_of(call, first)
        former = _date_formats(call, first, formats)
        plan = StreamPlan(direction=direction, leg=claim.leg, hop=hops.setdefault(claim.hop, len(hops)), src=str(stream.src),
                          dst=str(stream.dst), vlan=list(encapsulations.tags(stream.encap)), ssrc=stream.ssrc,
                          formats=formats, former=former, voice=claim.media == "audio", sealed="SAVP" in claim.proto.upper(),
                          headers_only=all(span.claim.media == "video" for span in spans), **_talk(call, claim.leg))
        numbers = list(dict.fromkeys(s.stream.number for s in spans))
        row = spool.streams.get(numbers[0])
        times = sorted((s.since_ns, s.until_ns) for s in spans)
        since, end = times[0][0], max(t[1] for t in times)
        mine = slices[numbers[0]] if len(numbers) == 1 else np.concatenate([slices[n] for n in numbers])
        mine = mine[(mine["last_ns"] >= since) & (mine["first_ns"] < end)]
        streams.append(StreamJob(plan, times, mine, row.tobytes() if row is not None else bytes(STREAM.itemsize)))
    segments = sorted({n for job in streams for n in job.slices["segment"].tolist()})
    spool.hold(segments)
    identifier = call_id(call)
    until = ended.until_ns if isinstance(ended, Piece) else None
    begun, over, losses = call.start_ns, max(call.end_ns or correlator.now_ns, call.last_ns), correlator.losses
    facts = call_facts(call, identifier, interface, losses.dropped_within(begun, over) if interface is not None else None)
    if gaps := losses.gaps_within(begun, over):
        facts["recorder"]["not_captured"] = [{"start": iso(since), "end": iso(to)} for since, to in gaps]
    return Job(call.number, identifier, facts, streams, until, ended.frames if isinstance(ended, Ended) else [], segments,
               not call.legs, spool.files(segments), ended.pieced,
               [(*origin, span.since_ns, span.until_ns) for span in ended.spans if (origin := spool.origin(span.stream.number))])


def _talk(call: Call, leg: int) -> dict[str, Any]:
    """What a stream's plan says of the talk of that leg."""
    if leg >= len(call.legs):
        return {}
    mine = call.legs[leg]
    left, right = mine.caller.number or None, mine.callee.number or None
    return {"talk": mine.talk, "parties": (right, left) if mine.flipped else (left, right)}


def _slices(spool: Spool, spans: Sequence[Span]) -> dict[int, NDArray[np.void]]:
    if not spans:
        return {}
    numbers = sorted({s.stream.number for s in spans})
    found = spool.slices(np.array(numbers, np.uint32), min(s.since_ns for s in spans), max(s.until_ns for s in spans))
    return dict(zip(numbers, found, strict=True))
