"""Numbers RTP streams: (VLAN tags, capture point, source, destination, SSRC) → stream number, in arrays."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.ip import UdpDatagrams
from rokuon.sniffer.keytable import KeyTable

__all__ = ["StreamTable"]

_V6 = np.uint64(1 << 48)
_MANY = np.uint64(1 << 49)
_POINT = np.uint64(50)
_NS = 1_000_000_000


class StreamTable:
    """Gives RTP packets the number of their stream. Numbers are never given out twice.

    A flow (source, destination) that shows more than `max_ssrcs` SSRCs within 10 s is no set of streams: DNS and ESP in
    UDP pass the RTP test, and every packet is a new "SSRC". It is numbered as one stream from there on. A stream that
    paused for more than `idle_ns` goes on under a new number: whoever reads may have done with the old one. The table is
    bounded by `limit`: when it is full, the streams idle longest are forgotten (they get a new number if they go on).
    Short of that, numbers part the packets in the same way however they were cut into batches. `seed`: see `KeyTable`.
    """

    def __init__(self, limit: int = 1 << 18, max_ssrcs: int = 16, first_number: int = 1, idle_ns: int = 15 * _NS,
                 seed: int = 0) -> None:
        self._limit = limit
        self._max = max_ssrcs
        self._next = first_number
        self._idle = idle_ns
        self._seed = seed
        self.counts: Counter[str] = Counter()
        self._streams = KeyTable(3, seed=seed)
        self._flows = KeyTable(3, seed=seed)
        self._number = np.zeros(1024, np.uint32)
        self._last_ns = np.zeros(1024, np.int64)
        self._ssrcs = np.zeros(1024, np.int32)  # of a flow, in its present window
        self._since_ns = np.zeros(1024, np.int64)

    def __len__(self) -> int:
        return self._streams.count

    def assign(self, d: UdpDatagrams, rows: NDArray[np.int64] | slice, path: NDArray[np.uint64], point: NDArray[np.uint8],
               time_ns: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The stream number of each of the datagrams `rows`, and which of them (indices into `rows`) begin a new stream.

        `path`, `point` and `time_ns` are parallel to `rows`.
        """
        ports = d.ports[rows].astype(np.uint64) << np.uint64(32)
        place = path | point.astype(np.uint64) << _POINT
        if d.v6.any():
            place |= d.v6[rows] * _V6
        keys = [d.ends[rows], ports | d.head[rows, 2], place]
        ids = self._streams.find(keys)
        missing = np.flatnonzero(ids < 0)
        fresh = missing[:0]
        if len(missing):
            found, fresh = self._add([key[missing] for key in keys], time_ns[missing])
            ids[missing] = found
            fresh = missing[fresh]
            self._last_ns[ids[fresh]] = time_ns[fresh]
        numbers = self._number[ids]
        if len(ids) and ((time_ns - self._last_ns[ids] > self._idle).any() or int(time_ns.max() - time_ns.min()) > self._idle):
            fresh = np.sort(np.concatenate([fresh, self._renumber(ids, numbers, time_ns)]))
        self._last_ns[ids] = time_ns
        if self._streams.count > self._limit:
            self._evict()
        return numbers, fresh

    def _renumber(self, ids: NDArray[np.int32], numbers: NDArray[np.uint32], time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gives streams that paused too long new numbers, from the packet behind the pause on; returns those packets' rows."""
        order = np.argsort(ids.astype(np.uint16) if self._streams.count <= 1 << 16 else ids, kind="stable")
        of, times = ids[order], time_ns[order]
        begins = np.concatenate([[True], of[1:] != of[:-1]])
        before = np.concatenate([times[:1], times[:-1]])
        before[begins] = self._last_ns[of[begins]]
        resumes = times - before > self._idle
        rows = np.sort(order[resumes])  # numbers are given out by appearance
        new = np.zeros(len(ids), np.uint32)
        new[rows] = np.arange(self._next, self._next + len(rows), dtype=np.uint32)
        self._next += len(rows)
        since = np.maximum.accumulate(np.where(begins | resumes, np.arange(len(of)), 0))
        behind = np.flatnonzero(resumes[since])
        numbers[order[behind]] = new[order[since[behind]]]
        self._number[ids[order]] = numbers[order]  # the last of each stream stays
        return rows

    def _add(self, keys: list[NDArray[np.uint64]], time_ns: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids for packets of unknown streams, and which of them are the first of a new one."""
        names = KeyTable(3, seed=self._seed)
        of, first = names.insert(keys)  # the distinct streams, by first appearance
        flow_keys = [keys[0][first], keys[1][first] & np.uint64(0xFFFFFFFF00000000), keys[2][first]]
        flows, new_flows = self._flows.insert(flow_keys)
        self._grow_flows()
        self._since_ns[flows[new_flows]] = time_ns[first[new_flows]]
        self._ssrcs[flows[new_flows]] = 0
        alone = self._within_limit(flows, time_ns[first])
        real = [key[first] for key in keys]
        if not alone.all():  # those beyond the limit share one stream a flow
            real = [flow_keys[0], np.where(alone, real[1], flow_keys[1]), np.where(alone, real[2], real[2] | _MANY)]
            self.counts["streams_of_many_ssrcs"] += int((~alone).sum())
        before = self._streams.count
        ids, new = self._streams.insert(real)
        self._grow_streams(before)
        return ids[of], np.sort(first[new])

    def _within_limit(self, flows: NDArray[np.int32], time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which new streams, in order, are still among the first SSRCs of their flow's window."""
        order = np.argsort(flows, kind="stable")
        ordered = flows[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        ends = np.append(begins[1:], len(order))
        alone = np.zeros(len(flows), bool)
        at = begins.copy()
        while len(at):  # the next new stream of every flow at once; a flow once found out stays so
            rows = order[at]
            flow, now = flows[rows], time_ns[rows]
            over = (now - self._since_ns[flow] > 10 * _NS) & (self._ssrcs[flow] <= self._max)
            self._ssrcs[flow[over]] = 0
            self._since_ns[flow[over]] = now[over]
            self._ssrcs[flow] += 1
            calm = self._ssrcs[flow] <= self._max
            alone[rows[calm]] = True
            at, ends = at[calm] + 1, ends[calm]
            more = at < ends
            at, ends = at[more], ends[more]
        return alone

    def _grow_flows(self) -> None:
        while len(self._ssrcs) < self._flows.count:
            self._ssrcs = np.concatenate([self._ssrcs, np.zeros_like(self._ssrcs)])
            self._since_ns = np.concatenate([self._since_ns, np.zeros_like(self._since_ns)])

    def _grow_streams(self, before: int) -> None:
        count = self._streams.count
        while len(self._number) < count:
            self._number = np.concatenate([self._number, np.zeros_like(self._number)])
            self._last_ns = np.concatenate([self._last_ns, np.zeros_like(self._last_ns)])
        self._number[before:count] = np.arange(self._next, self._next + count - before, dtype=np.uint32)
        self._next += count - before

    def _evict(self) -> None:
        """Forgets the half that was idle longest."""
        count = self._streams.count
        last = self._last_ns[:count]
        keep = last > np.partition(last, count // 2)[count // 2]
        self.counts["streams_evicted"] += count - int(keep.sum())
        number, last = self._number[:count][keep], last[keep]
        self._streams.keep(keep)
        self._number[: len(number)] = number
        self._last_ns[: len(last)] = last
        self._flows = KeyTable(3, seed=self._seed)  # counts of SSRCs begin anew: bounded, and found out again within 17 packets
