"""RTCP receiver reports (RFC 3550 section 6.4): what phones say they lost, to be held against what the mirror shows."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rokuon.sniffer.careful import decode
from rokuon.sniffer.classify import Kind
from rokuon.sniffer.ip import PROTOCOL_UDP
from rokuon.store.runs import Run

__all__ = ["Block", "Reports", "blocks"]

SR, RR = 200, 201
_MOST = 65_536
_PACKETS_A_RUN = 4096


class Block(NamedTuple):
    """A report block: what a receiver says of one sender."""

    ssrc: int
    lost: int
    """Since the start; negative where copies came."""
    highest: int
    """Extended sequence number."""


def blocks(data: bytes) -> Iterator[Block]:
    """The report blocks of a compound packet; what is cut or makes no sense ends it."""
    at = 0
    while at + 4 <= len(data):
        first, kind, words = struct.unpack_from(">BBH", data, at)
        end = at + 4 + 4 * words
        if first >> 6 != 2 or end > len(data):
            return
        body = at + (28 if kind == SR else 8)
        if kind in (SR, RR):
            for n in range(first & 0x1F):
                if body + 24 * (n + 1) > end:
                    break
                ssrc, lost, highest = struct.unpack_from(">III", data, body + 24 * n)
                lost &= 0xFFFFFF
                yield Block(ssrc, lost - (lost >> 23 << 24), highest)
        at = end


@dataclass(slots=True)
class Reports:
    """The first and the newest block of each SSRC."""

    packets: int = 0
    found: dict[int, tuple[Block, Block]] = field(default_factory=dict)

    def add(self, run: Run) -> None:
        """Takes what a run holds of RTCP."""
        rows = run.packets[run.packets["kind"] == Kind.RTCP]
        self.packets += len(rows)
        for _, offset, captured, _, link_type, _, _ in rows[:_PACKETS_A_RUN].tolist():
            packet = decode(run.packet_bytes[offset:offset + captured].tobytes(), link_type)
            if packet is None or packet.protocol != PROTOCOL_UDP:
                continue
            for block in blocks(packet.payload[8:]):
                before = self.found.get(block.ssrc)
                if before is not None or len(self.found) < _MOST:
                    self.found[block.ssrc] = (before[0] if before else block, block)
