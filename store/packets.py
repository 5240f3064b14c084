"""A call's packets as a capture: its signalling as it came, its RTP given back from the spool's records."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpRecords
from rokuon.store.durable import give_name
from rokuon.store.runs import STREAM
from rokuon.store.signalling import Frame

__all__ = ["PacketsInPieces", "write_packets"]

_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 1
_HEAD = struct.Struct("<IIII")
"""Of a packet in the file."""


class StreamPackets(Protocol):
    """RTP of one stream: see `rokuon.store.worker.Loaded`."""

    rtp: RtpRecords
    records: NDArray[np.void]


Row = tuple[int, int, int, bytes]
"""Time, link type, length on the wire and the bytes of a packet."""


def write_packets(path: Path, frames: Sequence[Frame], streams: Sequence[tuple[bytes, StreamPackets]], sync: bool = True) -> None:
    """Writes a classic pcap with nanoseconds, whole or not at all. Of several link types that of most packets is kept."""
    rows = _rows(frames, streams)
    _write(path, rows, _link_of(rows), sync)


class PacketsInPieces:
    """The packets of a call that comes in pieces: RTP waits in a file that cannot be seen, until the call is over."""

    def __init__(self, path: Path) -> None:
        """`path`: of the capture in the end."""
        self._path = path
        self._waiting = path.with_name(f".{path.stem}-pieces.{os.getpid()}.part")
        self._link: int | None = None

    def add(self, streams: Sequence[tuple[bytes, StreamPackets]]) -> None:
        """A further piece. Raises OSError."""
        rows = _rows((), streams)
        if not rows:
            return
        if self._link is None:
            self._link = _link_of(rows)
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self.discard()
        with open(self._waiting, "ab", buffering=1 << 20, opener=_private) as out:
            _put(out, rows, self._link)

    def finish(self, frames: Sequence[Frame], streams: Sequence[tuple[bytes, StreamPackets]], sync: bool = True) -> None:
        """The last piece, and the call's signalling: writes the capture, as `write_packets` does. Raises OSError."""
        rows = _rows(frames, streams)
        link = _link_of(rows) if self._link is None else self._link
        _write(self._path, merge(self._pieces(), rows, key=itemgetter(0)), link, sync)
        self.discard()

    def discard(self) -> None:
        self._waiting.unlink(missing_ok=True)

    def _pieces(self) -> Iterator[Row]:
        if self._link is None:
            return
        with open(self._waiting, "rb", buffering=1 << 20) as file:
            while head := file.read(_HEAD.size):
                seconds, rest, size, wire = _HEAD.unpack(head)
                yield seconds * 1_000_000_000 + rest, self._link, wire, file.read(size)


def _rows(frames: Sequence[Frame], streams: Sequence[tuple[bytes, StreamPackets]]) -> list[Row]:
    """In order of time."""
    rows: list[Row] = [(f.time_ns, f.link_type, f.wire_length, f.data) for f in frames]
    for template, packets in streams:
        row = np.frombuffer(template, STREAM)[0]
        head = bytes(row["header"][:row["header_length"]])
        if head:
            rows += _given_back(head, int(row["link_type"]), int(row["network"]), packets)
    rows.sort(key=itemgetter(0))
    return rows


def _link_of(rows: Sequence[Row]) -> int:
    kinds = Counter(kind for _, kind, _, _ in rows)
    return max(kinds, key=kinds.__getitem__) if kinds else _ETHERNET


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)


def _put(out: BinaryIO, rows: Iterable[Row], link: int) -> None:
    for time_ns, kind, wire, data in rows:
        if kind == link:
            seconds, rest = divmod(time_ns, 1_000_000_000)
            out.write(_HEAD.pack(seconds & 0xFFFFFFFF, rest, len(data), max(wire, len(data))) + data)


def _write(path: Path, rows: Iterable[Row], link: int, sync: bool) -> None:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(temporary, "wb", buffering=1 << 20, opener=_private) as out:
        out.write(struct.pack("<IHHiIII", _NANOSECONDS, 2, 4, 0, 0, 262_144, link))
        _put(out, rows, link)
        out.flush()
        file = os.dup(out.fileno())
    give_name(file, str(temporary), str(path), sync)


def _given_back(head: bytes, link_type: int, ip: int, packets: StreamPackets) -> list[Row]:
    """The stream's frames: its first packet's headers with what differs from packet to packet put in."""
    udp = len(head) - 8
    rows = []
    data = packets.rtp.data
    for offset, row in zip(packets.rtp.offset.tolist(), packets.records.tolist(), strict=True):
        time_ns, _, frame_length, captured, length, ident, ttl, tos = row
        header = bytearray(head)
        struct.pack_into(">H", header, udp + 4, length + 8)
        if header[ip] >> 4 == 6:
            struct.pack_into(">H", header, ip + 4, udp - ip - 40 + 8 + length & 0xFFFF)
            header[ip], header[ip + 1], header[ip + 7] = 0x60 | tos >> 4, tos << 4 & 0xF0 | header[ip + 1] & 0x0F, ttl
        else:
            header[ip + 1], header[ip + 8] = tos, ttl
            struct.pack_into(">HH", header, ip + 2, udp - ip + 8 + length & 0xFFFF, ident)
            struct.pack_into(">H", header, ip + 10, 0)
            struct.pack_into(">H", header, ip + 10, _checksum(header[ip:udp]))
        payload = data[offset:offset + captured].tobytes()
        if header[udp + 6] or header[udp + 7]:  # 0: the sender makes none
            header[udp + 6:] = _udp_checksum(header, ip, udp, payload) if captured == length else b"\0\0"
        rows.append((time_ns, link_type, frame_length, bytes(header) + payload))
    return rows


def _udp_checksum(header: bytearray, ip: int, udp: int, payload: bytes) -> bytes:
    """RFC 768, RFC 8200 section 8.1."""
    addresses = header[ip + 8:ip + 40] if header[ip] >> 4 == 6 else header[ip + 12:ip + 20]
    covered = addresses + struct.pack(">HH", 17, 8 + len(payload)) + header[udp:udp + 6] + payload + bytes(len(payload) % 2)
    return struct.pack(">H", _checksum(covered) or 0xFFFF)


def _checksum(header: bytes | bytearray) -> int:
    """RFC 1071."""
    return 0xFFFF - (sum(struct.unpack(f">{len(header) // 2}H", header)) % 0xFFFF or 0xFFFF) & 0xFFFF
