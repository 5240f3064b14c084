"""A call's packets as a capture: its signalling as it came, its RTP given back from the spool's records."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpRecords
from rokuon.store.runs import STREAM
from rokuon.store.signalling import Frame

__all__ = ["write_packets"]

_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 1


class StreamPackets(Protocol):
    """RTP of one stream: see `rokuon.store.worker.Loaded`."""

    rtp: RtpRecords
    records: NDArray[np.void]


def write_packets(path: Path, frames: Sequence[Frame], streams: Sequence[tuple[bytes, StreamPackets]], sync: bool = True) -> None:
    """Writes a classic pcap with nanoseconds, whole or not at all. Of several link types that of most packets is kept."""
    rows: list[tuple[int, int, int, bytes]] = [(f.time_ns, f.link_type, f.wire_length, f.data) for f in frames]
    for template, packets in streams:
        row = np.frombuffer(template, STREAM)[0]
        head = bytes(row["header"][:row["header_length"]])
        if head:
            rows += _given_back(head, int(row["link_type"]), int(row["network"]), packets)
    rows.sort(key=lambda r: r[0])
    kinds = [kind for _, kind, _, _ in rows]
    link = max(set(kinds), key=kinds.count) if kinds else _ETHERNET
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(temporary, "wb", buffering=1 << 20, opener=lambda p, flags: os.open(p, flags, 0o640)) as out:
        out.write(struct.pack("<IHHiIII", _NANOSECONDS, 2, 4, 0, 0, 262_144, link))
        for time_ns, kind, wire, data in rows:
            if kind == link:
                out.write(struct.pack("<IIII", time_ns // 1_000_000_000 & 0xFFFFFFFF, time_ns % 1_000_000_000, len(data),
                                      max(wire, len(data))) + data)
        out.flush()
        if sync:
            os.fsync(out.fileno())
    temporary.rename(path)


def _given_back(head: bytes, link_type: int, ip: int, packets: StreamPackets) -> list[tuple[int, int, int, bytes]]:
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
