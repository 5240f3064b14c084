"""One packet at a time: what the vectorised path leaves over (signalling, TCP, fragments, extension headers)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from functools import lru_cache

from rokuon.sniffer.link import MAX_TAGS
from rokuon.sniffer.packet import (
    LINKTYPE_ETHERNET,
    LINKTYPE_IPV4,
    LINKTYPE_IPV6,
    LINKTYPE_LINUX_SLL,
    LINKTYPE_LINUX_SLL2,
    LINKTYPE_LOOP,
    LINKTYPE_NULL,
    LINKTYPE_RAW,
)

__all__ = ["IpPacket", "decode", "text_of"]

_VLAN = (0x8100, 0x88A8, 0x9100)
_HEADER = {LINKTYPE_ETHERNET: (14, 12), LINKTYPE_LINUX_SLL: (16, 14), LINKTYPE_LINUX_SLL2: (20, 0)}
_OPTIONS = (0, 43, 60, 135)  # IPv6 extension headers with a length field in units of 8 bytes
_FRAGMENT = 44


@dataclass(slots=True, frozen=True)
class IpPacket:
    """An IP packet's addresses and what it carries."""

    tags: tuple[int, ...]
    """VLAN tags, outermost first."""
    source: str
    destination: str
    protocol: int
    payload: bytes
    """Of the IP packet, or of this fragment of it."""
    fragment: tuple[int, int, bool] | None
    """Identification, offset in bytes, whether more follow; None: not fragmented."""


@lru_cache(16384)
def text_of(address: bytes) -> str:
    """An IPv4 (4 bytes) or IPv6 (16 bytes) address in canonical text."""
    return str(ipaddress.ip_address(address))


def decode(data: bytes, link_type: int) -> IpPacket | None:
    """The IP packet in a captured frame (as `link.locate` sees it), or None where there is none or it is cut short."""
    try:
        return _decode(data, link_type)
    except (struct.error, IndexError, ValueError):
        return None


def _decode(data: bytes, link_type: int) -> IpPacket | None:
    tags: list[int] = []
    at = 0
    if link_type in _HEADER:
        at, where = _HEADER[link_type]
        (kind,) = struct.unpack_from(">H", data, where)
        while kind in _VLAN and len(tags) < MAX_TAGS:
            control, kind = struct.unpack_from(">HH", data, at)
            tags.append(control & 0xFFF)
            at += 4
        if kind not in (0x0800, 0x86DD):
            return None
    elif link_type in (LINKTYPE_NULL, LINKTYPE_LOOP):
        at = 4
    elif link_type not in (LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6):
        return None
    vlans = tuple(tag for tag in tags if tag)
    version = data[at] >> 4
    if version == 4:
        return _ipv4(data, at, vlans)
    return _ipv6(data, at, vlans) if version == 6 else None


def _ipv4(data: bytes, at: int, tags: tuple[int, ...]) -> IpPacket | None:
    head, _, total, ident, fragment, _, protocol = struct.unpack_from(">BBHHHBB", data, at)
    size = (head & 0x0F) * 4
    if size < 20 or len(data) < at + size:
        return None
    end = at + total if total >= size else len(data)  # 0 where the network card cut the segments (TSO)
    offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    return IpPacket(tags, text_of(data[at + 12:at + 16]), text_of(data[at + 16:at + 20]), protocol, data[at + size:end],
                    (ident, offset, more) if offset or more else None)


def _ipv6(data: bytes, at: int, tags: tuple[int, ...]) -> IpPacket | None:
    if len(data) < at + 40:
        return None
    length, protocol = struct.unpack_from(">HB", data, at + 4)
    source, destination = text_of(data[at + 8:at + 24]), text_of(data[at + 24:at + 40])
    end = at + 40 + length if length else len(data)
    at += 40
    fragment = None
    for _ in range(8):
        if protocol in _OPTIONS:
            protocol, size = data[at], data[at + 1] * 8 + 8
            at += size
        elif protocol == _FRAGMENT:
            protocol, where, ident = struct.unpack_from(">BxHI", data, at)
            if where & 0xFFF9:
                fragment = (ident, where & 0xFFF8, bool(where & 1))
            at += 8
            if fragment:
                break
        else:
            break
    if at > len(data):
        return None
    return IpPacket(tags, source, destination, protocol, data[at:end], fragment)
