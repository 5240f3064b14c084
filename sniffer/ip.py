"""IPv4, IPv6 and UDP headers of whole batches (RFC 791, RFC 8200, RFC 768).

What does not fit a vectorised group (TCP, fragments) is left to `careful`, packet by packet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.gather import among, window
from rokuon.sniffer.keytable import KeyTable
from rokuon.sniffer.link import ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEAD, NetworkLayer
from rokuon.sniffer.packet import PacketBatch

__all__ = ["EXTENSION_HEADERS", "PROTOCOL_TCP", "PROTOCOL_UDP", "IPv6Addresses", "UdpDatagrams", "udp_datagrams"]

PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
_LOOK = HEAD - 28
"""Bytes of the UDP payload that are gathered with the headers: a fixed RTP header."""
FRAGMENT_HEADER = 44
EXTENSION_HEADERS = (0, 43, FRAGMENT_HEADER, 60, 135)
"""IPv6: hop-by-hop options, routing, fragment, destination options, mobility (RFC 8200 section 4, RFC 6275)."""
_MAX_EXTENSIONS = 8


@dataclass(slots=True)
class UdpDatagrams:
    """UDP datagrams that are not fragments: parallel arrays of one length m."""

    row: NDArray[np.int64]
    """Which packet of the batch."""
    payload: NDArray[np.int64]
    """Where in `batch.data` the UDP payload begins."""
    captured: NDArray[np.int32]
    """Bytes of the payload that are there."""
    length: NDArray[np.int32]
    """Bytes that the payload had."""
    ends: NDArray[np.uint64]
    """Source address << 32 | destination address, in memory order; of IPv6 the numbers of the two addresses."""
    ports: NDArray[np.uint32]
    """Source and destination port as they stand in memory."""
    v6: NDArray[np.bool_]
    head: NDArray[np.uint32]
    """The payload's first 12 bytes as three little-endian words, shape (m, 3)."""
    ip_id: NDArray[np.uint16]
    ttl: NDArray[np.uint8]
    tos: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.row)


