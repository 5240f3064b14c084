"""Capture files for tests: written with struct alone, and read record by record in the plainest way."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Packet(NamedTuple):
    time_ns: int
    data: bytes
    wire: int
    link_type: int = 1
    point: int = 0


def packet(time_ns: int, size: int, *, fill: int = 0, wire: int | None = None) -> Packet:
    """A packet of so many bytes; what is in it tells packets apart."""
    return Packet(time_ns, (bytes([fill & 255, fill >> 8 & 255]) * (size // 2 + 1))[:size], size if wire is None else wire)


def pcap(packets: Iterable[Packet], *, order: str = "<", nano: bool = False, snaplen: int = 262144, network: int = 1) -> bytes:
    """A classic pcap file."""
    magic, unit = (0xA1B23C4D, 1) if nano else (0xA1B2C3D4, 1000)
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, network)]
    for each in packets:
        seconds, rest = divmod(each.time_ns, 1_000_000_000)
        out += [struct.pack(order + "IIII", seconds, rest // unit, len(each.data), each.wire), each.data]
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block around a body, which is padded."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(order: str = "<", *, link_type: int = 1, snaplen: int = 0, resolution: int | None = None,
              offset: int | None = None) -> bytes:
    options = b""
    if resolution is not None:
        options += struct.pack(order + "HHBxxx", 9, 1, resolution)
    if offset is not None:
        options += struct.pack(order + "HHq", 14, 8, offset)
    if options:
        options += bytes(4)
    return block(1, struct.pack(order + "HHI", link_type, 0, snaplen) + options, order)


def enhanced(ticks: int, data: bytes, *, number: int = 0, wire: int | None = None, order: str = "<",
             options: bytes = b"") -> bytes:
    wire = len(data) if wire is None else wire
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), wire)
    return block(6, head + data + bytes(-len(data) % 4) + options, order)


def old(ticks: int, data: bytes, *, number: int = 0, drops: int = 0, order: str = "<") -> bytes:
    head = struct.pack(order + "HHIIII", number, drops, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(2, head + data, order)


def simple(data: bytes, *, wire: int | None = None, order: str = "<") -> bytes:
    return block(3, struct.pack(order + "I", len(data) if wire is None else wire) + data, order)


@dataclass
class Reference:
    """What a file holds, by a walk from record to record."""

    packets: list[Packet]
    whole: bool
    """Nothing is missing or damaged up to the file's end."""


def read_pcap(data: bytes) -> Reference:
    """Read a classic pcap file whose header is sound."""
    order = "<" if data[0] in {0xD4, 0x4D} else ">"
    unit = 1 if data[:4] in {b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1"} else 1000
    snaplen, network = struct.unpack_from(order + "II", data, 16)
    longest = min(262144, max(2 * snaplen, 131072)) if snaplen else 262144
    packets, at = [], 24
    while at + 16 <= len(data):
        seconds, fraction, captured, wire = struct.unpack_from(order + "IIII", data, at)
        if captured > longest or at + 16 + captured > len(data):
            return Reference(packets, False)
        packets.append(Packet(seconds * 1_000_000_000 + fraction * unit, data[at + 16:at + 16 + captured],
                              min(max(wire, captured), 0x7FFFFFFF), min(network & 0x0FFFFFFF, 65535)))
        at += 16 + captured
    return Reference(packets, at == len(data))


def read_pcapng(data: bytes) -> Reference:
    """Read a pcapng file that begins with a sound section header; options of interfaces are taken as `interface` writes them."""
    packets: list[Packet] = []
    interfaces: list[tuple[int, int, int, int]] = []
    order, at, last = "<", 0, 0
    while at + 12 <= len(data):
        if data[at:at + 4] == b"\x0a\x0d\x0d\x0a":
            if data[at + 8:at + 12] not in {b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"}:
                return Reference(packets, False)
            order = "<" if data[at + 8] == 0x4D else ">"
        kind, size = struct.unpack_from(order + "II", data, at)
        most = 327680 if kind in {1, 2, 3, 6, 0x0A0D0D0A} else 1 << 24
        if not {1: 20, 2: 32, 3: 16, 6: 32, 0x0A0D0D0A: 28}.get(kind, 12) <= size <= most:
            return Reference(packets, False)
        after = at + (size + 3 & ~3)
        if after > len(data):
            return Reference(packets, False)
        if size % 4 == 0 and size <= 327680 and struct.unpack_from(order + "I", data, at + size - 4)[0] != size:
            return Reference(packets, False)
        if kind == 0x0A0D0D0A:
            interfaces = []
        elif kind == 1:
            if len(interfaces) == 4096:
                return Reference(packets, False)
            interfaces.append(_interface(data[at:at + size], order))
        elif kind in {2, 6}:
            number, high, low, captured, wire = struct.unpack_from(order + "IIIII", data, at + 8)
            if kind == 2:
                number = struct.unpack_from(order + "H", data, at + 8)[0]
            if captured > min(size - 32, 262144):
                return Reference(packets, False)
            if number < len(interfaces):
                link_type, _, resolution, offset = interfaces[number]
                last = _time(high << 32 | low, resolution, offset)
                packets.append(Packet(last, data[at + 28:at + 28 + captured], min(max(wire, captured), 0x7FFFFFFF), link_type,
                                      min(number, 255)))
        elif kind == 3 and interfaces:
            wire = struct.unpack_from(order + "I", data, at + 8)[0]
            captured = min(wire, interfaces[0][1] or 262144, size - 16, 262144)
            packets.append(Packet(last, data[at + 12:at + 12 + captured], min(wire, 0x7FFFFFFF), interfaces[0][0]))
        at = after
    return Reference(packets, at == len(data))


def _interface(found: bytes, order: str) -> tuple[int, int, int, int]:
    link_type, _, snaplen = struct.unpack_from(order + "HHI", found, 8)
    resolution, offset, at = 6, 0, 16
    while at + 4 <= len(found) - 4:
        code, size = struct.unpack_from(order + "HH", found, at)
        value = found[at + 4:at + 4 + size]
        if not code or at + 4 + size > len(found) - 4:
            break
        if code == 9 and size:
            resolution = value[0]
        if code == 14 and size >= 8:
            offset = struct.unpack(order + "q", value[:8])[0]
        at += 4 + (size + 3 & ~3)
    return link_type, snaplen, resolution, offset


def _time(ticks: int, resolution: int, offset: int) -> int:
    top = (1 << 63) - 1
    per_second = 2 ** (resolution & 127) if resolution & 128 else 10 ** resolution
    shift = max(-top, min(top, offset * 1_000_000_000))
    return min(ticks * 1_000_000_000 // per_second, top, top - max(shift, 0)) + shift


def mixed(sizes: Sequence[int], *, start_ns: int = 1_700_000_000_000_000_000, step_ns: int = 20_000) -> list[Packet]:
    """Packets of these sizes, one after the other."""
    return [packet(start_ns + i * step_ns, size, fill=i * 7919) for i, size in enumerate(sizes)]
