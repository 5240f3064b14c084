"""Session descriptions: RFC 8866, as far as it says where media goes and what its payload types mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from types import MappingProxyType

from rokuon.sniffer.model import MediaDescription, PayloadFormat, SessionDescription

__all__ = ["MAX_FORMATS", "MAX_SECTIONS", "STATIC", "canonical_address", "parse"]

MAX_SECTIONS = 16
MAX_FORMATS = 64
_MAX_LINES = 1_024
_MAX_FMTP = 512
_MAX_VALUE = 255
_USUAL = 64
"""Characters of an rtpmap that many descriptions have alike: what it means is kept at hand."""

STATIC: Mapping[int, PayloadFormat] = MappingProxyType({
    0: PayloadFormat("PCMU", 8000), 3: PayloadFormat("GSM", 8000), 4: PayloadFormat("G723", 8000),
    5: PayloadFormat("DVI4", 8000), 6: PayloadFormat("DVI4", 16000), 7: PayloadFormat("LPC", 8000),
    8: PayloadFormat("PCMA", 8000), 9: PayloadFormat("G722", 8000), 10: PayloadFormat("L16", 44100, 2),
    11: PayloadFormat("L16", 44100), 12: PayloadFormat("QCELP", 8000), 13: PayloadFormat("CN", 8000),
    14: PayloadFormat("MPA", 90000), 15: PayloadFormat("G728", 8000), 16: PayloadFormat("DVI4", 11025),
    17: PayloadFormat("DVI4", 22050), 18: PayloadFormat("G729", 8000),
    25: PayloadFormat("CelB", 90000), 26: PayloadFormat("JPEG", 90000), 28: PayloadFormat("nv", 90000),
    31: PayloadFormat("H261", 90000), 32: PayloadFormat("MPV", 90000), 33: PayloadFormat("MP2T", 90000),
    34: PayloadFormat("H263", 90000),
})
"""Payload types that need no rtpmap: RFC 3551, tables 4 (audio) and 5 (video). G722's clock is 8,000 Hz by decree."""

_DIRECTIONS = frozenset(("sendrecv", "sendonly", "recvonly", "inactive"))
_RTPMAP = re.compile(r"([0-9]{1,3})[ \t]+([!#-.0-9A-Z^-~]{1,64})/([0-9]{1,9})(?![0-9])(?:/([0-9]{1,3}))?")
_FMTP = re.compile(r"([0-9]{1,3})[ \t]+(.+)")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(slots=True)
class _Section:
    """An m= section in the making; the session's own lines before the first m= are one too."""

    media: str = ""
    proto: str = ""
    port: int = 0
    payload_types: list[int] = field(default_factory=list)
    address: str = ""
    direction: str = ""
    rtcp_port: int | None = None
    rtcp_mux: bool = False
    ptime: int | None = None
    maps: dict[int, PayloadFormat] = field(default_factory=dict)
    fmtp: dict[int, str] = field(default_factory=dict)


def _clean(text: str) -> str:
    return text if text.isprintable() else _UNPRINTABLE.sub("\ufffd", text)


@lru_cache(maxsize=4096)
def canonical_address(text: str) -> str:
    """The canonical text of an IP address (brackets, a multicast "/ttl" and a "%zone", which is its sender's own affair, taken
    off: RFC 4007 section 11); what is none, a host name, as it stands.

    At most 255 characters, all of them printable. "" where nothing is left. An IPv4 address that is mapped into IPv6 becomes the
    IPv4 address: packets have that one.
    """
    text = text.partition("/")[0].strip("[] \t")[:_MAX_VALUE]
    try:
        address = ip_address(text.partition("%")[0])
        return str(getattr(address, "ipv4_mapped", None) or address)  # RFC 4291 2.5.5.2: a host that speaks IPv4
    except ValueError:
        return _clean(text)


