"""Frames of every kind that capture knows, made and taken apart by scapy: the independent dissector."""

from __future__ import annotations

import random
import struct
from functools import lru_cache
from typing import NamedTuple

import pytest

pytest.importorskip("scapy", reason="scapy, the independent dissector, is not installed")

from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, IPOption_Timestamp
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Pad1,
    PadN,
)
from scapy.layers.l2 import (
    ARP,
    CookedLinux,
    CookedLinuxV2,
    Dot1AD,
    Dot1Q,
    Ether,
    Loopback,
    LoopbackOpenBSD,
)
from scapy.layers.rtp import RTP
from scapy.packet import Packet as Layer
from scapy.packet import Raw, bind_bottom_up

NULL, ETHERNET, RAW, LOOP, SLL, IPV4, IPV6, SLL2 = 0, 1, 101, 108, 113, 228, 229, 276
LINKS = (ETHERNET, ETHERNET, ETHERNET, RAW, NULL, LOOP, SLL, SLL2, IPV4, IPV6)
VLANS: tuple[tuple[int, ...], ...] = ((), (), (100,), (100, 7), (0,), (0, 7), (4095, 1, 2, 3), (7, 100))
PORTS = ((4000, 5000), (4002, 5000), (16384, 30000), (5000, 4000))
SSRCS = (1, 2, 0x80000000, 0xFFFFFFFF)

for _below, _field in ((Ether, "type"), (CookedLinux, "proto"), (CookedLinuxV2, "proto"), (Dot1Q, "type"), (Dot1AD, "type")):
    for _value, _tag in ((0x8100, Dot1Q), (0x88A8, Dot1AD), (0x9100, Dot1AD)):  # scapy does not know all of them everywhere
        bind_bottom_up(_below, _tag, **{_field: _value})


class Frame(NamedTuple):
    """A frame, and what was put into it."""

    data: bytes
    link_type: int
    content: str
    """rtp, rtcp, sip, stun, dtls, junk; of TCP: sip-port, sip-begin, tcp; fragment, other-ip, not-ip."""


class Seen(NamedTuple):
    """What scapy reads in a frame's headers."""

    tags: tuple[int, ...]
    version: int
    """4, 6; 0: no IP."""
    src: str = ""
    dst: str = ""
    network: int = 0
    """Where the IP header begins."""
    upper: int = 0
    """Where the header behind IP's begins (a fragment's: the part of it)."""
    protocol: int = 0
    fragment: tuple[int, int, bool] | None = None
    end: int = 0
    """Where the IP packet ends by its own length field."""
    ttl: int = 0
    tos: int = 0
    ident: int = 0


def content(rng: random.Random) -> tuple[str, bytes, tuple[int, int]]:
    """A UDP payload of a kind, and the ports that it may have."""
    ports = rng.choice(PORTS)
    noise = rng.randbytes(rng.choice([0, 1, 19, 20, 33, 160]))
    kind = rng.choice(["rtp"] * 6 + ["sip", "sip", "rtcp", "stun", "dtls", "junk", "junk"])
    if kind == "rtp":
        csrcs = [rng.getrandbits(32) for _ in range(rng.choice([0, 0, 0, 2, 15]))]
        rtp = bytes(RTP(version=2, payload_type=rng.choice([0, 8, 9, 96, 111, 127]), sequence=rng.getrandbits(16),
                        marker=rng.randint(0, 1), timestamp=rng.getrandbits(32), sourcesync=rng.choice(SSRCS), sync=csrcs))
        if not rng.randrange(4):
            rtp = bytes([rtp[0] | 0x10]) + rtp[1:] + b"\xbe\xde\x00\x01" + rng.randbytes(4)
        if rtp[1] & 0x7F in range(64, 96):
            rtp = rtp[:1] + b"\x00" + rtp[2:]
        return kind, rtp + noise, ports
    if kind == "sip":
        line = rng.choice(["INVITE sip:1@x SIP/2.0", "SIP/2.0 200 OK", "BYE sip:1@x SIP/2.0", "ACK sip:1@x SIP/2.0", "hello"])
        return kind, line.encode() + b"\r\n\r\n" + noise, (5060, 4000) if line == "hello" else rng.choice([ports, (5060, 5060)])
    if kind == "rtcp":
        return kind, bytes([0x80, rng.choice([192, 200, 201, 207, 223])]) + b"\x00\x01" + noise, ports
    if kind == "stun":
        return kind, bytes([0, 1, 0, 0]) + b"\x21\x12\xa4\x42" + rng.randbytes(12) + noise, ports
    if kind == "dtls":
        return kind, b"\x16\xfe\xfd\x00" + noise, ports
    return kind, rng.choice([b"", b"\x80\x00\x00", b"\x80\x00" + bytes(9), b"\xc0" + bytes(30), b"\x40junk junk junk junk",
                             b"\x00" * 40, b"\x8f\x00" + bytes(40)]), ports


