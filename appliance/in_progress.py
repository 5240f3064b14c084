"""Calls in progress, as `rokuon live` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import nlargest
from itertools import chain
from typing import Any, NamedTuple

from rokuon.appliance.watching import Watching
from rokuon.sniffer.binding import Stream, named_by
from rokuon.sniffer.model import Call, PayloadFormat, Side
from rokuon.sniffer.sdp import STATIC
from rokuon.store.correlate import Correlator
from rokuon.store.sidecar import iso

__all__ = ["calls_in_progress"]

_MOST = 500
_LATELY_NS = 5_000_000_000
"""The jitter of a stream that ended so long before another of the same side is not what is heard now."""


class _Heard(NamedTuple):
    """A stream of a call."""

    stream: Stream
    side: Side
    """Who speaks."""
    formats: Mapping[int, PayloadFormat]
    voice: bool


def calls_in_progress(correlator: Correlator, watching: Watching) -> tuple[list[dict[str, Any]], int]:
    """The newest calls in progress, and how many there are beside them. Says to `watching` which streams they have."""
    live, groups = correlator.tracker.live, correlator.legs.groups
    whole = (call for call in live.values()
             if next(member.call for member in groups.of(call).members if member.call.number in live) is call)
    signalled = ((call, _streams_of(call, correlator)) for call in whole)
    loose = ((call, (_Heard(stream, side, STATIC, True) for stream, side in streams))
             for call, streams in correlator.conversations())
    newest = [(call, list(heard)) for call, heard in nlargest(_MOST, chain(signalled, loose), key=lambda each: each[0].start_ns)]
    if watching.on:
        watching.follow({each.stream.number: each.formats for _, heard in newest for each in heard if each.voice})
    return [_entry(call, heard, correlator, watching) for call, heard in newest], correlator.open - len(newest)


def _streams_of(call: Call, correlator: Correlator) -> Iterator[_Heard]:
    claims = {(claim.address, claim.port): claim for claim in call.claims}
    for stream in correlator.binder.streams_of(call):
        others = [until for _, until, number in stream.taken if number != call.number]
        if others and len(others) == len(stream.taken) and correlator.heard_ns(stream.number) <= max(others):
            continue  # it was over with the call that had these addresses before
        if (named := named_by(claims, stream)) is not None:
            claim, side = named
            yield _Heard(stream, side, claim.formats, claim.media == "audio")


def _entry(call: Call, heard: list[_Heard], correlator: Correlator, watching: Watching) -> dict[str, Any]:
    forms = [form.encoding for claim in call.claims[-1:] for form in claim.formats.values()
             if form.encoding.lower() not in ("telephone-event", "cn")]
    sides = [[each for each in heard if each.side == side] for side in ("caller", "callee")]
    received = [_received((each.stream for each in side), watching) for side in sides]
    state = "rtp-only" if call.state == "rtp-only" else "answered" if call.answer_ns is not None else "ringing"
    return {"start": iso(call.start_ns), "caller": call.caller.number or None, "callee": call.callee.number or None,
            "caller_name": call.caller.name or None, "callee_name": call.callee.name or None,
            "caller_address": call.caller.address or None, "callee_address": call.callee.address or None,
            "state": state, "answer": iso(call.answer_ns) if call.answer_ns is not None else None,
            "codec": forms[0] if forms else None,
            "packets": [sum(correlator.packets[each.stream.number] for each in side) for side in sides],
            "watched": [side[0] for side in received], "lost": [side[1] for side in received],
            "jitter_ms": [side[2] for side in received]}


def _received(streams: Iterable[Stream], watching: Watching) -> tuple[int | None, int | None, float | None]:
    """Packets and losses of one side since somebody watches, and its jitter now: of several streams the worst."""
    found = [received for stream in streams if (received := watching.of(stream.number)) is not None]
    if not found:
        return None, None, None
    lately = max(each.newest_ns for each in found) - _LATELY_NS
    jitter = max((each.jitter_ms for each in found if each.jitter_ms is not None and each.newest_ns >= lately), default=None)
    return sum(each.packets for each in found), sum(each.lost for each in found), None if jitter is None else round(jitter, 3)
