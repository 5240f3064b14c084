"""IP fragments put together: RFC 791 section 3.2, RFC 8200 section 4.5; overlaps by RFC 5722."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

__all__ = ["Defragmenter", "FragmentKey"]

FragmentKey = tuple[Hashable, ...]
"""What makes fragments one datagram's: source, destination, identification, protocol and encapsulation."""

_LONGEST = 65_535
_MAX_FRAGMENTS = 1_024
_COPIES_NS = 1_000_000_000
"""For so long the fragments of a datagram that is whole are a mirror's copies; else the last copy would lie in wait for the
next datagram of the same identification."""


@dataclass(slots=True, eq=False)
class _Datagram:
    since_ns: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    """Offset and bytes, sorted, never overlapping."""
    size: int = 0
    length: int | None = None
    """Known once the last fragment came."""
    refused: bool = False
    """Fragments overlapped where that forbids the whole (RFC 5722): kept to refuse the others too."""


class Defragmenter:
    """Fragments in, payloads of whole datagrams out. Nothing is raised; what is odd is counted in `anomalies`.

    At most `datagram_limit` incomplete datagrams and `size_limit` bytes are held, the one begun first goes first; one
    that is not whole within `timeout_ns` of packet time is dropped.
    """

    def __init__(self, datagram_limit: int = 1_024, size_limit: int = 8 * 1024 * 1024, timeout_ns: int = 30_000_000_000) -> None:
        self.anomalies: Counter[str] = Counter()
        self._datagrams: OrderedDict[FragmentKey, _Datagram] = OrderedDict()
        self._whole: OrderedDict[FragmentKey, int] = OrderedDict()
        self._datagram_limit = datagram_limit
        self._size_limit = size_limit
        self._timeout_ns = timeout_ns
        self._size = 0

    def __len__(self) -> int:
        """Datagrams begun."""
        return len(self._datagrams)

    def receive(self, time_ns: int, key: FragmentKey, offset: int, more: bool, payload: bytes, *,
                ipv6: bool | None = None) -> bytes | None:
        """The payload of the datagram that this fragment completes, else None.

        `offset`: in bytes. `more`: the more-fragments flag. `payload`: what the fragment carries behind the IP header (IPv6:
        behind the fragment header). Of bytes that came twice the first are taken; in IPv6 (`ipv6`, or, where that is None, a
        colon in the key's first item), fragments that overlap without being the same spoil their datagram.
        """
        if ipv6 is None:
            ipv6 = ":" in str(key[0]) if key else False
        self.expire(time_ns)
        end = offset + len(payload)
        if end > _LONGEST or offset < 0:
            self.anomalies["fragment-too-long"] += 1  # "ping of death"
            return None
        if not payload or (more and len(payload) % 8):
            self.anomalies["fragment-bad-length"] += 1
            return None
        if offset == 0 and not more:
            return payload  # an atomic fragment stands for itself: RFC 6946
        datagram = self._datagrams.get(key)
        if datagram is None:
            if key in self._whole:
                self.anomalies["fragment-duplicate"] += 1
                return None
            datagram = self._datagrams[key] = _Datagram(time_ns)
            if len(self._datagrams) > self._datagram_limit:
                self._evict()
        if datagram.refused:
            return None
        if not self._fits(datagram, end, more):
            self.anomalies["fragment-lengths-differ"] += 1
            if ipv6:
                self._refuse(datagram)
            return None
        if not more:
            datagram.length = end
        self._insert(datagram, offset, payload, ipv6)
        if datagram.length is not None and datagram.size == datagram.length:
            del self._datagrams[key]
            self._size -= datagram.size
            self._whole[key] = time_ns
            if len(self._whole) > self._datagram_limit:
                self._whole.popitem(last=False)
            return b"".join([data for _, data in datagram.pieces])
        while self._size > self._size_limit:
            self._evict()
        return None

    def expire(self, time_ns: int) -> None:
        """Drops what was begun `timeout_ns` or longer before packet time `time_ns`."""
        while self._datagrams:
            oldest = next(iter(self._datagrams.values()))
            if time_ns - oldest.since_ns < self._timeout_ns:
                break
            self._forget("fragment-timeout")
        while self._whole and time_ns - next(iter(self._whole.values())) >= _COPIES_NS:
            self._whole.popitem(last=False)

    @staticmethod
    def _fits(datagram: _Datagram, end: int, more: bool) -> bool:
        """Whether the fragment's end agrees with the datagram's."""
        if datagram.length is not None:
            return end <= datagram.length if more else end == datagram.length
        return more or not datagram.pieces or end >= datagram.pieces[-1][0] + len(datagram.pieces[-1][1])

    def _insert(self, datagram: _Datagram, offset: int, payload: bytes, ipv6: bool) -> None:
        """Keeps what is new in a fragment."""
        position, end = offset, offset + len(payload)
        fresh: list[tuple[int, bytes]] = []
        overlaps = False
        for at, data in datagram.pieces:
            behind = at + len(data)
            if behind <= position:
                continue
            if at >= end:
                break
            if at == offset and data == payload:
                return  # the same once more: a mirror's duplicate, not an attack
            overlaps = overlaps or data[max(offset - at, 0):end - at] != payload[max(at - offset, 0):behind - offset] or ipv6
            if at > position:
                fresh.append((position, payload[position - offset:at - offset]))
            position = behind
        if position < end:
            fresh.append((position, payload[position - offset:]))
        if overlaps:
            self.anomalies["fragment-overlap"] += 1
            if ipv6:
                self._refuse(datagram)
                return
        datagram.pieces = sorted([*datagram.pieces, *fresh])
        added = sum(len(data) for _, data in fresh)
        datagram.size += added
        self._size += added
        if len(datagram.pieces) > _MAX_FRAGMENTS:
            self.anomalies["fragment-too-many"] += 1
            self._refuse(datagram)

    def _refuse(self, datagram: _Datagram) -> None:
        self._size -= datagram.size
        datagram.pieces, datagram.size, datagram.refused = [], 0, True

    def _evict(self) -> None:
        self._forget("fragment-evicted")

    def _forget(self, anomaly: str) -> None:
        """Drops the datagram begun first."""
        _, datagram = self._datagrams.popitem(last=False)
        self._size -= datagram.size
        if not datagram.refused:
            self.anomalies[anomaly] += 1
