"""What is RTP, what may be signalling, and what is neither (RFC 3550, RFC 5761, RFC 7983)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.gather import among, window
from rokuon.sniffer.ip import PROTOCOL_TCP, UdpDatagrams
from rokuon.sniffer.keytable import KeyTable
from rokuon.sniffer.link import ETHERTYPE_IPV4, NetworkLayer
from rokuon.sniffer.packet import PacketBatch

__all__ = ["Kind", "KindLimiter", "SipConnections", "is_rtp", "udp_kinds"]

RTP_HEADER = 12
_METHODS = (b"INVI", b"ACK ", b"BYE ", b"CANC", b"REGI", b"OPTI", b"PRAC", b"SUBS", b"NOTI", b"PUBL", b"INFO", b"REFE",
            b"MESS", b"UPDA", b"SIP/")
_SIP_WORDS = tuple(int.from_bytes(m, "little") for m in _METHODS)
_STUN_COOKIE = np.uint32(int.from_bytes(b"\x21\x12\xa4\x42", "little"))
_DTLS_HANDSHAKE = 22


class Kind(IntEnum):
    """What a packet that is no RTP is kept as."""

    OTHER = 0
    SIP = 1
    RTCP = 2
    STUN = 3
    DTLS = 4
    TCP = 5
    FRAGMENT = 6


def is_rtp(d: UdpDatagrams) -> NDArray[np.bool_]:
    """Which datagrams may be RTP: version 2, no RTCP packet type (RFC 5761 section 4), room for what the header announces.

    Shape (m,). About a quarter of all DNS messages passes as well; `streams` deals with flows that are no streams.
    """
    word = d.head[:, 0]
    second = word >> 8 & 0xFF
    rtp = ((word & 0xC0) == 0x80) & ((second < 192) | (second > 223)) & (d.captured >= RTP_HEADER)
    if (word & 0x1F).any():  # contributing sources or a header extension
        need = RTP_HEADER + (word & 0x0F).astype(np.int32) * 4 + np.where(word & 0x10, 4, 0)
        rtp &= d.length >= need
    return np.asarray(rtp, np.bool_)


def udp_kinds(d: UdpDatagrams, rows: NDArray[np.int64], sip_ports: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """What the datagrams `rows` that are no RTP are: values of `Kind`."""
    word = d.head[rows, 0]
    captured = d.captured[rows]
    kinds = np.zeros(len(rows), np.uint8)
    first, second = word & 0xFF, word >> 8 & 0xFF
    some = captured >= 4
    kinds[some & (first == _DTLS_HANDSHAKE)] = Kind.DTLS
    kinds[some & ((first & 0xC0) == 0) & (d.head[rows, 1] == _STUN_COOKIE) & (captured >= 20)] = Kind.STUN
    kinds[some & ((first & 0xC0) == 0x80) & (second >= 192) & (second <= 223)] = Kind.RTCP
    ports = d.ports[rows].view(">u2").reshape(-1, 2)
    listened = sip_ports.tolist()
    on_port = among(ports[:, 0], listened) | among(ports[:, 1], listened)
    text = (first >= 0x09) & (first < 0x80) & (captured > 4)  # not a keep-alive of NUL bytes or CRLF CRLF
    kinds[some & (among(word, _SIP_WORDS) | on_port & text & (kinds == 0))] = Kind.SIP
    return kinds


class SipConnections:
    """Which TCP segments may carry SIP: those of the configured ports, and of connections that once began like SIP."""

    def __init__(self, sip_ports: Iterable[int], limit: int = 65_536, seed: int = 0) -> None:
        self._ports = sorted(sip_ports)
        self._limit, self._seed = limit, seed
        self._known = KeyTable(2, seed=seed)

    def select(self, batch: PacketBatch, layer: NetworkLayer, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of the IP packets `rows` (no UDP datagrams), which are TCP segments to be kept. Shape (len(rows),)."""
        start = layer.start[rows]
        v4 = layer.ethertype[rows] == ETHERTYPE_IPV4
        protocol = batch.data[start + np.where(v4, 9, 6)]
        upper = start + np.where(v4, (batch.data[start] & 0x0F).astype(np.int64) * 4, 40)
        end = batch.offset[rows] + batch.captured_length[rows]
        keep = (protocol == PROTOCOL_TCP) & (upper + 20 <= end)
        mine = np.flatnonzero(keep)
        if not len(mine):
            return np.asarray(keep, np.bool_)
        keep[mine] = self._carry_sip(batch, start[mine], v4[mine], upper[mine], end[mine])
        return np.asarray(keep, np.bool_)

    def _carry_sip(self, batch: PacketBatch, start: NDArray[np.int64], v4: NDArray[np.bool_], upper: NDArray[np.int64],
                   end: NDArray[np.int64]) -> NDArray[np.bool_]:
        head = window(batch.data, upper, 20)
        ports = head[:, :4].copy().view(">u2")
        payload = upper + (head[:, 12] >> 4).astype(np.int64) * 4
        sip = among(ports[:, 0], self._ports) | among(ports[:, 1], self._ports)
        begins = (payload + 4 <= end) & among(window(batch.data, payload, 4).view("<u4")[:, 0], _SIP_WORDS)
        # A hash of the addresses is enough of a key: a wrong hit costs a look at a segment, no more.
        ends = window(batch.data, start + np.where(v4, 12, 8), 32).view(np.uint64)
        low, high = ends[:, 0].copy(), ends[:, 2].copy()  # of IPv4 both addresses, of IPv6 half of each
        port_pair = head[:, :4].copy().view(np.uint32)[:, 0].astype(np.uint64)
        key = [np.where(v4, low, low ^ high * np.uint64(0x9E3779B97F4A7C15)), port_pair]
        if begins.any() and self._known.count > self._limit:
            self._known = KeyTable(2, seed=self._seed)
        before = self._known.count
        new = np.flatnonzero(begins & ~sip)
        if len(new):
            _, first = self._known.insert([column[new] for column in key])
            new = new[first]
        if self._known.count:
            found = self._known.find(key)
            sip |= (found >= 0) & (found < before)
            late = np.flatnonzero(found >= before)  # of connections that begin here, what follows
            sip[late] |= late >= new[found[late] - before]
        return np.asarray(sip | begins)


class KindLimiter:
    """Lets through so many packets of a kind in each second of packet time; the rest is counted."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second: dict[int, tuple[int, int]] = {}
        self.dropped: Counter[str] = Counter()

    def admit(self, kind: Kind, times_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the packets of `kind`, captured at these times, are kept."""
        keep = np.ones(len(times_ns), bool)
        seconds = times_ns // 1_000_000_000
        changes = np.flatnonzero(seconds[1:] != seconds[:-1]) + 1
        for begin, end in pairwise([0, *changes.tolist(), len(seconds)] if len(seconds) else []):
            second = int(seconds[begin])
            of, seen = self._second.get(kind, (second, 0))
            seen = seen if of == second else 0
            allowed = max(0, self._per_second - seen)
            keep[begin + allowed:end] = False
            self.dropped[kind.name.lower()] += max(0, end - begin - allowed)
            self._second[kind] = (second, seen + end - begin)
        return keep
