"""Packets of any kind as the batches that capture takes, with noise wherever a reader has no business."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from itertools import pairwise

import numpy as np
from tests.sniffer.captures import Packet

from rokuon.sniffer.packet import SLACK, PacketBatch

S = 1_000_000_000
T0 = 1_800_000_000 * S
GUARD = 16
"""Bytes between two packets: as much as a record header of a capture file."""


def batch(packets: Sequence[Packet], *, noise: int = 0x5A) -> PacketBatch:
    """One batch. What lies between and behind the packets is `noise`: whoever reads it as a packet shows it."""
    sizes = [len(p.data) for p in packets]
    starts = np.cumsum([GUARD, *[size + GUARD for size in sizes]])[:len(packets)]
    data = np.full(GUARD + sum(sizes) + GUARD * len(sizes) + SLACK, noise, np.uint8)
    for at, p in zip(starts.tolist(), packets, strict=True):
        data[at:at + len(p.data)] = np.frombuffer(p.data, np.uint8)
    return PacketBatch(data, starts.astype(np.int64), np.array(sizes, np.int32), np.array([p.wire for p in packets], np.int32),
                       np.array([p.time_ns for p in packets], np.int64), np.array([p.link_type for p in packets], np.uint16),
                       np.array([p.point for p in packets], np.uint8))


def cut(packets: Sequence[Packet], cuts: Sequence[int]) -> Iterator[list[Packet]]:
    """The packets in several lots; `cuts` are places, in any order, also beyond the end and twice the same."""
    places = sorted({min(max(c, 0), len(packets)) for c in cuts} | {0, len(packets)})
    for begin, end in pairwise(places):
        yield list(packets[begin:end])


def udp(payload: bytes, src: tuple[str, int] = ("10.0.0.1", 4000), dst: tuple[str, int] = ("10.0.0.2", 5000), *,
        vlans: Sequence[int] = (), ident: int = 1, ttl: int = 64, tos: int = 0) -> bytes:
    """Ethernet / IP / UDP, checksums left out."""
    a, b = ip_address(src[0]), ip_address(dst[0])
    body = struct.pack(">HHHH", src[1], dst[1], 8 + len(payload), 0) + payload
    link = bytes(12) + b"".join(struct.pack(">HH", 0x8100, tag) for tag in vlans)
    if a.version == 6:
        return link + struct.pack(">HIHBB", 0x86DD, 6 << 28 | tos << 20, len(body), 17, ttl) + a.packed + b.packed + body
    head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(body), ident, 0, ttl, 17, 0)
    return link + b"\x08\x00" + head + a.packed + b.packed + body


def rtp(ssrc: int, sequence: int = 0, payload: bytes = bytes(20), *, kind: int = 0) -> bytes:
    return struct.pack(">BBHII", 0x80, kind, sequence & 0xFFFF, sequence * 160 & 0xFFFFFFFF, ssrc) + payload


def voice(time_ns: int, ssrc: int, sequence: int = 0, *, src: tuple[str, int] = ("10.0.0.1", 4000),
          dst: tuple[str, int] = ("10.0.0.2", 5000), vlans: Sequence[int] = (), payload: bytes = bytes(20),
          point: int = 0) -> Packet:
    """An RTP packet as captured on an Ethernet."""
    frame = udp(rtp(ssrc, sequence, payload), src, dst, vlans=vlans, ident=sequence & 0xFFFF)
    return Packet(time_ns, frame, len(frame), point=point)
