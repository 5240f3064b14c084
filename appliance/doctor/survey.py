"""What of the packets themselves tells a good mirror from a bad one: counted over batches, in arrays.

Counts only what capture and correlation do not: they are asked first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.appliance.doctor.tunnels import Tunnels
from rokuon.sniffer.careful import text_of
from rokuon.sniffer.classify import Kind, is_rtp, udp_kinds
from rokuon.sniffer.gather import among, window
from rokuon.sniffer.ip import EXTENSION_HEADERS, PROTOCOL_TCP, PROTOCOL_UDP, IPv6Addresses, UdpDatagrams, udp_datagrams
from rokuon.sniffer.link import ETHERTYPE_IPV4, ETHERTYPE_IPV6, NetworkLayer, locate, tags_of
from rokuon.sniffer.packet import LINKTYPE_ETHERNET, Endpoint, PacketBatch

__all__ = ["Survey", "Towards"]

Rows = NDArray[np.int64]

_S = 1_000_000_000
_FCS = 4
LONGEST = 1522
"""Bytes of the longest Ethernet frame with two VLAN tags that was not joined from several, where the MTU is 1500."""
BACK_NS = _S
SILENCE_NS = 5 * _S
_SIP_TLS = 5061
_DTLS_VERSIONS = (0xFFFE, 0xFDFE)
"""1.0 and 1.2 (RFC 6347 section 4.1; 1.3 calls itself 1.2), in memory order."""
_ZRTP = int.from_bytes(b"ZRTP", "little")
_RESPONSE = int.from_bytes(b"SIP/", "little")
_OTHER_TCP = {"H.323": (1720,), "SCCP": (2000,)}
_OTHER_UDP = {"MGCP": (2427, 2727), "IAX2": (4569,)}
_PATHS, _SERVERS, _SEEN = 4096, 1024, 20_000
_LOOKED_AT = 64
"""TLS records of a batch whose server is noted."""
_COPY_NS = 100_000_000
"""Sooner no phone repeats a message (RFC 3261: T1 is 500 ms): what comes again by then is a copy."""


@dataclass(slots=True)
class Towards:
    """Frames by whom they are for: a port that is not mirrored shows only what is sent to this machine, or to everybody."""

    us: int = 0
    everybody: int = 0
    others: int = 0


@dataclass(slots=True)
class Survey:
    """Counts, batch after batch. Bounded: names beyond a bound are not told apart."""

    sip_ports: NDArray[np.uint16]
    own_mac: bytes = b""
    """Of the interface; b"": it has none, or these are files."""
    packets: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    newest_ns: int = 0
    cut: int = 0
    """Packets of which less was captured than there was on the wire."""
    cut_rtp: int = 0
    cut_at: int = 0
    """The longest that such a packet was captured."""
    long_tcp: int = 0
    long_udp: int = 0
    """Frames longer than `LONGEST` that are no fragments."""
    longest: int = 0
    paths: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """Packets by VLAN tags."""
    towards: Towards = field(default_factory=Towards)
    back: int = 0
    """Times that a packet is older by `BACK_NS` than the one before it."""
    back_most_ns: int = 0
    silence_most_ns: int = 0
    not_understood: int = 0
    """Frames of which not even the network layer is known."""
    requests: int = 0
    """SIP over UDP, as it came: copies and all."""
    responses: int = 0
    sip_copies: int = 0
    sip_copies_routed: int = 0
    """Copies that have a smaller time to live."""
    tls: int = 0
    """TLS records on SIP ports."""
    tls_servers: Counter[str] = field(default_factory=Counter)
    zrtp: int = 0
    dtls: int = 0
    other_signalling: Counter[str] = field(default_factory=Counter)
    tunnels: Tunnels = field(init=False)
    _addresses: IPv6Addresses = field(default_factory=IPv6Addresses)
    _seen: OrderedDict[Hashable, tuple[int, int]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.tunnels = Tunnels(self.sip_ports)

    def look(self, batch: PacketBatch) -> None:
        """Takes a batch."""
        if not len(batch):
            return
        self.packets += len(batch)
        self.bytes += int(batch.wire_length.sum(dtype=np.int64))
        self._times(batch.time_ns)
        self._whom(batch)
        layer = locate(batch)
        self._tags(layer.path)
        known = (layer.ethertype == ETHERTYPE_IPV4) | (layer.ethertype == ETHERTYPE_IPV6)
        self.not_understood += int((layer.ethertype == 0).sum())
        datagrams, others = udp_datagrams(batch, layer, self._addresses)
        groups = [(d, np.flatnonzero(~is_rtp(d))) for d in datagrams]
        protocol, upper, whole = _headers(batch, layer, others)
        self._sizes(batch, known, groups, others, protocol, whole)
        for d, which in groups:
            if len(which):
                self._udp(batch, d, which)
        tcp = np.flatnonzero((protocol == PROTOCOL_TCP) & whole)
        if len(tcp):
            self._tcp(batch, layer, others[tcp], upper[tcp])
        self.tunnels.look(batch, layer, groups, others, np.where(whole, protocol, 0).astype(np.uint8), upper)

    # -- frames --------------------------------------------------------------
    def _times(self, time_ns: NDArray[np.int64]) -> None:
        if not self.first_ns:
            self.first_ns = self.last_ns = int(time_ns[0])
        step = np.diff(time_ns, prepend=self.last_ns)
        least, most = int(step.min()), int(step.max())
        if least <= -BACK_NS:
            self.back += int((step <= -BACK_NS).sum())
            self.back_most_ns = max(self.back_most_ns, -least)
        if most >= SILENCE_NS:
            self.silence_most_ns = max(self.silence_most_ns, most)
        self.last_ns = int(time_ns[-1])
        self.newest_ns = max(self.newest_ns, int(time_ns.max()))

    def _whom(self, batch: PacketBatch) -> None:
        if not self.own_mac or int(batch.link_type[0]) != LINKTYPE_ETHERNET:
            return
        to = window(batch.data, batch.offset, 12)
        group = (to[:, 0] & 1) == 1
        own = np.frombuffer(self.own_mac, np.uint8)
        us = ~group & ((to[:, :6] == own).all(axis=1) | (to[:, 6:] == own).all(axis=1))
        self.towards.everybody += int(group.sum())
        self.towards.us += int(us.sum())
        self.towards.others += len(batch) - int(group.sum()) - int(us.sum())

    def _tags(self, path: NDArray[np.uint64]) -> None:
        first = int(path[0])
        if (path == path[0]).all():
            counted = [(first, len(path))]
        else:
            values, counts = np.unique(path, return_counts=True)
            counted = list(zip(values.tolist(), counts.tolist(), strict=True))
        for value, number in counted:
            _bounded(self.paths, tags_of(value), number, _PATHS)


    def _sizes(self, batch: PacketBatch, known: NDArray[np.bool_], groups: list[tuple[UdpDatagrams, Rows]], others: Rows,
               protocol: NDArray[np.uint8], whole: NDArray[np.bool_]) -> None:
        short = batch.wire_length - batch.captured_length > _FCS
        if short.any():
            self.cut += int(short.sum())
            self.cut_at = max(self.cut_at, int(batch.captured_length[short].max()))
            for d, which in groups:
                rtp = np.ones(len(d), np.bool_)
                rtp[which] = False
                self.cut_rtp += int((rtp & short[d.row]).sum())
        longest = int(batch.wire_length.max())
        if longest > LONGEST:
            long = (batch.wire_length > LONGEST) & known
            self.longest = max(self.longest, longest)
            self.long_udp += sum(int(long[d.row].sum()) for d, _ in groups)
            self.long_tcp += int(long[others[(protocol == PROTOCOL_TCP) & whole]].sum())

    # -- datagrams -----------------------------------------------------------
    def _udp(self, batch: PacketBatch, d: UdpDatagrams, which: Rows) -> None:
        kinds = udp_kinds(d, which, self.sip_ports)
        sip = which[kinds == Kind.SIP]
        responses = int((d.head[sip, 0] == _RESPONSE).sum())
        self.responses += responses
        self.requests += len(sip) - responses
        for row in sip.tolist():
            self._sip(batch, d, row)
        dtls = d.head[which[kinds == Kind.DTLS], 0] >> 8 & 0xFFFF
        self.dtls += int(among(dtls, _DTLS_VERSIONS).sum())
        rest = which[kinds == Kind.OTHER]
        self.zrtp += int(((d.head[rest, 1] == _ZRTP) & ((d.head[rest, 0] & 0xFF) == 0x10) & (d.captured[rest] >= 12)).sum())
        ports = d.ports[rest].view(">u2").reshape(-1, 2)
        self._others(_OTHER_UDP, ports, d.captured[rest] > 4)

    def _others(self, known: Mapping[str, tuple[int, ...]], ports: NDArray[np.uint16], filled: NDArray[np.bool_]) -> None:
        """Counts other signalling than SIP by its ports, shape (n, 2)."""
        for name, theirs in known.items():
            number = int(((among(ports[:, 0], theirs) | among(ports[:, 1], theirs)) & filled).sum())
            if number:
                self.other_signalling[name] += number

    def _sip(self, batch: PacketBatch, d: UdpDatagrams, row: int) -> None:
        """Is it the same once more?"""
        at, time_ns, ttl = int(d.payload[row]), int(batch.time_ns[d.row[row]]), int(d.ttl[row])
        key = hash((batch.data[at:at + int(d.captured[row])].tobytes(), int(d.ends[row]), int(d.ports[row])))
        before = self._seen.pop(key, None)
        if before is not None and abs(time_ns - before[0]) <= _COPY_NS:
            self.sip_copies += 1
            self.sip_copies_routed += ttl != before[1]
        self._seen[key] = (time_ns, ttl)
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    # -- segments ------------------------------------------------------------
    def _tcp(self, batch: PacketBatch, layer: NetworkLayer, rows: Rows, upper: Rows) -> None:
        end = (batch.offset + batch.captured_length)[rows]
        there = upper + 20 <= end
        rows, upper, end = rows[there], upper[there], end[there]
        head = window(batch.data, upper, 20)
        ports = head[:, :4].copy().view(">u2")
        payload = upper + (head[:, 12] >> 4).astype(np.int64) * 4
        self._others(_OTHER_TCP, ports, payload < end)
        secret = (*self.sip_ports.tolist(), _SIP_TLS)
        to_server, from_server = among(ports[:, 1], secret), among(ports[:, 0], secret)
        record = window(batch.data, payload, 3)
        tls = (to_server | from_server) & (payload + 5 <= end) & (record[:, 0] >= 20) & (record[:, 0] <= 23) & (record[:, 1] == 3)
        mine = np.flatnonzero(tls)
        self.tls += len(mine)
        for i in mine[:_LOOKED_AT].tolist():
            start, six = int(layer.start[rows[i]]), int(layer.ethertype[rows[i]]) == ETHERTYPE_IPV6
            size, at = (16, start + 8) if six else (4, start + 12)
            at += size if to_server[i] else 0
            server = Endpoint(text_of(batch.data[at:at + size].tobytes()), int(ports[i, 1 if to_server[i] else 0]))
            _bounded(self.tls_servers, str(server), 1, _SERVERS)


def _bounded(counter: Counter[Any], key: Hashable, number: int, most: int) -> None:
    if key in counter or len(counter) < most:
        counter[key] += number


def _headers(batch: PacketBatch, layer: NetworkLayer, rows: Rows) -> tuple[NDArray[np.uint8], Rows, NDArray[np.bool_]]:
    """Of IP packets: protocol, where the payload begins in `batch.data`, and whether it is that of a packet, not of a fragment.

    IPv6 extension headers are not looked through: few send them, and fragments are counted elsewhere.
    """
    start = layer.start[rows]
    v4 = layer.ethertype[rows] == ETHERTYPE_IPV4
    head = window(batch.data, start, 20)
    protocol = np.where(v4, head[:, 9], head[:, 6])
    upper = start + np.where(v4, np.maximum(head[:, 0] & 0x0F, 5).astype(np.int64) * 4, 40)
    whole = np.where(v4, (head[:, 6] & 0x3F) | head[:, 7], among(protocol, EXTENSION_HEADERS)) == 0
    whole &= (protocol != PROTOCOL_UDP) & (upper <= (batch.offset + batch.captured_length)[rows])
    return protocol, upper, whole