class IPv6Addresses:
    """Gives every IPv6 address a number of 32 bits, so that both families have keys of one size; bounded."""

    def __init__(self, limit: int = 1 << 20, seed: int = 0) -> None:
        self._table = KeyTable(2, seed=seed)
        self._base = 0
        self._limit, self._seed = limit, seed

    def numbers(self, address: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Numbers of addresses given as two words each, shape (n, 2)."""
        if self._table.count > self._limit:  # streams are found again under new numbers: costs a look-up, loses nothing
            self._base = (self._base + self._table.count) & 0x7FFFFFFF
            self._table = KeyTable(2, seed=self._seed)
        ids, _ = self._table.insert([address[:, 0].copy(), address[:, 1].copy()])
        return ids.astype(np.uint64) + np.uint64(self._base)


def _swap16(values: NDArray[np.uint32]) -> NDArray[np.int32]:
    """The low 16 bits of each value, big-endian in memory, as a number."""
    return ((values & 0xFF) << 8 | values >> 8 & 0xFF).astype(np.int32)


def _ipv4(batch: PacketBatch, layer: NetworkLayer, rows: NDArray[np.int64]) -> tuple[UdpDatagrams, NDArray[np.int64]]:
    start, words = layer.start, layer.head
    if len(rows) < len(batch):
        start, words = start[rows], None if words is None else words[rows]
    if words is None:
        words = window(batch.data, start, HEAD).view("<u4")
    first = words[:, 0]
    plain = (first & 0xFF) == 0x45
    udp = (words[:, 2] >> 8 & 0xFF) == PROTOCOL_UDP
    whole = words[:, 1] & 0xFF3F0000 == 0  # neither more fragments nor an offset
    longer = np.flatnonzero(~plain & udp & whole & ((first & 0xF0) == 0x40) & ((first & 0x0F) > 5))
    fits = plain & udp & whole
    if len(longer):  # IP options: gather again behind them
        words[longer, 5:] = window(batch.data, start[longer] + (first[longer] & 0x0F) * 4, 8 + _LOOK).view("<u4")
        fits[longer] = True
    end = batch.offset[rows] + batch.captured_length[rows]
    payload = start + (first & 0x0F) * np.int64(4) + 8
    fits &= payload <= end
    others = rows[~fits]
    if len(others):
        keep = np.flatnonzero(fits)
        rows, words, payload, end, first = rows[keep], words[keep], payload[keep], end[keep], first[keep]
    length = _swap16(words[:, 6]) - 8
    found = UdpDatagrams(
        row=rows, payload=payload, captured=np.minimum(length, (end - payload)).astype(np.int32), length=length,
        ends=words[:, 3].astype(np.uint64) << np.uint64(32) | words[:, 4], ports=words[:, 5],
        v6=np.zeros(len(rows), bool), head=words[:, 7:10], ip_id=_swap16(words[:, 1]).astype(np.uint16),
        ttl=(words[:, 2] & 0xFF).astype(np.uint8), tos=(first >> 8 & 0xFF).astype(np.uint8))
    return found, others


def _ipv6(batch: PacketBatch, layer: NetworkLayer, rows: NDArray[np.int64],
          addresses: IPv6Addresses) -> tuple[UdpDatagrams, NDArray[np.int64]]:
    start = layer.start[rows]
    words = window(batch.data, start, 48 + _LOOK).view("<u4")
    upper = start + 40
    end = batch.offset[rows] + batch.captured_length[rows]
    six, following = (words[:, 0] & 0xF0) == 0x60, (words[:, 1] >> 16).astype(np.uint8)  # the next header
    fits = six & (following == PROTOCOL_UDP) & (upper + 8 <= end)
    more = np.flatnonzero(six & among(following, EXTENSION_HEADERS)) if not fits.all() else rows[:0]
    if len(more):  # gather again behind the extension headers
        upper[more] = _behind_extensions(batch.data, upper[more], end[more], following[more])
        more = more[upper[more] >= 0]
        words[more, 10:] = window(batch.data, upper[more], 8 + _LOOK).view("<u4")
        fits[more] = True
    others = rows[~fits]
    keep = np.flatnonzero(fits)
    if len(others):
        rows, words, upper, end = rows[keep], words[keep], upper[keep], end[keep]
    sources = np.ascontiguousarray(words[:, 2:6]).view(np.uint64)
    targets = np.ascontiguousarray(words[:, 6:10]).view(np.uint64)
    length = _swap16(words[:, 11]) - 8
    class_ = (words[:, 0] & 0x0F) << 4 | words[:, 0] >> 12 & 0x0F
    found = UdpDatagrams(
        row=rows, payload=upper + 8, captured=np.minimum(length, end - upper - 8).astype(np.int32), length=length,
        ends=addresses.numbers(sources) << np.uint64(32) | addresses.numbers(targets), ports=words[:, 10],
        v6=np.ones(len(rows), bool), head=words[:, 12:15], ip_id=np.zeros(len(rows), np.uint16),
        ttl=(words[:, 1] >> 24).astype(np.uint8), tos=class_.astype(np.uint8))
    return found, others


def _behind_extensions(data: NDArray[np.uint8], at: NDArray[np.int64], end: NDArray[np.int64],
                       following: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where the UDP headers of IPv6 packets begin whose first extension header is at `at`; -1: no whole datagram there."""
    at, following = at.copy(), following.copy()
    rows = np.arange(len(at))
    for _ in range(_MAX_EXTENSIONS):
        rows = rows[at[rows] + 8 <= end[rows]]
        if not len(rows):
            break
        head = window(data, at[rows], 4)
        fragment = following[rows] == FRAGMENT_HEADER
        part = fragment & ((head[:, 2] != 0) | ((head[:, 3] & 0xF9) != 0))  # an atomic fragment is none (RFC 6946)
        following[rows] = np.where(part, FRAGMENT_HEADER, head[:, 0])
        at[rows] += np.where(fragment, 8, head[:, 1].astype(np.int64) * 8 + 8)
        rows = rows[~part & among(following[rows], EXTENSION_HEADERS)]
    return np.where((following == PROTOCOL_UDP) & (at + 8 <= end), at, -1)


def udp_datagrams(batch: PacketBatch, layer: NetworkLayer,
                  addresses: IPv6Addresses) -> tuple[list[UdpDatagrams], NDArray[np.int64]]:
    """The batch's whole UDP datagrams, a group for each IP version that occurs, and the rows of IP packets that are none.

    A datagram whose length field is below 8 has a negative `length`; the caller counts it.
    """
    v4 = layer.ethertype == ETHERTYPE_IPV4
    groups: list[UdpDatagrams] = []
    others: list[NDArray[np.int64]] = []
    rows = np.flatnonzero(v4)
    if len(rows):
        found, rest = _ipv4(batch, layer, rows)
        groups.append(found)
        others.append(rest)
    if len(rows) < len(batch):
        rows = np.flatnonzero(layer.ethertype == ETHERTYPE_IPV6)
        if len(rows):
            found, rest = _ipv6(batch, layer, rows, addresses)
            groups.append(found)
            others.append(rest)
    return groups, np.concatenate(others) if others else np.zeros(0, np.int64)
