"""Conversations that no signalling speaks of: RTP between two endpoints, as the correlator gathers it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rokuon.sniffer.binding import Span, Stream
from rokuon.sniffer.model import Call, Hop, MediaClaim, Party, Side
from rokuon.sniffer.sdp import STATIC
from rokuon.store.marks import Marks

__all__ = ["Loose"]


@dataclass(slots=True)
class Loose:
    """Two endpoints that exchange RTP which no signalling claims."""

    streams: list[Stream]
    number: int
    call: Call | None = None
    """Once a piece of it was given out."""
    fed_ns: int = 0

    def begin(self) -> Call:
        """The call, as of now."""
        first = min(self.streams, key=lambda s: (s.first_ns, s.number))
        return Call([], Party(address=first.src.address), Party(address=first.dst.address), first.first_ns, "rtp-only",
                    number=self.number, origin=(str(first.src), str(first.dst), first.ssrc))

    def sides(self, call: Call) -> Iterator[tuple[Stream, Side]]:
        """Its streams, in the order in which they began, and who speaks."""
        assert call.origin is not None
        for stream in sorted(self.streams, key=lambda s: (s.first_ns, s.number)):
            yield stream, "caller" if str(stream.src) == call.origin[0] else "callee"

    def spans(self, call: Call, until_ns: int, last_ns: Marks) -> list[Span]:
        """What was not given out before, up to a time. `last_ns`: when the newest packet came, by stream number."""
        spans: list[Span] = []
        for stream, side in self.sides(call):
            claim = MediaClaim("callee" if side == "caller" else "caller", 0, Hop(stream.src, stream.dst, stream.encap), "audio",
                               stream.dst.address, stream.dst.port, 0, "RTP/AVP", dict(STATIC), stream.first_ns)
            since, until = max(stream.first_ns, self.fed_ns), min(last_ns[stream.number] + 1, until_ns)
            if since < until:
                spans.append(Span(stream, since, until, side, claim, False))
        return spans
