"""The two capture file formats, classic pcap and pcapng, as bytes in, packets out.

https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/ and …/draft-ietf-opsawg-pcapng/
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.pcap_walk import Chain, RecordShape, headers_at

__all__ = ["MAGIC_SIZE", "RECORD_MAX", "Format", "Parsed", "PcapFormat", "format_of", "link_type_of", "looks_like_capture"]

MAGIC_SIZE = 24
"""Bytes of a file's beginning that `format_of` wants to see (fewer only where the file has no more)."""
PACKET_MAX = 1 << 18
"""libpcap's MAXIMUM_SNAPLEN: no writer stores more of a packet."""
RECORD_MAX = PACKET_MAX + (1 << 16)
"""A packet and what its record says about it."""
INT32_MAX = 0x7FFF_FFFF

_PCAP = {b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
         b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1)}
_SECTION = b"\x0a\x0d\x0d\x0a"
_SECTION_ORDER = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}


@dataclass(slots=True)
class Parsed:
    """What a stretch of a file holds."""

    batch: PacketBatch | None
    """Its whole packets, None if there are none."""
    end: int
    """Where what was understood ends: from here on it is to be shown again with more bytes behind it. May lie behind the
    bytes that were shown: so many are to be skipped unread."""
    damage: str | None = None
    """What is wrong with the file at `end`; nothing can be read from there on."""


class Format(Protocol):
    """Reads one file of a format, piece by piece."""

    @property
    def header(self) -> int:
        """Bytes at the file's beginning that are not records."""

    @property
    def notes(self) -> list[str]:
        """What was left out so far though the file could be read on."""

    def parse(self, data: NDArray[np.uint8], begin: int, end: int) -> Parsed:
        """What data[begin:end] holds, which follows on what was understood before; `SLACK` bytes more are readable."""


def looks_like_capture(start: bytes) -> bool:
    """Whether a file that begins like this is a pcap or pcapng file (not compressed)."""
    return start[:4] in _PCAP or (start[:4] == _SECTION and start[8:12] in _SECTION_ORDER)


def format_of(start: bytes, lanes: int | None = None) -> Format:
    """The reader for a file that begins with `start` (`MAGIC_SIZE` bytes).

    Raises ValueError, saying why, if it is no capture file.
    """
    if start[:4] in _PCAP:
        if len(start) < MAGIC_SIZE:
            raise ValueError("cut short inside the file header")
        return PcapFormat(start, lanes)
    if start[:4] == _SECTION:
        from rokuon.sniffer.pcapng_format import PcapngFormat  # noqa: PLC0415 - it builds on this module

        if len(start) < 12:
            raise ValueError("cut short inside the file header")
        if start[8:12] in _SECTION_ORDER:
            return PcapngFormat(lanes)
    raise ValueError("neither pcap nor pcapng")


def link_type_of(field: int) -> int:
    """LINKTYPE from the 32 bits of a pcap header (28 of them; above are the length of the FCS and its flag), 65535: unknown."""
    return min(field & 0x0FFF_FFFF, 0xFFFF)


class PcapFormat:
    """Classic pcap: a header of 24 bytes, then records of 16 bytes and a packet each."""

    header = 24

    def __init__(self, start: bytes, lanes: int | None = None) -> None:
        """Take what the file header says; `lanes`: see `Chain`."""
        self._order, self._unit = _PCAP[start[:4]]
        self._snaplen, network = struct.unpack_from(self._order + "II", start, 16)
        self._link_type = link_type_of(network)
        # Writers exist that state too small a snaplen, or 0: only what is far beyond it is damage.
        self._longest = min(PACKET_MAX, max(2 * self._snaplen, PACKET_MAX >> 1)) if self._snaplen else PACKET_MAX
        self._chain = Chain(RecordShape(self._order, 16, 8, 16, 16), lanes)
        self.notes: list[str] = []  # there is nothing in it to be left out

    def parse(self, data: NDArray[np.uint8], begin: int, end: int) -> Parsed:
        """See `Format`."""
        if end - begin < 16:
            return Parsed(None, begin)
        at, arrived = self._chain.walk(data, begin, end, self._needle(data, begin))
        fields = headers_at(data, at, 16).view(self._order + "u4")
        captured = fields[:, 2].astype(np.int64)
        too_long = captured > self._longest
        damage = None
        if too_long[-1] or too_long.any():
            first = int(too_long.argmax())
            damage = f"record of {int(captured[first]):,} bytes"
            at, fields, captured, arrived = at[:first], fields[:first], captured[:first], int(at[first])
        elif arrived > end:
            arrived = int(at[-1])
            at, fields, captured = at[:-1], fields[:-1], captured[:-1]
        if not len(at):
            return Parsed(None, arrived, damage)
        time = fields[:, 0].astype(np.int64)
        time *= 1_000_000_000
        time += fields[:, 1].astype(np.int64) * self._unit
        at += 16
        wire = np.minimum(np.maximum(fields[:, 3], fields[:, 2]), INT32_MAX)
        batch = PacketBatch(data, at, captured.astype(np.int32), wire.astype(np.int32), time,
                            np.full(len(at), self._link_type, np.uint16), np.zeros(len(at), np.uint8))
        return Parsed(batch, arrived, damage)

    def _needle(self, data: NDArray[np.uint8], begin: int) -> dict[int, int]:
        """Records near the first one: the time's upper 16 bits are the same, the lengths are below 64 KiB."""
        if self._order == "<":
            return {2: int(data[begin + 2]), 3: int(data[begin + 3]), 10: 0, 11: 0, 14: 0}
        return {0: int(data[begin]), 1: int(data[begin + 1]), 8: 0, 9: 0, 12: 0}
