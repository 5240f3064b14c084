"""What the correlate stage gives out: calls that are over, and parts of long ones that go on."""

from __future__ import annotations

from dataclasses import dataclass

from rokuon.sniffer.binding import Span
from rokuon.sniffer.model import Call
from rokuon.store.signalling import Frame

__all__ = ["Ended", "Piece"]


@dataclass(slots=True)
class Ended:
    """A call that is over, with the spans of streams that are its own."""

    call: Call
    spans: list[Span]
    frames: list[Frame]
    """Its signalling as captured."""
    pieced: bool = False
    """Pieces of it were given out before."""

    @property
    def until_ns(self) -> None:
        """Up to where it is given out; None: to its end."""


@dataclass(slots=True)
class Piece:
    """Part of a call that goes on: its spans up to a time, so that a long call need not be held whole."""

    call: Call
    spans: list[Span]
    until_ns: int
    pieced: bool = False
