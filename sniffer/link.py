"""Link layers of whole batches: where does the network layer begin, under which VLAN tags?

To add an encapsulation: a function that takes the rows concerned, moves their `start` and sets their `ethertype`, and,
where it separates networks (as a VNI does), mixes its id into `path`; see CONTRIBUTING.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.gather import among, window
from rokuon.sniffer.packet import (
    LINKTYPE_ETHERNET,
    LINKTYPE_IPV4,
    LINKTYPE_IPV6,
    LINKTYPE_LINUX_SLL,
    LINKTYPE_LINUX_SLL2,
    LINKTYPE_LOOP,
    LINKTYPE_NULL,
    LINKTYPE_RAW,
    PacketBatch,
)

__all__ = ["ETHERTYPE_IPV4", "ETHERTYPE_IPV6", "HEAD", "MAX_TAGS", "NetworkLayer", "locate", "tags_of"]

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
VLAN_ETHERTYPES = (0x8100, 0x88A8, 0x9100)  # 802.1Q, 802.1ad, and what QinQ was before it
MAX_TAGS = 4
"""VLAN tags that are looked through; a frame with more is counted as not understood."""
HEAD = 40
_TAG_BITS = 12


@dataclass(slots=True)
class NetworkLayer:
    """Parallel to the batch."""

    start: NDArray[np.int64]
    """Where in `batch.data` the network header begins."""
    ethertype: NDArray[np.uint16]
    """What begins there; 0: nothing we know."""
    path: NDArray[np.uint64]
    """VLAN tags, innermost in the low 12 bits, their number from bit 60 up: see `tags_of`."""
    head: NDArray[np.uint32] | None = None
    """The first 40 bytes from `start` on as little-endian words, shape (n, 10), where they have been looked up anyway."""


def tags_of(path: int) -> tuple[int, ...]:
    """The VLAN tags of a `NetworkLayer.path`, outermost first."""
    count = path >> 60
    return tuple(path >> _TAG_BITS * i & 0xFFF for i in reversed(range(count)))


def _u16(data: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint16]:
    return window(data, at, 2).view(">u2")[:, 0].astype(np.uint16)


def _by_version(data: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint16]:
    """The ethertype that the version field of an IP header stands for."""
    version = data[at] >> 4
    return np.where(version == 4, ETHERTYPE_IPV4, np.where(version == 6, ETHERTYPE_IPV6, 0)).astype(np.uint16)


def _peel_tags(batch: PacketBatch, layer: NetworkLayer) -> None:
    """802.1Q, QinQ: moves over the tags and notes them. Priority tags (VLAN 0) name no VLAN."""
    if (layer.ethertype == ETHERTYPE_IPV4).all():
        return
    rows = np.flatnonzero(among(layer.ethertype, VLAN_ETHERTYPES))
    if len(rows):
        layer.head = None
    for _ in range(MAX_TAGS):
        if not len(rows):
            return
        tag = window(batch.data, layer.start[rows], 4).view(">u2")
        vlan = (tag[:, 0] & 0xFFF).astype(np.uint64)
        path = layer.path[rows]
        count = path >> np.uint64(60)
        tags = path & np.uint64((1 << 60) - 1)
        with_it = (tags << np.uint64(_TAG_BITS) | vlan) | (count + np.uint64(1)) << np.uint64(60)
        layer.path[rows] = np.where(vlan == 0, path, with_it)
        layer.start[rows] += 4
        layer.ethertype[rows] = tag[:, 1]
        rows = rows[among(layer.ethertype[rows], VLAN_ETHERTYPES)]
    layer.ethertype[rows] = 0


def locate(batch: PacketBatch) -> NetworkLayer:
    """Finds the network layer of every packet.

    Ethernet II with 802.1Q/802.1ad tags, Linux cooked v1 and v2, raw IP, BSD loopback
    (https://www.tcpdump.org/linktypes.html). Of a packet that ends before its network layer nothing is known. What lies
    behind `start` may still be beyond the captured length: whoever uses it has to check.
    """
    n = len(batch)
    layer = NetworkLayer(batch.offset.copy(), np.zeros(n, np.uint16), np.zeros(n, np.uint64))
    if not n:
        return layer
    first = int(batch.link_type[0])
    kinds = [first] if (batch.link_type == first).all() else np.unique(batch.link_type).tolist()
    for kind in kinds:
        rows = slice(None) if len(kinds) == 1 else np.flatnonzero(batch.link_type == kind)
        start = batch.offset[rows]
        if kind == LINKTYPE_ETHERNET and len(kinds) == 1 and int(batch.data[start[0] + 12]) << 8 == ETHERTYPE_IPV4:
            # Most probably plain IPv4: what comes next is gathered with the type, for it is the first look that costs.
            words = window(batch.data, start + 10, 4 + HEAD).view("<u4")
            layer.ethertype[:] = words[:, 0] >> 24 | words[:, 0] >> 8 & 0xFF00
            layer.start = start + 14
            layer.head = words[:, 1:]
        elif kind == LINKTYPE_ETHERNET:
            layer.ethertype[rows] = _u16(batch.data, start + 12)
            layer.start[rows] = start + 14
        elif kind == LINKTYPE_LINUX_SLL:
            layer.ethertype[rows] = _u16(batch.data, start + 14)
            layer.start[rows] = start + 16
        elif kind == LINKTYPE_LINUX_SLL2:
            layer.ethertype[rows] = _u16(batch.data, start)
            layer.start[rows] = start + 20
        elif kind in (LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6):
            layer.ethertype[rows] = _by_version(batch.data, start)
        elif kind in (LINKTYPE_NULL, LINKTYPE_LOOP):
            layer.start[rows] = start + 4  # the address family differs between systems; the version field does not
            layer.ethertype[rows] = _by_version(batch.data, start + 4)
    _peel_tags(batch, layer)
    layer.ethertype[layer.start >= batch.offset + batch.captured_length] = 0  # read from what is not the packet's
    return layer
