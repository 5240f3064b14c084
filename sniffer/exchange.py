"""One exchange of offer and answer (RFC 3264), and what a session description says for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rokuon.sniffer.model import Hop, PayloadFormat, SessionDescription, Side

__all__ = ["Exchange", "address_kind", "alike", "differ", "direction", "has_fax"]


@dataclass(slots=True)
class Exchange:
    """One exchange of offer and answer."""

    time_ns: int
    """When its request was first captured."""
    agreed: bool | None = None
    """None: under way; True: 2xx; False: refused."""
    offerer: Side | None = None
    offered: str = ""
    """Direction of the offer's audio; "unaddressed" for c=0.0.0.0."""
    answered: str = ""
    fax: tuple[bool, bool] = (False, False)
    """Whether the offer and the answer have a section for images in use: T.38."""
    held: bool = False
    """Its effect on hold was drawn."""
    said: dict[tuple[Hop, str], SessionDescription] = field(default_factory=dict)
    """Who described what last, and where; bounded by who adds to it."""


def address_kind(address: str) -> str:
    """"named": an IP address; "unaddressed": the one that names none (RFC 3264 8.4); "": a host name, or nothing."""
    if ":" in address:
        return "unaddressed" if address == "::" else "named"
    if address == "0.0.0.0":  # noqa: S104 -- an address in a message, nothing is bound to it
        return "unaddressed"
    return "named" if address.replace(".", "").isdigit() else ""


def direction(sdp: SessionDescription) -> str:
    """Of the first audio section in use (else the first in use); "" where there is none."""
    used = [m for m in sdp.media if m.port]
    for m in used:
        if m.media == "audio":
            return "unaddressed" if address_kind(m.address) == "unaddressed" else m.direction
    return used[0].direction if used else ""


def alike(one: SessionDescription, other: SessionDescription) -> bool:
    """Whether media goes to the same addresses."""
    return [(m.address, m.port) for m in one.media] == [(m.address, m.port) for m in other.media]


def differ(one: PayloadFormat, other: PayloadFormat) -> bool:
    """Whether these are different codecs."""
    return (one.encoding.lower(), one.clock_rate) != (other.encoding.lower(), other.clock_rate)


def has_fax(sdp: SessionDescription) -> bool:
    return any(m.media == "image" and m.port for m in sdp.media)
