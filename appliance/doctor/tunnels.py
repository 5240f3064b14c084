"""Encapsulations that rokuon does not look through, and what lies in them: calls that it would miss.

GRE (RFC 2784, 2890), ERSPAN (draft-foschiano-erspan), VXLAN (RFC 7348), GENEVE (RFC 8926), GTP-U (3GPP TS 29.281), IP in IP
(RFC 2003, 4213), MPLS (RFC 3032), PPPoE (RFC 2516), TZSP; what is encrypted (ESP) is counted only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.classify import Kind, SipConnections, is_rtp, udp_kinds
from rokuon.sniffer.gather import among, window
from rokuon.sniffer.ip import IPv6Addresses, UdpDatagrams, udp_datagrams
from rokuon.sniffer.link import NetworkLayer, locate
from rokuon.sniffer.packet import LINKTYPE_ETHERNET, LINKTYPE_RAW, PacketBatch

__all__ = ["Tunnel", "Tunnels"]

Rows = NDArray[np.int64]

GRE, AH = 47, 51
IP_PROTOCOLS = {4: "IP in IP", 41: "IP in IP", GRE: "GRE", 50: "ESP (IPsec)", AH: "AH (IPsec)", 115: "L2TP"}
ETHERTYPES = {0x8847: "MPLS", 0x8848: "MPLS", 0x8864: "PPPoE", 0x88E5: "MACsec", 0x894F: "NSH", 0x88E7: "802.1ah"}
VXLAN, VXLAN_LINUX, GENEVE, GTP_U, TZSP, ESP_IN_UDP = 4789, 8472, 6081, 2152, 37008, 4500
UDP_PORTS = {VXLAN: "VXLAN", VXLAN_LINUX: "VXLAN", GENEVE: "GENEVE", GTP_U: "GTP-U", TZSP: "TZSP", ESP_IN_UDP: "ESP (IPsec)"}
_TEB, _ERSPAN_2, _ERSPAN_3, _IPV4, _IPV6 = 0x6558, 0x88BE, 0x22EB, 0x0800, 0x86DD
_LABELS = 8
_VOICE = 24
"""Bytes of a datagram from which on it may be voice."""


@dataclass(slots=True)
class Tunnel:
    """What came in one kind of encapsulation."""

    packets: int = 0
    rtp: int = 0
    """Packets in it that look like RTP."""
    sip: int = 0


class _Inside(NamedTuple):
    """Packets within packets."""

    rows: Rows
    """Of the batch."""
    start: Rows
    """Where in `batch.data` the inner frame begins."""
    ethernet: NDArray[np.bool_]
    """It begins with an Ethernet header, else with an IP header."""


class Tunnels:
    """Counts by kind of encapsulation, batch after batch."""

    def __init__(self, sip_ports: NDArray[np.uint16]) -> None:
        self.found: dict[str, Tunnel] = {}
        self._ports = sip_ports
        self._addresses = IPv6Addresses()
        self._connections = SipConnections(sip_ports.tolist())

    def look(self, batch: PacketBatch, layer: NetworkLayer, groups: list[tuple[UdpDatagrams, Rows]], others: Rows,
             protocol: NDArray[np.uint8], upper: Rows) -> None:
        """`groups`: UDP datagrams, and of each those that are no RTP. `others`: IP packets that are no UDP datagrams, with their
        `protocol` and where in `batch.data` their payload begins.
        """
        for name, inside in (*self._of_ethertypes(batch, layer), *self._of_protocols(batch, others, protocol, upper),
                             *self._of_ports(batch, groups)):
            if inside is not None:
                self._count(name, batch, inside)

    def _add(self, name: str, packets: int) -> Tunnel:
        tunnel = self.found.setdefault(name, Tunnel())
        tunnel.packets += packets
        return tunnel

    # -- what encapsulates ---------------------------------------------------
    def _of_ethertypes(self, batch: PacketBatch, layer: NetworkLayer) -> Iterator[tuple[str, _Inside | None]]:
        unknown = np.flatnonzero((layer.ethertype != _IPV4) & (layer.ethertype != _IPV6))
        if not len(unknown):
            return
        kinds = layer.ethertype[unknown]
        for kind, name in ETHERTYPES.items():
            rows = unknown[kinds == kind]
            if not len(rows):
                continue
            self._add(name, len(rows))
            start = layer.start[rows]
            if name == "MPLS":
                yield name, _mpls(batch, rows, start)
            elif name == "PPPoE":
                inner = among(window(batch.data, start + 6, 2).view(">u2")[:, 0], (0x0021, 0x0057))
                yield name, _Inside(rows[inner], start[inner] + 8, np.zeros(int(inner.sum()), np.bool_))

    def _of_protocols(self, batch: PacketBatch, others: Rows, protocol: NDArray[np.uint8],
                      upper: Rows) -> Iterator[tuple[str, _Inside | None]]:
        for number, name in IP_PROTOCOLS.items():
            mine = np.flatnonzero(protocol == number)
            if not len(mine):
                continue
            rows, start = others[mine], upper[mine]
            if number == GRE:
                yield from self._gre(batch, rows, start)
                continue
            self._add(name, len(rows))
            if name == "IP in IP":
                yield name, _Inside(rows, start, np.zeros(len(rows), np.bool_))

    def _gre(self, batch: PacketBatch, rows: Rows, start: Rows) -> Iterator[tuple[str, _Inside | None]]:
        head = window(batch.data, start, 4)
        flags, kind = head[:, 0], head[:, 2:].copy().view(">u2")[:, 0]
        size = 4 + ((flags >> 7) + (flags >> 5 & 1) + (flags >> 4 & 1)).astype(np.int64) * 4  # checksum, key, sequence number
        known = (head[:, 1] & 7) == 0
        mirrored = known & among(kind, (_ERSPAN_2, _ERSPAN_3))
        if mirrored.any():
            at = start + size
            sequenced = (flags & 0x10) != 0  # ERSPAN type I has neither sequence number nor header of its own
            platform = (batch.data[np.minimum(at + 11, len(batch.data) - 1)] & 1).astype(np.int64)
            more = np.where(kind == _ERSPAN_3, 12 + 8 * platform, np.where(sequenced, 8, 0))
            self._add("ERSPAN", int(mirrored.sum()))
            yield "ERSPAN", _Inside(rows[mirrored], (at + more)[mirrored], np.ones(int(mirrored.sum()), np.bool_))
        plain = ~mirrored
        if plain.any():
            self._add("GRE", int(plain.sum()))
            inner = known & among(kind, (_TEB, _IPV4, _IPV6))
            yield "GRE", _Inside(rows[inner], (start + size)[inner], kind[inner] == _TEB)

    def _of_ports(self, batch: PacketBatch, groups: list[tuple[UdpDatagrams, Rows]]) -> Iterator[tuple[str, _Inside | None]]:
        for d, which in groups:
            if not len(which):
                continue
            ports = d.ports[which].view(">u2").reshape(-1, 2)
            for port, name in UDP_PORTS.items():
                here = ports[:, 1] == port
                if port in (GTP_U, ESP_IN_UDP):
                    here |= ports[:, 0] == port
                mine = which[here]
                if not len(mine):
                    continue
                start, first = d.payload[mine], d.head[mine, 0] & 0xFF
                if port == ESP_IN_UDP:
                    self._add(name, int((d.captured[mine] > 8).sum()))  # else it is a keep-alive
                    continue
                if port in (VXLAN, VXLAN_LINUX):
                    size, right = np.full(len(mine), 8, np.int64), (first & 0x08) != 0
                elif port == GENEVE:
                    size, right = 8 + (first & 0x3F).astype(np.int64) * 4, (first >> 6) == 0
                elif port == GTP_U:
                    size = 8 + np.where(first & 7, 4, 0).astype(np.int64)
                    right = ((first >> 5) == 1) & ((d.head[mine, 0] >> 8 & 0xFF) == 255)  # version 1, a packet of the user's
                else:
                    size, right = _tzsp(batch, start), np.ones(len(mine), np.bool_)
                ethernet = np.full(len(mine), port != GTP_U)
                self._add(name, int(right.sum()))
                yield name, _Inside(d.row[mine][right], (start + size)[right], ethernet[right])

    # -- what is in there ----------------------------------------------------
    def _count(self, name: str, batch: PacketBatch, inside: _Inside) -> None:
        left = (batch.offset + batch.captured_length)[inside.rows] - inside.start
        there = left >= 28
        if not there.any():
            return
        rows, start, left = inside.rows[there], inside.start[there], left[there]
        kinds = np.where(inside.ethernet[there], LINKTYPE_ETHERNET, LINKTYPE_RAW).astype(np.uint16)
        inner = PacketBatch(batch.data, start, left.astype(np.int32), left.astype(np.int32), batch.time_ns[rows], kinds,
                            batch.capture_point[rows])
        layer = locate(inner)
        groups, others = udp_datagrams(inner, layer, self._addresses)
        tunnel = self.found[name]
        if len(others):
            tunnel.sip += int(self._connections.select(inner, layer, others).sum())
        for d in groups:
            rtp = is_rtp(d)
            ports = np.ascontiguousarray(d.ports).view(">u2").reshape(-1, 2)
            voice = rtp & (d.length >= _VOICE) & (ports[:, 0] >= 1024) & (ports[:, 1] >= 1024)
            tunnel.rtp += int(voice.sum())
            tunnel.sip += int((udp_kinds(d, np.flatnonzero(~rtp), self._ports) == Kind.SIP).sum())


def _mpls(batch: PacketBatch, rows: Rows, start: Rows) -> _Inside:
    """Behind the label at the bottom of the stack (RFC 3032 section 2.1): IP, or Ethernet with or without a control word."""
    at, bottom = start.copy(), np.zeros(len(rows), np.bool_)
    end = (batch.offset + batch.captured_length)[rows]
    for _ in range(_LABELS):
        todo = np.flatnonzero(~bottom & (at + 4 <= end))
        if not len(todo):
            break
        bottom[todo] = (batch.data[at[todo] + 2] & 1) == 1
        at[todo] += 4
    bottom &= at + 20 <= end
    rows, at = rows[bottom], at[bottom]
    nibble = batch.data[at] >> 4
    control = (nibble == 0) & (batch.data[at + 1] == 0)  # RFC 4385: the control word of a pseudowire
    ethernet = (nibble != 4) & (nibble != 6)
    return _Inside(rows, np.where(control, at + 4, at), ethernet)


def _tzsp(batch: PacketBatch, start: Rows) -> Rows:
    """Bytes before the frame: a header of 4 and tagged fields up to the end tag (1); padding (0) has no length."""
    at = start + 4
    open_ = np.arange(len(at))
    for _ in range(16):
        at[open_] = np.minimum(at[open_], len(batch.data) - 2)
        tag, length = batch.data[at[open_]], batch.data[at[open_] + 1].astype(np.int64)
        at[open_] += np.where(tag <= 1, 1, 2 + length)
        open_ = open_[tag != 1]
        if not len(open_):
            break
    return at - start
