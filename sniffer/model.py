"""What the careful path speaks of: SIP messages, session descriptions, media claims, calls.

Plain data; the modules that fill it in are `sip`, `sdp`, `dialog`, `offer_answer` and `call`.
Times are nanoseconds of packet time, UTC since 1970.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rokuon.sniffer.packet import Endpoint

__all__ = ["Call", "CallEvent", "CallState", "FormerFormat", "Hop", "Identity", "Leg", "MediaClaim", "MediaDescription",
           "MessageNote", "NameAddr", "Party", "PayloadFormat", "SessionDescription", "Side", "SipMessage"]

Side = Literal["caller", "callee"]
CallState = Literal["answered", "cancelled", "busy", "no-answer", "failed", "rtp-only", "in-progress", "excluded"]


class PayloadFormat(NamedTuple):
    """What a payload type number means in one session (RFC 8866 section 6.6, RFC 3551 section 6)."""

    encoding: str
    """Encoding name as registered, its case as signalled: "PCMU", "opus", "telephone-event"."""
    clock_rate: int
    channels: int = 1
    fmtp: str = ""


class NameAddr(NamedTuple):
    """A From, To, Contact or identity header field's value (RFC 3261 section 25.1: name-addr / addr-spec)."""

    name: str
    """Display name, unquoted; "" where there is none."""
    uri: str
    """The URI without angle brackets; bounded to 1,024 characters."""
    tag: str = ""
    """The tag parameter, "" where there is none."""

    @property
    def user(self) -> str:
        """The user part of a sip(s) URI without its parameters, or the number of a tel URI; "" where there is none."""
        scheme, colon, rest = self.uri.partition(":")
        if not colon:
            return ""
        if scheme.lower() == "tel":
            return rest.partition(";")[0]
        user, at, _ = rest.rpartition("@")
        return user.partition(":")[0].partition(";")[0] if at else ""


@dataclass(slots=True, frozen=True)
class MediaDescription:
    """One m= section of a session description (RFC 8866 section 5.14)."""

    media: str
    """audio, video, image …"""
    address: str
    """Of its c= line or the session's: canonical IP text, or a host name as it stands; "" where there is none."""
    port: int
    """0: refused (RFC 3264 section 6)."""
    proto: str
    """RTP/AVP, RTP/SAVP, udptl …"""
    formats: Mapping[int, PayloadFormat]
    """What each payload type means, in order of preference; static ones filled in from RFC 3551."""
    direction: str
    """sendrecv, sendonly, recvonly or inactive; the session's where the section is silent."""
    rtcp_port: int
    """a=rtcp's, else port + 1; the same as `port` with rtcp-mux."""
    ptime: int | None = None


@dataclass(slots=True, frozen=True)
class SessionDescription:
    """What rokuon reads of a session description (RFC 8866)."""

    origin: str
    """The o= line's value."""
    media: tuple[MediaDescription, ...]


@dataclass(slots=True, frozen=True)
class SipMessage:
    """One SIP message (RFC 3261), with what rokuon reads of it."""

    method: str
    """Of a request its method, of a response that of its CSeq."""
    status: int
    """Status code of a response; 0: this is a request."""
    reason: str
    """Reason phrase of a response; "" in requests."""
    request_uri: str
    """"" in responses."""
    call_id: str
    from_: NameAddr
    to: NameAddr
    cseq: int
    branch: str
    """Of the topmost Via; "" where there is none."""
    headers: Mapping[str, tuple[str, ...]]
    """Every header field's values by lower-case full name ("from", "p-asserted-identity"), compact forms expanded,
    multiple values of one line apart where the header is a list, folding undone; bounded."""
    sdp: SessionDescription | None
    """The session description in the body (also inside multipart)."""
    first_line: str
    """As it stood, printable, bounded: "INVITE sip:200@pbx.example SIP/2.0"."""
    anomalies: tuple[str, ...] = ()
    """Names of what was wrong and forgiven: "no-content-length", "bad-cseq" …"""


class Hop(NamedTuple):
    """Where a message was seen: signalling endpoints in the order the call's first INVITE went, and the VLAN and tunnel."""

    upstream: Endpoint
    downstream: Endpoint
    encap: int
    """Interned number of VLAN tags and tunnel ids (0: none); see `rokuon.sniffer.link.Encapsulations`."""


