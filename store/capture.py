"""The capture stage: batches of packets in, runs out. Knows streams, not calls; parses no text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.classify import Kind, KindLimiter, SipConnections, is_rtp, udp_kinds
from rokuon.sniffer.gather import among, scatter, window
from rokuon.sniffer.ip import EXTENSION_HEADERS, IPv6Addresses, UdpDatagrams, udp_datagrams
from rokuon.sniffer.link import ETHERTYPE_IPV4, NetworkLayer, locate, tags_of
from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.streams import StreamTable
from rokuon.store.advice import Advice
from rokuon.store.runs import PACKET, RECORD, SLOT, STREAM, Run, argsort_stable

__all__ = ["Capture"]

_LIMITED = (Kind.RTCP, Kind.STUN, Kind.DTLS)
_MAX_KEPT = 65_535

Kept = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Rows of a batch that are kept as packets, and the `Kind` of each."""


class Capture:
    """Turns batches into runs. `counts` says what was seen, by kind.

    `idle_ns`: a stream that paused longer goes on under a new number; must be shorter than the correlator's window, behind
    which it has forgotten the old one.
    """

    def __init__(self, sip_ports: Iterable[int] = (5060,), max_streams: int = 1 << 18,
                 side_packets_per_second: int = 2000, idle_ns: int = 15_000_000_000) -> None:
        seed = int.from_bytes(os.urandom(8), "little")  # of hash tables: who sends packets must not know where they fall
        self._ports = np.array(sorted(sip_ports), np.uint16)
        self._streams = StreamTable(max_streams, idle_ns=idle_ns, seed=seed)
        self._addresses = IPv6Addresses(seed=seed)
        self._connections = SipConnections(sip_ports, seed=seed)
        self._limiter = KindLimiter(side_packets_per_second)
        self._now_ns = 0
        self.advice: Advice | None = None
        """What to do with streams otherwise than to keep all of them."""
        self.counts: Counter[str] = Counter()

    @property
    def stream_count(self) -> int:
        """Streams in the table."""
        return len(self._streams)

    def process(self, batch: PacketBatch) -> Run:
        """One batch, one run; shares no memory with the batch."""
        self.counts["packets"] += len(batch)
        layer = locate(batch)
        groups, others = udp_datagrams(batch, layer, self._addresses)
        kept = [self._keep_others(batch, layer, others)]
        voice: list[tuple[UdpDatagrams, NDArray[np.int64] | slice]] = []
        for group in groups:
            rtp = is_rtp(group)
            if rtp.all():
                voice.append((group, slice(None)))
                continue
            voice.append((group, np.flatnonzero(rtp)))
            kept.append(self._keep_udp(batch, group, np.flatnonzero(~rtp)))
        rows = np.concatenate([k for k, _ in kept])
        kinds = np.concatenate([k for _, k in kept])
        order = np.argsort(rows, kind="stable")
        run = self._run(batch, layer, voice)
        run.packets, run.packet_bytes = self._copy_packets(batch, rows[order], kinds[order])
        if len(batch):
            run.first_ns, run.last_ns = int(batch.time_ns.min()), int(batch.time_ns.max())
            self._now_ns = max(self._now_ns, run.last_ns)
        for counts in (self._streams.counts, self._limiter.dropped):
            self.counts.update({name: n for name, n in counts.items() if n})
            counts.clear()
        return run

    def _keep_others(self, batch: PacketBatch, layer: NetworkLayer, rows: NDArray[np.int64]) -> Kept:
        """Of IP packets that are no UDP datagrams: fragments and TCP that may be signalling; of IPv6 also extension headers."""
        known = layer.ethertype
        self.counts["not_ip"] += len(batch) - int(np.count_nonzero((known == ETHERTYPE_IPV4) | (known == 0x86DD)))
        if not len(rows):
            return rows, np.zeros(0, np.uint8)
        start = layer.start[rows]
        v4 = layer.ethertype[rows] == ETHERTYPE_IPV4
        kinds = np.zeros(len(rows), np.uint8)
        kinds[self._connections.select(batch, layer, rows)] = Kind.TCP
        head = window(batch.data, start, 8).view(">u2")
        there = batch.offset[rows] + batch.captured_length[rows] - start >= 20
        kinds[v4 & there & ((head[:, 3] & 0x3FFF) != 0)] = Kind.FRAGMENT
        following = head[:, 3] >> 8  # IPv6: the next header
        kinds[~v4 & there & among(following, EXTENSION_HEADERS)] = Kind.FRAGMENT
        keep = kinds != Kind.OTHER
        self.counts["other_ip"] += int(np.count_nonzero(~keep))
        self.counts["fragments"] += int(np.count_nonzero(kinds == Kind.FRAGMENT))
        return rows[keep], kinds[keep]

    def _keep_udp(self, batch: PacketBatch, d: UdpDatagrams, rows: NDArray[np.int64]) -> Kept:
        kinds = udp_kinds(d, rows, self._ports)
        for kind in _LIMITED:
            mine = np.flatnonzero(kinds == kind)
            if len(mine):
                self.counts[kind.name.lower()] += len(mine)
                kinds[mine[~self._limiter.admit(kind, batch.time_ns[d.row[rows[mine]]])]] = Kind.OTHER
        keep = kinds != Kind.OTHER
        self.counts["other_udp"] += int(np.count_nonzero(~keep))
        return d.row[rows[keep]], kinds[keep]

    @staticmethod
    def _copy_packets(batch: PacketBatch, rows: NDArray[np.int64],
                      kinds: NDArray[np.uint8]) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
        packets = np.zeros(len(rows), PACKET)
        captured = np.minimum(batch.captured_length[rows], _MAX_KEPT + 128)
        packets["time_ns"], packets["captured"], packets["wire"] = batch.time_ns[rows], captured, batch.wire_length[rows]
        packets["link_type"], packets["kind"], packets["point"] = batch.link_type[rows], kinds, batch.capture_point[rows]
        ends = np.cumsum(captured, dtype=np.int64)
        packets["offset"] = ends - captured
        into = np.empty(int(ends[-1]) if len(rows) else 0, np.uint8)
        for at, end, offset in zip((ends - captured).tolist(), ends.tolist(), batch.offset[rows].tolist(), strict=True):
            into[at:end] = batch.data[offset:offset + end - at]
        return packets, into

    def _run(self, batch: PacketBatch, layer: NetworkLayer, voice: list[tuple[UdpDatagrams, NDArray[np.int64] | slice]]) -> Run:
        parts = [(d, rows, *self._number(batch, layer, d, rows)) for d, rows in voice]
        parts = [part for part in parts if len(part[2])]
        none = np.zeros(0, np.uint8)
        if not parts:
            return Run.empty(0, 0)
        fields = [(numbers, *(column[rows] for column in (d.row, d.payload, d.captured, d.length, d.ip_id, d.ttl, d.tos)))
                  for d, rows, numbers, _ in parts]
        columns: list[Any] = list(fields[0] if len(fields) == 1 else map(np.concatenate, zip(*fields, strict=True)))
        numbers, row, source, captured, length, ip_id, ttl, tos = columns
        if len(fields) > 1:  # the groups' rows by order of arrival, so that a stable sort by stream keeps it
            arrival = np.argsort(row, kind="stable")
            order = arrival[argsort_stable(numbers[arrival])]
        else:
            order = argsort_stable(numbers)
        self.counts["rtp"] += len(order)
        fresh = np.concatenate([fresh for *_, fresh in parts])
        ordered = numbers[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        if self.advice is not None:
            captured, order = self._follow(self.advice, batch.data, source, captured, ordered[begins], begins, order)
            if len(order) < len(ordered):
                ordered = numbers[order]
                begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            if not len(order):
                return replace(Run.empty(0, 0), fresh=fresh)
        row = row[order]
        records = np.empty(len(order), RECORD)
        captured = captured[order]
        slots = (captured + (SLOT - 1)) & ~(SLOT - 1)
        width = int(slots[0])
        uniform = bool((slots == width).all())
        places = np.arange(len(order), dtype=np.int64) * width if uniform else np.cumsum(slots, dtype=np.int64) - slots
        size = int(places[-1]) + int(slots[-1])
        records["time_ns"], records["offset"], records["captured"] = batch.time_ns[row], places, captured
        records["frame_length"], records["length"] = batch.wire_length[row], length[order]
        records["ip_id"], records["ttl"], records["tos"] = ip_id[order], ttl[order], tos[order]
        source = source[order]
        payload = window(batch.data, source, width).reshape(-1) if uniform else _ragged(batch.data, source, places, slots, size)
        starts = np.append(begins, len(order)).astype(np.uint32)
        return Run(0, 0, ordered[begins], starts, fresh, np.zeros(0, PACKET), none, records, payload,
                   np.append(places[begins], size).astype(np.uint32), last=records["time_ns"][starts[1:].astype(np.int64) - 1])

    def _follow(self, advice: Advice, data: NDArray[np.uint8], source: NDArray[np.int64], captured: NDArray[np.int32],
                streams: NDArray[np.uint32], begins: NDArray[np.int64],
                order: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """How many bytes are kept of each packet, and `order` without those that are not kept."""
        meant = advice.rows(data, streams, np.append(begins, len(order)), order, source)
        if meant is None:
            return captured, order
        captured = captured.copy()
        captured[meant.headers] = np.minimum(captured[meant.headers], meant.size)
        self.counts["rtp_headers_only"] += len(meant.headers)
        if len(meant.drop):
            self.counts["rtp_advised_away"] += len(meant.drop)
            keep = np.ones(len(captured), bool)
            keep[meant.drop] = False
            order = order[keep[order]]
        return captured, order

    def _number(self, batch: PacketBatch, layer: NetworkLayer, d: UdpDatagrams,
                rows: NDArray[np.int64] | slice) -> tuple[NDArray[np.uint32], NDArray[np.void]]:
        """Stream numbers of the datagrams, and a STREAM row for each new one."""
        row = d.row[rows]
        numbers, fresh = self._streams.assign(d, rows, layer.path[row], batch.capture_point[row], batch.time_ns[row])
        streams = np.zeros(len(fresh), STREAM)
        if len(fresh):
            at = np.arange(len(d))[rows][fresh]
            packet = row[fresh]
            start, six = layer.start[packet], bool(d.v6[0])
            streams["number"], streams["first_ns"] = numbers[fresh], batch.time_ns[packet]
            streams["ssrc"] = d.head[at, 2].byteswap()
            addresses = window(batch.data, start + (8 if six else 12), 32 if six else 8)
            half = addresses.shape[1] // 2
            streams["source"][:, :half], streams["destination"][:, :half] = addresses[:, :half], addresses[:, half:]
            ports = d.ports[at].view(">u2").reshape(-1, 2)
            streams["source_port"], streams["destination_port"] = ports[:, 0], ports[:, 1]
            streams["v6"], streams["point"] = six, batch.capture_point[packet]
            streams["link_type"] = batch.link_type[packet]
            for i, path in enumerate(layer.path[packet].tolist()):
                tags = tags_of(path)
                streams["tags"][i, :len(tags)], streams["tag_count"][i] = tags, len(tags)
            header = d.payload[at] - batch.offset[packet]
            header[header > 96] = 0
            streams["header_length"], streams["network"] = header, start - batch.offset[packet]
            streams["header"] = np.where(np.arange(96) < header[:, None], window(batch.data, batch.offset[packet], 96), 0)
        return numbers, streams


def _ragged(data: NDArray[np.uint8], source: NDArray[np.int64], places: NDArray[np.int64], slots: NDArray[np.int32],
            size: int) -> NDArray[np.uint8]:
    """Copies payloads of different sizes, those of one slot size together: one gather a size that occurs."""
    into = np.empty(size, np.uint8)
    kinds = (slots // SLOT).astype(np.uint16)
    order = np.argsort(kinds, kind="stable")
    ordered = kinds[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(order)], strict=True):
        which = order[begin:end]
        width = int(ordered[begin]) * SLOT
        if width:
            scatter(into, places[which], data, source[which], width)
    return into