def parse(data: bytes, anomalies: list[str] | None = None) -> SessionDescription:
    """What the session description in `data` says; a line that cannot be read is skipped, nothing is raised.

    Every m= line gives a section, so that offer and answer can be paired by position (RFC 3264 section 6); one whose port
    makes no sense has port 0. A payload type that is neither static nor mapped means nothing and is left out. At most
    `MAX_SECTIONS` sections of `MAX_FORMATS` formats are read, and text is bounded. `c=0.0.0.0` (hold of RFC 2543) stays.

    What was forgiven is appended to `anomalies`: "sdp-bad-line" (skipped), "sdp-bad-media" (an m= line without a port or a
    protocol), "sdp-unmapped-type" (a payload type in use that nothing says the meaning of), "sdp-too-long" (read in part).
    """
    odd = [] if anomalies is None else anomalies
    text = (data.decode("ascii") if data.isascii() else data.decode("utf-8", "replace"))
    origin = ""
    session = section = _Section()
    sections: list[_Section] = []
    lines = text.split("\n", _MAX_LINES)
    if len(lines) > _MAX_LINES:
        odd.append("sdp-too-long")
        del lines[_MAX_LINES:]
    for line in lines:
        kind, value = line[:2], line[2:].rstrip("\r ")
        if kind == "a=":
            _attribute(section, value)
        elif kind == "m=":
            if len(sections) == MAX_SECTIONS:
                odd.append("sdp-too-long")
                break
            section = _media(value, odd)
            sections.append(section)
        elif kind == "c=" and not section.address:
            parts = value.split(None, 3)
            if len(parts) >= 3 and parts[0].upper() == "IN":
                section.address = canonical_address(parts[2])
            else:
                odd.append("sdp-bad-line")
        elif kind == "o=" and not origin:
            origin = _clean(value[:_MAX_VALUE])
        elif kind[1:] != "=" and line.strip():
            odd.append("sdp-bad-line")
    return SessionDescription(origin, tuple([_finish(section, session, odd) for section in sections]))


def _media(value: str, odd: list[str]) -> _Section:
    """RFC 8866 section 5.14: `audio 49170/2 RTP/AVP 0 8 101`."""
    parts = value.split(None, MAX_FORMATS + 3)
    section = _Section()
    if parts:
        section.media = _clean(parts[0][:32]).lower()
    if len(parts) < 3:
        odd.append("sdp-bad-media")
    else:
        port = _number(parts[1].partition("/")[0], 65535)
        if port is None:
            odd.append("sdp-bad-media")
        section.port = port or 0
        section.proto = _clean(parts[2][:32])
        if "RTP" in section.proto.upper():
            if len(parts) > MAX_FORMATS + 3:
                odd.append("sdp-too-long")
            for part in parts[3:MAX_FORMATS + 3]:
                payload_type = _number(part, 127)
                if payload_type is not None and payload_type not in section.payload_types:
                    section.payload_types.append(payload_type)
    return section


def _attribute(section: _Section, value: str) -> None:
    name, _, value = value.partition(":")
    if name == "rtpmap":
        known = _rtpmap(value) if len(value) < _USUAL else _rtpmap.__wrapped__(value)
        if known is not None:
            section.maps[known[0]] = known[1]
    elif name == "fmtp":
        if match := _FMTP.match(value):
            payload_type = int(match[1])
            if payload_type < 128:
                section.fmtp[payload_type] = _clean(match[2][:_MAX_FMTP])
    elif name in _DIRECTIONS:
        section.direction = name
    elif name == "ptime":
        section.ptime = _number(value.strip().partition(".")[0], 10_000) or section.ptime
    elif name == "rtcp":  # RFC 3605
        section.rtcp_port = _number(value.strip().partition(" ")[0], 65535)
    elif name == "rtcp-mux":  # RFC 5761
        section.rtcp_mux = True


@lru_cache(maxsize=1024)
def _rtpmap(value: str) -> tuple[int, PayloadFormat] | None:
    match = _RTPMAP.match(value)
    if match is None:
        return None
    payload_type, clock_rate, channels = int(match[1]), int(match[3]), int(match[4] or 1)
    if payload_type > 127 or not clock_rate:
        return None
    if match[2].upper() == "G722":
        clock_rate = 8000  # RFC 3551 section 4.5.2; who writes 16000 still counts in 8000ths
    return payload_type, PayloadFormat(match[2], clock_rate, channels if 0 < channels < 256 else 1)


def _number(text: str, limit: int) -> int | None:
    """`text` as a decimal number of 0 … limit."""
    if 0 < len(text) < 10 and text.isascii() and text.isdigit():
        number = int(text)
        if number <= limit:
            return number
    return None


def _finish(section: _Section, session: _Section, odd: list[str]) -> MediaDescription:
    formats: dict[int, PayloadFormat] = {}
    for payload_type in section.payload_types:
        meaning = section.maps.get(payload_type) or STATIC.get(payload_type)
        if meaning is not None:
            fmtp = section.fmtp.get(payload_type)
            formats[payload_type] = PayloadFormat(meaning[0], meaning[1], meaning[2], fmtp) if fmtp else meaning
        elif section.port:
            odd.append("sdp-unmapped-type")
    port = section.port
    if section.rtcp_mux or not port:
        rtcp_port = port
    elif section.rtcp_port is not None:
        rtcp_port = section.rtcp_port
    else:
        rtcp_port = port + 1 if port < 65535 else 0
    return MediaDescription(section.media, section.address or session.address, port, section.proto, formats,
                            section.direction or session.direction or "sendrecv", rtcp_port,
                            section.ptime if section.ptime is not None else session.ptime)