def extensions(rng: random.Random) -> Layer:
    """IPv6 extension headers, none of them a fragment's."""
    kinds = rng.choice([[], [], [], ["hop"], ["dst"], ["hop", "routing"], ["hop", "dst", "routing", "dst"], ["atomic"],
                        ["dst", "atomic"]])
    head: Layer = IPv6(src=rng.choice(["2001:db8::1", "fd00::10"]), dst=rng.choice(["2001:db8::2", "fd00::20"]),
                       hlim=rng.randint(1, 255), tc=rng.getrandbits(8), fl=rng.getrandbits(20))
    for kind in kinds:
        options = rng.choice([[], [PadN(optdata=b"abcd")], [Pad1(), PadN(optdata=bytes(12))]])
        if kind == "hop":
            head /= IPv6ExtHdrHopByHop(options=options)
        elif kind == "dst":
            head /= IPv6ExtHdrDestOpt(options=options)
        elif kind == "routing":
            head /= IPv6ExtHdrRouting(addresses=["2001:db8::9"] * rng.randint(0, 2))
        else:
            head /= IPv6ExtHdrFragment(id=rng.getrandbits(32), offset=0, m=0)
    return head


def network(rng: random.Random, v6: bool) -> Layer:
    if v6:
        return extensions(rng)
    options = rng.choice([[], [], [], [IPOption_NOP()] * rng.choice([1, 4, 40]), [IPOption_Timestamp(length=12)]])
    return IP(src=rng.choice(["10.0.0.1", "192.0.2.7"]), dst=rng.choice(["10.0.0.2", "198.51.100.9"]), ttl=rng.randint(1, 255),
              tos=rng.getrandbits(8), id=rng.getrandbits(16), flags=rng.choice(["", "DF"]), options=options)


def link(rng: random.Random, kind: int, body: bytes, ethertype: int) -> bytes:
    """The frame around a network layer."""
    if kind in (RAW, IPV4, IPV6):
        return body
    if kind == LOOP:
        return bytes(LoopbackOpenBSD(type=2)) + body
    if kind == NULL:
        return struct.pack("<I", rng.choice([2, 24, 28, 30])) + body
    if kind == SLL2:
        head: Layer = CookedLinuxV2(proto=ethertype)
    elif kind == SLL:
        head = CookedLinux(proto=ethertype)
    else:
        head = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=ethertype)
    tags = rng.choice(VLANS) if kind != SLL2 or rng.random() < 0.5 else ()
    outer = rng.choice([0x8100, 0x88A8, 0x9100])
    types = [outer if i == 0 and len(tags) > 1 else 0x8100 for i in range(len(tags))] + [ethertype]
    head_bytes = bytearray(bytes(head))
    where = {ETHERNET: 12, SLL: 14, SLL2: 0}[kind]
    struct.pack_into(">H", head_bytes, where, types[0])
    for tag, following in zip(tags, types[1:], strict=True):
        layer = Dot1AD if outer == 0x88A8 else Dot1Q
        head_bytes += bytes(layer(vlan=tag, prio=rng.getrandbits(3), type=following))
    return bytes(head_bytes) + body


