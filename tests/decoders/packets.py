"""RTP packets made by hand, for tests of what comes after the capture."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from rokuon.decoders.rtp import RtpRecords

T0 = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z"""
MS = 1_000_000


@dataclass(frozen=True)
class Rtp:
    """One packet and when it came."""

    time_ns: int
    sequence: int
    timestamp: int
    payload: bytes
    payload_type: int = 0
    ssrc: int = 1

    def octets(self) -> bytes:
        return struct.pack(">BBHII", 0x80, self.payload_type, self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF,
                           self.ssrc) + self.payload

    def at(self, time_ns: int) -> Rtp:
        return replace(self, time_ns=time_ns)


def talk(count: int, begin_ns: int = T0, sequence: int = 65_500, timestamp: int = 0xFFFFF000, payload_type: int = 0,
         ticks: int = 160, ms: float = 20, size: int | None = None, seed: int = 1) -> list[Rtp]:
    """Packets of noise, one every `ms`, in order; sequence numbers and timestamps wrap soon unless told otherwise."""
    noise = random.Random(seed)
    size = ticks if size is None else size
    return [Rtp(begin_ns + round(k * ms * MS), sequence + k, timestamp + k * ticks, noise.randbytes(size), payload_type)
            for k in range(count)]


def event(first: Rtp, code: int, packets: int = 6, payload_type: int = 101) -> list[Rtp]:
    """A key press in place of the packets from `first` on: `packets` growing, the last one three times in all."""
    out = []
    for k in range(packets + 2):
        step = min(k + 1, packets)
        out.append(Rtp(first.time_ns + k * 20 * MS, first.sequence + k, first.timestamp,
                       struct.pack(">BBH", code, 0x0A | 0x80 * (k >= packets - 1), step * 160), payload_type))
    return out


def records(packets: Iterable[Rtp]) -> RtpRecords:
    """As the recorder hands them over."""
    return raw_records((p.time_ns, p.octets()) for p in packets)


def raw_records(packets: Iterable[tuple[int, bytes]]) -> RtpRecords:
    packets = list(packets)
    length = np.array([len(octets) for _, octets in packets], np.int32)
    data = np.frombuffer(bytearray(b"".join(octets for _, octets in packets) + bytes(64)), np.uint8)
    return RtpRecords(np.array([t for t, _ in packets], np.int64), data, np.cumsum(length, dtype=np.int64) - length, length,
                      length.copy())
