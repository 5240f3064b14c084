"""Which streams capture need not keep whole: those that are video beyond doubt, as things are now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from rokuon.sniffer.binding import Binder, Stream
from rokuon.sniffer.model import Call, MediaClaim
from rokuon.store.advice import Action, AdviceWriter, Entry
from rokuon.store.correlate import Correlator
from rokuon.store.layout import Layout
from rokuon.store.spool import Spool

__all__ = ["Advising", "video_types"]

_LAGS_S = 5.0
"""Who is so far behind the wire does not know what is in progress there."""

Origin = tuple[str, int, int]


class Advising:
    """Says to each capture what it need not keep."""

    def __init__(self, layout: Layout, keep_packets: bool) -> None:
        """keep_packets: `[record] keep_packets`; everything is wanted then."""
        self._root = layout.spool
        self._wanted = keep_packets
        self._writers: dict[str, AdviceWriter] = {}
        self._origins: dict[int, Origin] = {}

    def look(self, correlator: Correlator, spool: Spool, sources: Mapping[str, int], behind_s: float) -> None:
        """Writes what is to be advised now, where that is something else than before. Never raises.

        sources: the epochs of captures by their parts of the spool; behind_s: how far correlation is behind the wire.
        """
        found: dict[str, list[Entry]] = {source: [] for source in sources}
        if not self._wanted and behind_s < _LAGS_S:
            before, self._origins = self._origins, {}
            for stream, types in _video(correlator):
                origin = before.get(stream.number) or spool.origin(stream.number)
                if origin is not None and sources.get(origin[0]) == origin[1]:
                    self._origins[stream.number] = origin
                    found[origin[0]].append(Entry(origin[2], Action.HEADERS, types))
        self._writers = {source: writer for source, writer in self._writers.items() if source in found}
        for source, entries in found.items():
            writer = self._writers.get(source)
            if writer is None:
                writer = self._writers[source] = AdviceWriter(self._root / source)
            with suppress(OSError):  # no room: tried again the next time; what is not advised is kept
                writer.put(sources[source], entries)

    def withdraw(self) -> None:
        """Advises nothing any more."""
        for writer in self._writers.values():
            writer.withdraw()


def _video(correlator: Correlator) -> Iterator[tuple[Stream, int]]:
    """Streams of calls in progress that are video, each once, and the payload types of it as a set of bits."""
    for call in correlator.tracker.live.values():
        if call.answer_ns is None or call.end_ns is not None or all(claim.media != "video" for claim in call.claims):
            continue
        for stream in correlator.binder.streams_of(call):
            if types := video_types(stream, call, correlator.binder):
                yield stream, types


def video_types(stream: Stream, call: Call, binder: Binder) -> int:
    """The payload types, as a set of bits, of a stream's packets that are video of an answered call, and can be nothing else.

    Packets that are let go cannot be had back, and advice comes a second or two after what it rests on. So it takes both ends
    of the stream, named for video, now, in the stream's own VLAN or tunnel, by the two sides of this call; neither end ever named
    by it for anything else, nor by another call in progress; a stream that began after the offer; and a payload type that the
    call uses for video only.
    """
    ends = [[claim for claim in call.claims if (claim.address, claim.port) == end] for end in (stream.src, stream.dst)]
    claims = [*ends[0], *ends[1]]
    if any(claim.media != "video" or claim.hop.encap != stream.encap for claim in claims):
        return 0
    sides = [{claim.side for claim in end if claim.until_ns is None} for end in ends]
    if not all(sides) or sides[0] & sides[1] or not binder.is_only(stream, call):
        return 0
    if stream.first_ns < min(claim.since_ns for claim in claims):
        return 0
    others = _types(claim for claim in call.claims if claim.media != "video")
    return _types(claims) & ~others


def _types(claims: Iterable[MediaClaim]) -> int:
    types = 0
    for number in {number for claim in claims for number in claim.formats if 0 <= number < 128}:
        types |= 1 << number
    return types