def frame(rng: random.Random) -> Frame:
    """Any frame. Ethernet ones may be padded."""
    kind = rng.choice(LINKS)
    v6 = kind == IPV6 or (kind != IPV4 and rng.random() < 0.4)
    what = rng.choices(["udp", "tcp", "fragment", "other-ip", "not-ip"], [14, 3, 2, 1, 1])[0]
    if what == "not-ip":
        kind = ETHERNET
        return Frame(link(rng, kind, bytes(ARP()) + bytes(18), rng.choice([0x0806, 0x88CC, 0x0026, 0x8847])), kind, what)
    head = network(rng, v6)
    name, payload, ports = content(rng)
    if what == "udp":
        head /= UDP(sport=ports[0], dport=ports[1]) / Raw(payload)
    elif what == "tcp":
        name = rng.choice(["sip-port", "sip-begin", "tcp"])
        number = rng.randrange(3)
        text = {"sip-begin": b"OPTIONS sip:x SIP/2.0\r\n", "sip-port": b"any", "tcp": rng.choice([b"", b"GET / HTTP/1.1"])}[name]
        ends = {"sip-port": (33333, 5060), "sip-begin": (7000, 8000 + number), "tcp": (9000, 80)}[name]
        head /= TCP(sport=ends[0], dport=ends[1], flags="PA", options=[("NOP", None)] * rng.choice([0, 4])) / Raw(text)
    elif what == "fragment":
        name = what
        if v6:
            head /= IPv6ExtHdrFragment(id=rng.getrandbits(32), offset=rng.choice([0, 1, 185]), m=1, nh=17)
            head /= Raw(bytes(16) + payload)
        else:
            head.flags, head.frag, head.proto = *rng.choice([("MF", 0), ("MF", 185), ("", 185), ("MF", 8000)]), 17
            head /= Raw(bytes(16) + payload)
    else:
        name = what
        if v6:
            head = IPv6(src="fd00::1", dst="fd00::2", nh=253)
        else:
            head.proto = rng.choice([1, 2, 50, 132])
        head /= Raw(bytes([0x80]) + rng.randbytes(40))
    data = link(rng, kind, bytes(head), 0x86DD if v6 else 0x0800)
    if kind == ETHERNET and rng.random() < 0.4:
        data += b"\xee" * max(60 - len(data), rng.choice([0, 4]))
    return Frame(data, kind, name)


@lru_cache
def pool(count: int = 500, seed: int = 1) -> tuple[Frame, ...]:
    rng = random.Random(seed)
    return tuple(frame(rng) for _ in range(count))


_FIRST = {ETHERNET: Ether, SLL: CookedLinux, SLL2: CookedLinuxV2, NULL: Loopback, LOOP: LoopbackOpenBSD, IPV4: IP, IPV6: IPv6}


@lru_cache(4096)
def dissect(data: bytes, link_type: int) -> Seen:
    """The headers as scapy sees them."""
    if link_type in (NULL, LOOP):  # the address family differs between systems and says no more than the IP version
        inner = dissect(data[4:], RAW)
        return inner._replace(network=4, upper=inner.upper + 4, end=inner.end + 4)
    first = _FIRST.get(link_type) or (IP if data[0] >> 4 == 4 else IPv6)
    packet = first(data)
    tags, at, layer = [], 0, packet
    while not isinstance(layer, IP | IPv6):
        if isinstance(layer, Dot1Q | Dot1AD):
            tags.append(int(layer.vlan))
        elif layer is not packet:
            return Seen(tuple(tag for tag in tags if tag), 0)
        at = len(data) - len(layer.payload.original)
        layer = layer.payload
    vlans = tuple(tag for tag in tags if tag)
    if isinstance(layer, IP):
        ip = layer
        fragment = (ip.id, ip.frag * 8, bool(ip.flags.MF)) if ip.frag or ip.flags.MF else None
        return Seen(vlans, 4, ip.src, ip.dst, at, at + ip.ihl * 4, ip.proto, fragment, at + ip.len, ip.ttl, ip.tos, ip.id)
    six, fragment, protocol = layer, None, layer.nh
    upper, behind = layer.payload, at + 40
    while isinstance(upper, IPv6ExtHdrHopByHop | IPv6ExtHdrDestOpt | IPv6ExtHdrRouting | IPv6ExtHdrFragment):
        protocol = upper.nh
        behind += 8 if isinstance(upper, IPv6ExtHdrFragment) else 8 * upper.len + 8
        if isinstance(upper, IPv6ExtHdrFragment) and (upper.offset or upper.m):
            fragment = (upper.id, upper.offset * 8, bool(upper.m))
            break
        upper = upper.payload
    end = at + 40 + six.plen
    return Seen(vlans, 6, six.src, six.dst, at, behind, protocol, fragment, end, six.hlim, six.tc)