class FormerFormat(NamedTuple):
    """What a payload type meant until it came to mean something else."""

    until_ns: int
    number: int
    meaning: PayloadFormat


@dataclass(slots=True)
class MediaClaim:
    """One side of a call says: I receive media here (RFC 3264)."""

    side: Side
    """Who receives here. Media sent *to* this address is the other side's voice."""
    leg: int
    """Index of the leg in `Call.legs`."""
    hop: Hop
    media: str
    address: str
    port: int
    rtcp_port: int
    proto: str
    formats: Mapping[int, PayloadFormat]
    """What payload types of media sent *to* this address mean (RFC 3264 section 5.1); the newest description."""
    since_ns: int
    """When the first description that names this address was captured."""
    until_ns: int | None = None
    """When a newer description moved this side's media elsewhere; None: until the call's end."""
    answered: bool = False
    """The offer/answer exchange that names it is complete and the call was answered (2xx)."""
    former: list[FormerFormat] = field(default_factory=list)
    """What payload types meant there before they came to mean another codec (against RFC 3264 section 8.3.2); bounded."""


class Identity(NamedTuple):
    """What one header field says of who a party is."""

    header: str
    """Its name in lower case: "from", "p-asserted-identity" …; "request-uri"."""
    number: str
    name: str
    uri: str
    reason: str = ""
    """Of a Diversion: why (RFC 5806)."""


@dataclass(slots=True)
class Party:
    """One end of a call or leg."""

    number: str = ""
    """The user part as signalled."""
    name: str = ""
    uri: str = ""
    address: str = ""
    """IP address of its signalling, as first seen."""
    withheld: str = ""
    """Why its number is not to be shown to the other end, one of `rokuon.sniffer.withheld.REASONS`; "": it is."""
    also: tuple[Identity, ...] = ()
    """What other header fields say of it, where that differs; bounded."""


@dataclass(slots=True)
class Leg:
    """A SIP dialog, or the attempt at one (RFC 3261 section 12)."""

    call_id: str
    from_tag: str
    to_tag: str
    caller: Party
    callee: Party
    start_ns: int
    answer_ns: int | None = None
    end_ns: int | None = None
    sip_status: int | None = None
    linked_by: str | None = None
    """By what evidence it is a leg of its call; None: it is the call's first dialog."""
    talk: int = 0
    """Legs of one number carry the same voice."""
    flipped: bool = False
    """Its caller stands on the side of the call's callee."""


@dataclass(slots=True)
class CallEvent:
    time_ns: int
    type: str
    """hold, resume, transfer …"""
    side: Side
    detail: str | None = None


@dataclass(slots=True)
class MessageNote:
    """A line of the call's ladder."""

    time_ns: int
    src: Endpoint
    dst: Endpoint
    transport: str
    """udp, tcp …"""
    call_id: str
    cseq: str
    """"1 INVITE" """
    first_line: str
    sdp: bool = False
    """Whether it had a session description."""


@dataclass(slots=True)
class Call:
    """One conversation as people mean it, in the making."""

    legs: list[Leg]
    caller: Party
    callee: Party
    start_ns: int
    state: CallState = "in-progress"
    sip_status: int | None = None
    end_reason: str | None = None
    """bye, cancel, reject, timeout, capture-stopped, recovered"""
    hangup_by: Side | None = None
    answer_ns: int | None = None
    end_ns: int | None = None
    last_ns: int = 0
    """The newest message or (set by who binds) media packet."""
    claims: list[MediaClaim] = field(default_factory=list)
    events: list[CallEvent] = field(default_factory=list)
    messages: list[MessageNote] = field(default_factory=list)
    anomalies: Counter[str] = field(default_factory=Counter)
    number: int = 0
    """Running number within this process: a key for tables, never shown."""
    origin: tuple[str, str, int] | None = None
    """Of a call without signalling: source, destination and SSRC of its first packet."""
    parties: list[Party] = field(default_factory=list)
    """Who takes part beside caller and callee."""
    related: list[tuple[str, str]] = field(default_factory=list)
    """Other calls, by id, and how they have to do with this one: "late-evidence" …"""
