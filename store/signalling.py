"""Kept packets into SIP messages: IP fragments, TCP segments, UDP datagrams; the careful path."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from rokuon.sniffer import sip
from rokuon.sniffer.careful import IpPacket, decode
from rokuon.sniffer.defrag import Defragmenter
from rokuon.sniffer.ip import PROTOCOL_TCP, PROTOCOL_UDP
from rokuon.sniffer.model import SipMessage
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.tcp import TcpReassembler

__all__ = ["Encapsulations", "Frame", "Received", "Signalling"]



class Frame(NamedTuple):
    """A packet as it was captured."""

    time_ns: int
    link_type: int
    wire_length: int
    data: bytes


class Received(NamedTuple):
    """A SIP message and how it came."""

    time_ns: int
    src: Endpoint
    dst: Endpoint
    encap: int
    transport: str
    message: SipMessage
    frames: list[Frame]
    """The packets that carried it."""


class Encapsulations:
    """Gives VLAN tags (and tunnel ids) small numbers; 0: none. Bounded: what comes beyond the bound shares one number."""

    def __init__(self, limit: int = 65_536) -> None:
        self._numbers: dict[tuple[int, ...], int] = {(): 0}
        self._tags: list[tuple[int, ...]] = [()]
        self._limit = limit

    def number(self, tags: tuple[int, ...]) -> int:
        known = self._numbers.get(tags)
        if known is None:
            if len(self._tags) >= self._limit:
                return self._limit
            known = self._numbers[tags] = len(self._tags)
            self._tags.append(tags)
        return known

    def tags(self, number: int) -> tuple[int, ...]:
        return self._tags[number] if number < len(self._tags) else ()


class _Pending:
    """Frames whose message is not complete yet, by where they belong; bounded in number and bytes."""

    def __init__(self, limit: int = 4096, bytes_limit: int = 8 << 20) -> None:
        self._frames: OrderedDict[tuple[object, ...], list[Frame]] = OrderedDict()
        self._limit, self._bytes_limit, self._bytes = limit, bytes_limit, 0

    def add(self, key: tuple[object, ...], frame: Frame) -> None:
        self._frames.setdefault(key, []).append(frame)
        self._frames.move_to_end(key)
        self._bytes += len(frame.data)
        while len(self._frames) > self._limit or self._bytes > self._bytes_limit:
            _, gone = self._frames.popitem(last=False)
            self._bytes -= sum(len(f.data) for f in gone)

    def take(self, key: tuple[object, ...]) -> list[Frame]:
        frames = self._frames.pop(key, [])
        self._bytes -= sum(len(f.data) for f in frames)
        return frames


class Signalling:
    """Takes packets one by one, in order; gives the SIP messages that they complete."""

    def __init__(self, encapsulations: Encapsulations) -> None:
        self._encapsulations = encapsulations
        self._fragments = Defragmenter()
        self._tcp = TcpReassembler()
        self._pending = _Pending()
        self.anomalies: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def hurry(self, on: bool) -> None:
        """What comes was captured before, and part of it was let go since: gaps in TCP streams are hardly waited for."""
        self._tcp.hurried = on

    def receive(self, frame: Frame) -> Iterator[Received]:
        packet = decode(frame.data, frame.link_type)
        if packet is None:
            self.anomalies["packet-cut-or-unknown"] += 1
            return
        encap = self._encapsulations.number(packet.tags)
        payload, frames = packet.payload, [frame]
        if packet.fragment:
            ident, offset, more = packet.fragment
            key = (packet.source, packet.destination, ident, packet.protocol, encap)
            self._pending.add(key, frame)
            whole = self._fragments.receive(frame.time_ns, key, offset, more, payload)
            if whole is None:
                return
            payload, frames = whole, self._pending.take(key)
        if packet.protocol == PROTOCOL_UDP:
            yield from self._udp(frame.time_ns, packet, encap, payload, frames)
        elif packet.protocol == PROTOCOL_TCP:
            yield from self._segment(frame.time_ns, packet, encap, payload, frames)

    def _udp(self, time_ns: int, packet: IpPacket, encap: int, payload: bytes, frames: list[Frame]) -> Iterator[Received]:
        if len(payload) < 8:
            self.anomalies["udp-cut"] += 1
            return
        source, destination, length, _ = struct.unpack_from(">HHHH", payload)
        data = payload[8:length] if 8 <= length <= len(payload) else payload[8:]
        if length > len(payload):
            self.anomalies["sip-cut-by-snaplen"] += 1
        if packet.fragment and data[:1] and data[0] >> 6 == 2:
            self.counts["rtp-in-fragments"] += 1  # no phone sends them; video does
            return
        yield from self._parse(time_ns, Endpoint(packet.source, source), Endpoint(packet.destination, destination), encap,
                               "udp", data, frames)

    def _segment(self, time_ns: int, packet: IpPacket, encap: int, payload: bytes, frames: list[Frame]) -> Iterator[Received]:
        if len(payload) < 20:
            self.anomalies["tcp-cut"] += 1
            return
        source, destination, sequence, _, offset, flags = struct.unpack_from(">HHIIBB", payload)
        src, dst = Endpoint(packet.source, source), Endpoint(packet.destination, destination)
        data = payload[(offset >> 4) * 4:] if offset >> 4 >= 5 else b""
        if data:
            for frame in frames:
                self._pending.add((src, dst, encap), frame)
        for at, source_, destination_, encap_, message in self._tcp.receive(time_ns, src, dst, encap, sequence, flags, data):
            carried = self._pending.take((source_, destination_, encap_))
            yield from self._parse(at, source_, destination_, encap_, "tcp", message, carried)

    def expire(self, now_ns: int) -> Iterator[Received]:
        """Messages that a gap in a TCP stream held up and whose time is over."""
        for at, src, dst, encap, message in self._tcp.expire(now_ns):
            yield from self._parse(at, src, dst, encap, "tcp", message, self._pending.take((src, dst, encap)))

    def finish(self) -> Iterator[Received]:
        """The capture is over: what was held up."""
        for at, src, dst, encap, message in self._tcp.flush():
            yield from self._parse(at, src, dst, encap, "tcp", message, self._pending.take((src, dst, encap)))

    def _parse(self, time_ns: int, src: Endpoint, dst: Endpoint, encap: int, transport: str, data: bytes,
               frames: list[Frame]) -> Iterator[Received]:
        try:
            message = sip.parse(data)
        except sip.SipError as e:
            self.anomalies[e.anomaly] += 1
            if data.lstrip()[:7] == b"INVITE ":
                self.counts["invite-not-understood"] += 1
            return
        self.counts["sip_messages"] += 1
        for name in message.anomalies:
            self.anomalies[name] += 1
        yield Received(time_ns, src, dst, encap, transport, message, frames)

    def all_anomalies(self) -> Counter[str]:
        return self.anomalies + self._fragments.anomalies + self._tcp.anomalies
