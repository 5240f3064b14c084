"""Captures for scenarios, packet by packet: scapy makes the frames, the test says who sends what when."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, fragment6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from tests.sniffer import captures

T0_US = 1_791_158_400_000_000  # 2026-10-05 00:00:00 UTC
S = 1_000_000
Address = tuple[str, int]
A, PBX, B, C = ("10.0.0.1", 5060), ("10.0.0.9", 5060), ("10.0.0.2", 5060), ("10.0.0.3", 5060)
A_RTP, B_RTP, C_RTP = ("10.0.0.1", 4000), ("10.0.0.2", 6000), ("10.0.0.3", 7000)
SIZES = {0: 160, 8: 160, 9: 160, 18: 20, 5: 84, 13: 1, 34: 300, 96: 300}
"""Bytes of 20 ms by payload type (DVI4: with its header; 96: video)."""


class Frame(NamedTuple):
    at_us: int
    data: bytes
    interface: int = 0


@lru_cache(512)
def frame(src: Address, dst: Address, size: int, vlan: tuple[int, ...] = (), ttl: int = 64, extended: bool = False) -> bytes:
    """Ethernet, tags, IP, UDP around so many zeros (UDP without a checksum); `extended`: IPv6 extension headers between."""
    link: Packet = Ether(src="02:00:00:00:00:01" if ttl == 64 else "02:00:00:00:00:99", dst="02:00:00:00:00:02")
    for tag in vlan:
        link = link / Dot1Q(vlan=tag)
    net = IPv6(src=src[0], dst=dst[0], hlim=ttl) if ":" in src[0] else IP(src=src[0], dst=dst[0], ttl=ttl, id=7)
    if extended:
        net = net / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    return bytes(link / net / UDP(sport=src[1], dport=dst[1], chksum=0) / Raw(bytes(size)))


def sdp(at: Address, payload_types: str = "0 8 9 101", direction: str = "sendrecv", proto: str = "RTP/AVP",
        more: Sequence[str] = (), maps: Sequence[str] = ("101 telephone-event/8000",), version: int = 1,
        address: str | None = None) -> str:
    """A session description of one audio section, and `more` lines behind it."""
    where = address if address is not None else at[0]
    family = "IP6" if ":" in where else "IP4"
    lines = ["v=0", f"o=- {at[1]} {version} IN {family} {at[0]}", "s=-", f"c=IN {family} {where}", "t=0 0",
             f"m=audio {at[1]} {proto} {payload_types}", *(f"a=rtpmap:{m}" for m in maps), f"a={direction}", *more]
    return "\r\n".join(lines) + "\r\n"


class Talk:
    """What one RTP stream sent: packets, and their voice for the hash."""

    def __init__(self) -> None:
        self.voice = b""
        self.packets = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.voice).hexdigest()


@dataclass
class Wire:
    """The packets of a capture in the making."""

    frames: list[Frame] = field(default_factory=list)
    interface: int = 0

    def add(self, at_us: int, data: bytes) -> None:
        self.frames.append(Frame(at_us, data, self.interface))

    def udp(self, at_us: int, src: Address, dst: Address, payload: bytes, **link: object) -> None:
        blank = frame(src, dst, len(payload), **link)  # type: ignore[arg-type]
        self.add(at_us, blank[:len(blank) - len(payload)] + payload)

    def fragments(self, at_us: int, src: Address, dst: Address, payload: bytes, size: int) -> None:
        """The datagram in IP fragments."""
        inner = UDP(sport=src[1], dport=dst[1]) / Raw(payload)
        parts: Iterable[Packet]
        if ":" in src[0]:
            parts = fragment6(IPv6(bytes(IPv6(src=src[0], dst=dst[0]) / inner)), size)
        else:
            parts = (IP(src=src[0], dst=dst[0], id=at_us & 0xFFFF) / inner).fragment(size)
        for n, part in enumerate(parts):
            self.add(at_us + n, bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / part))

    def tcp(self, at_us: int, src: Address, dst: Address, sequence: int, payload: bytes) -> None:
        self.add(at_us, bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=src[0], dst=dst[0])
                              / TCP(sport=src[1], dport=dst[1], flags="PA", seq=sequence, ack=1) / Raw(payload)))

    def rtp(self, at_us: int, src: Address, dst: Address, ssrc: int, count: int, *, payload_type: int = 0, sequence: int = 100,
            stamp: int = 5_000, step_us: int = 20_000, ticks: int = 160, talk: Talk | None = None, payload: bytes | None = None,
            **link: object) -> Talk:
        """Packets one after another. The payload of a number is the same wherever the stream is seen."""
        talk = talk or Talk()
        for n in range(count):
            size = SIZES.get(payload_type, 160)
            voice = random.Random(ssrc << 20 | sequence + n).randbytes(size) if payload is None else payload
            head = bytes([0x80, payload_type]) + (sequence + n & 0xFFFF).to_bytes(2, "big")
            head += (stamp + n * ticks & 0xFFFFFFFF).to_bytes(4, "big") + ssrc.to_bytes(4, "big")
            self.udp(at_us + n * step_us, src, dst, head + voice, **link)
            if payload_type not in (13, 101):
                talk.voice += voice
            talk.packets += 1
        return talk

    def key(self, at_us: int, src: Address, dst: Address, ssrc: int, key: int, sequence: int, stamp: int,
            copies: int = 1) -> None:
        """A DTMF key in RFC 4733 events: 5 updates and 3 ends, each `copies` times."""
        for n in range(8):
            duration = 160 * min(n + 1, 6)
            event = bytes([key, 0x8A if n >= 5 else 0x0A]) + duration.to_bytes(2, "big")
            for _ in range(copies):
                self.rtp(at_us + n * 20_000, src, dst, ssrc, 1, payload_type=101, sequence=sequence + n, stamp=stamp,
                         payload=event)

    def sorted(self) -> list[Frame]:
        return sorted(self.frames, key=lambda f: f.at_us)

    def write(self, path: Path, frames: Sequence[Frame] | None = None) -> Path:
        """A pcap file of nanosecond times; pcapng where there are several interfaces."""
        chosen = self.sorted() if frames is None else frames
        rows = [captures.Packet((T0_US + f.at_us) * 1000, f.data, len(f.data)) for f in chosen]
        count = 1 + max((f.interface for f in self.frames), default=0)
        if count == 1:
            path.write_bytes(captures.pcap(rows, nano=True))
        else:
            blocks = [captures.enhanced(row.time_ns // 1000, row.data, number=f.interface)
                      for f, row in zip(chosen, rows, strict=True)]
            path.write_bytes(captures.section() + captures.interface() * count + b"".join(blocks))
        return path


@dataclass
class Dialog:
    """The messages of one call between `caller` and `callee`, each at the given places."""

    wire: Wire
    call_id: str = "c1@example"
    hops: Sequence[tuple[Address, Address]] = ((A, B),)
    """Upstream and downstream ends, the caller's first; each message passes all of them, 2 ms apart."""
    from_tag: str = "fa"
    to_tag: str = "tb"
    name: bytes = b'"Alice"'
    link: dict[str, object] = field(default_factory=dict)
    cseq: dict[bool, int] = field(default_factory=lambda: {True: 1, False: 100})
    branches: dict[tuple[bool, str], str] = field(default_factory=dict)

    def _head(self, first: str, by_caller: bool, method: str, to_tag: str | None, branch: str, cseq: int) -> bytes:
        """First line and the fields every message has; `by_caller`: it belongs to a request of the caller's."""
        tag = f";tag={to_tag}" if to_tag else ""
        ends = [b"%s <sip:100@a.example>;tag=%s" % (self.name, self.from_tag.encode()), f"<sip:200@b.example>{tag}".encode()]
        if not by_caller:
            ends.reverse()
        return b"\r\n".join([first.encode(), f"Via: SIP/2.0/UDP host.example;branch={branch}".encode(), b"From: " + ends[0],
                             b"To: " + ends[1], f"Call-ID: {self.call_id}\r\nCSeq: {cseq} {method}".encode()])

    def _send(self, at_us: int, downstream: bool, head: bytes, bodies: Sequence[str]) -> None:
        places = list(enumerate(self.hops))
        for n, (k, (up, down)) in enumerate(places if downstream else reversed(places)):
            body = (bodies[min(k, len(bodies) - 1)] if bodies else "").encode()
            kind = b"Content-Type: application/sdp\r\n" if body else b""
            message = head.replace(b"branch=z9hG4bK", b"branch=z9hG4bK%d" % k) + b"\r\n" + kind
            message += b"Content-Length: %d\r\n\r\n" % len(body) + body
            src, dst = (up, down) if downstream else (down, up)
            self.deliver(at_us + n * 2_000, src, dst, message)

    def deliver(self, at_us: int, src: Address, dst: Address, message: bytes) -> None:
        self.wire.udp(at_us, src, dst, message, **self.link)

    def request(self, at_us: int, method: str, *bodies: str, by_caller: bool = True, to_tag: str | None = None,
                fresh: bool = True) -> None:
        """A request; `bodies`: of each hop its own. CANCEL and ACK (`fresh` False: of a refusal) go with the INVITE."""
        if method not in ("ACK", "CANCEL") and fresh:
            self.cseq[by_caller] += 1
        cseq = self.cseq[by_caller]
        branch = f"z9hG4bK{self.call_id}{by_caller:d}{cseq}" + ("ack" if method == "ACK" and fresh else "")
        tag = to_tag if to_tag is not None else ("" if method in ("INVITE", "CANCEL") and by_caller else self.to_tag)
        head = self._head(f"{method} sip:x@y.example SIP/2.0", by_caller, method, tag if by_caller else self.to_tag, branch, cseq)
        self._send(at_us, by_caller, head, bodies)

    def response(self, at_us: int, status: int, *bodies: str, method: str = "INVITE", to_caller: bool = True,
                 to_tag: str | None = None) -> None:
        cseq = self.cseq[to_caller]
        branch = f"z9hG4bK{self.call_id}{to_caller:d}{cseq}"
        tag = self.to_tag if to_tag is None else to_tag
        self._send(at_us, not to_caller, self._head(f"SIP/2.0 {status} X", to_caller, method, tag, branch, cseq), bodies)

    # -- what most calls do ----------------------------------------------------
    def answered(self, at_us: int = 0, offer: Sequence[str] = (sdp(A_RTP),), answer: Sequence[str] = (sdp(B_RTP),),
                 after_us: int = S) -> None:
        """INVITE, 180, 200, ACK."""
        self.request(at_us, "INVITE", *offer)
        self.response(at_us + 100_000, 180)
        self.response(at_us + after_us, 200, *answer)
        self.request(at_us + after_us + 50_000, "ACK")

    def reinvite(self, at_us: int, offer: Sequence[str], answer: Sequence[str], by_caller: bool = True) -> None:
        self.request(at_us, "INVITE", *offer, by_caller=by_caller, to_tag=self.to_tag)
        self.response(at_us + 50_000, 200, *answer, to_caller=by_caller)
        self.request(at_us + 80_000, "ACK", by_caller=by_caller)

    def bye(self, at_us: int, by_caller: bool = True) -> None:
        self.request(at_us, "BYE", by_caller=by_caller)
        self.response(at_us + 20_000, 200, method="BYE", to_caller=by_caller)


def plain(wire: Wire, at_us: int = 0, seconds: int = 4, **more: object) -> tuple[Talk, Talk]:
    """A call that is answered after a second and talks for so many; what both sides sent."""
    dialog = Dialog(wire, **more)  # type: ignore[arg-type]
    dialog.answered(at_us)
    talks = both(wire, at_us + S, seconds * 50, **dialog.link)
    dialog.bye(at_us + (seconds + 1) * S + 100_000)
    return talks


def both(wire: Wire, at_us: int, count: int, a: Address = A_RTP, b: Address = B_RTP, ssrcs: tuple[int, int] = (1, 2),
         **more: object) -> tuple[Talk, Talk]:
    return (wire.rtp(at_us, a, b, ssrcs[0], count, **more),  # type: ignore[arg-type]
            wire.rtp(at_us + 5_000, b, a, ssrcs[1], count, **more))  # type: ignore[arg-type]
