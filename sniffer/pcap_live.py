"""Network interfaces as a source of packets: one or several, merged as they arrive, until somebody says stop."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.interface import TIMEOUT_MS, CapturePermissionError, Interface, InterfaceStats, Options, check_filter
from rokuon.sniffer.packet import SLACK, PacketBatch
from rokuon.sniffer.pcap_file import CaptureError, one_line
from rokuon.sniffer.pcap_merge import join

__all__ = ["BATCH_BYTES", "HISTORY_S", "CapturePermissionError", "LiveCapture", "Second", "open_live"]

BATCH_BYTES = 16 << 20
"""The most that a batch has, unless frames suddenly get far larger: then those of one `next_batch` besides."""
HISTORY_S = 3600
_PAUSE_MAX_S = 0.02
_FILL_BYTES_S = 4e9
"""Between two looks at interfaces that have packets a pause is made, since each costs as much as many packets: never so long
that packets this fast could fill a ring.
"""
_HOLD_NS = 30_000_000
"""Packets of several interfaces as young as this wait for a batch: another interface may have older ones to hand over."""
_NS = 1_000_000_000
_INTERFACES_MAX = 64
_NAME_MAX = 15
_SNAPLEN_MIN, _SNAPLEN_MAX = 64, 262_144
_BUFFER_MIN, _BUFFER_MAX = 1 << 20, (1 << 31) - 1
_BATCH_MIN = 1 << 18


class Second(NamedTuple):
    """What happened in one second, all interfaces together."""

    time_s: float
    """UTC, since 1970, at its end."""
    seconds: float
    """How long it was: longer than 1 where the batch before took so long."""
    packets: int
    bytes: int
    received: int
    dropped_by_kernel: int
    dropped_by_interface: int


class LiveCapture:
    """Iterate for what comes in, batch by batch, until `stop`; a batch without packets says that time passed.

    `warnings`: what happened to the interfaces, one line each, as it happens; whoever has told them may clear the list, which
    takes no more than `WARNINGS_MAX`. `history`: the last hour by seconds. The buffer of a batch is used again for the next
    one. Wire lengths are those captured: libpcap's batches do not tell them. Times are the kernel's, in microseconds.
    """

    def __init__(self, interfaces: Sequence[str], options: Options, run_seconds: float, batch_bytes: int) -> None:
        """Open the interfaces; see `open_live`."""
        self.warnings: list[str] = []
        self.history: deque[Second] = deque(maxlen=HISTORY_S)
        self._interfaces = [Interface(name, options, batch_bytes // 4, self.warnings) for name in interfaces]
        self._run_s = run_seconds
        self._pause_s = min(_PAUSE_MAX_S, options.buffer_bytes / _FILL_BYTES_S)
        self._ring_bytes = options.buffer_bytes * len(interfaces)
        self._room, self._full = batch_bytes, batch_bytes - batch_bytes // 4
        self._data: NDArray[np.uint8] = np.empty(self._room + SLACK, np.uint8)
        self._end = 0
        self._tables: list[bytes] = []
        self._places: list[tuple[int, int]] = []
        """Of each table: the interface, and where its bytes begin in the buffer."""
        self._held: PacketBatch | None = None
        self._first = 0
        self._stopping = self._over = False
        self._drain_left = -1
        self._totals = (0, 0, 0, 0, 0)
        self._looked = time.monotonic()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = select.poll()
        self._wake.register(self._wake_read, select.POLLIN)
        try:
            for interface in self._interfaces:
                interface.open()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[PacketBatch]:
        return self

    def __next__(self) -> PacketBatch:
        if self._over:
            raise StopIteration
        self._begin()
        deadline = time.monotonic() + self._run_s
        while True:
            self._drain()
            now = time.monotonic()
            if now >= self._looked + 1:
                self._look(now)
            if self._stopping:
                return self._last()
            if self._end >= self._full or now >= deadline:
                return self._give(hold=len(self._interfaces) > 1)
            self._wait(deadline - now)

    # -- reading -------------------------------------------------------------
    def _begin(self) -> None:
        """Start a batch with what the one before held back."""
        held = self._held
        self._tables.clear()
        self._places.clear()
        base, size = (0, 0) if held is None else (int(held.offset.min()), self._end)
        room = max(self._room, size - base) + SLACK
        data = self._data if len(self._data) == room else np.empty(room, np.uint8)
        if held is not None:
            data.data[:size - base] = self._data.data[base:size]
            held.offset -= base
        self._data, self._end = data, size - base

    def _drain(self) -> None:
        """Take what is there, from each interface in turn, until none has more or the batch is full."""
        waiting = [*range(self._first, len(self._interfaces)), *range(self._first)]
        for number in waiting:
            self._interfaces[number].short = False
        while waiting:
            for number in tuple(waiting):
                interface = self._interfaces[number]
                looked_ns = time.time_ns()
                asked = interface.ask
                data, table = interface.next_batch()
                if len(table) < asked << 4:
                    waiting.remove(number)
                    interface.short, interface.looked_ns = True, looked_ns
                if table:
                    self._append(number, data, table)
                if self._end >= self._full:
                    self._first = (number + 1) % len(self._interfaces)
                    return

    def _append(self, number: int, data: bytes, table: bytes) -> None:
        end = self._end + len(data)
        if end + SLACK > len(self._data):  # frames far larger than usual
            more = np.empty(end + self._room // 4 + SLACK, np.uint8)
            more.data[:self._end] = self._data.data[:self._end]
            self._data = more
        self._data.data[self._end:end] = data
        self._tables.append(table)
        self._places.append((number, self._end))
        self._end = end

    def _wait(self, seconds: float) -> None:
        """Until something comes, or so long; then a little more, so that it is worth the look."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        for interface in self._interfaces:
            if interface.reader is not None:
                poll.register(interface.fd, select.POLLIN)
        ready = poll.poll(max(1, int(min(seconds, 1) * 1000)))
        if ready and ready[0][0] != self._wake_read and not self._stopping:
            self._wake.poll(max(1, int(min(seconds, self._pause_s) * 1000)))

    def _look(self, now: float) -> None:
        """Once a second: the interfaces' links and counters."""
        for interface in self._interfaces:
            interface.look()
        totals = self._sums()
        self.history.append(Second(time.time(), now - self._looked, *(b - a for a, b in zip(self._totals, totals, strict=True))))
        self._totals, self._looked = totals, now

    # -- giving out ----------------------------------------------------------
    def _give(self, hold: bool) -> PacketBatch:
        """The batch; `hold`: without packets that others may still have to come before."""
        numbers = [number for number, _ in self._places]
        counts = [len(table) >> 4 for table in self._tables]
        table = np.frombuffer(b"".join(self._tables), np.uint32).reshape(-1, 4)
        point = np.repeat(np.array(numbers, np.uint8), counts)
        base = np.repeat(np.array([at for _, at in self._places], np.int64), counts)
        batch = PacketBatch(
            data=self._data, offset=base + table[:, 2].astype(np.int64), captured_length=table[:, 3].astype(np.int32),
            wire_length=table[:, 3].astype(np.int32),
            time_ns=table[:, 0].astype(np.int64) * _NS + table[:, 1].astype(np.int64) * 1000,
            link_type=np.array([each.link_type for each in self._interfaces], np.uint16)[point], capture_point=point)
        for number, interface in enumerate(self._interfaces):
            if number in numbers:
                interface.note(batch.captured_length if len(self._interfaces) == 1 else batch.captured_length[point == number])
        if len(self._interfaces) > 1:
            batch = self._merged(batch, hold)
        return batch

    def _merged(self, batch: PacketBatch, hold: bool) -> PacketBatch:
        """Packets of several interfaces by time, those held back before included."""
        known = -1
        """What is older than this is complete."""
        fresh = batch.time_ns
        for number, interface in enumerate(self._interfaces if hold else ()):
            times = fresh[batch.capture_point == number]
            limit = interface.looked_ns - _HOLD_NS if interface.short else int(times.max(initial=-1))
            known = limit if number == 0 else min(known, limit)
        if self._held is not None:  # nothing is held twice, whatever the clocks say
            known = max(known, int(self._held.time_ns.max()))
            pieces = [self._held, batch]
            batch = join(pieces, np.arange(sum(map(len, pieces))))
            batch.data = self._data
        order = np.argsort(batch.time_ns, kind="stable")
        cut = int(np.searchsorted(batch.time_ns[order], known, "right")) if hold else len(order)
        self._held = join([batch], order[cut:]) if cut < len(order) else None
        return join([batch], order[:cut])

    def _last(self) -> PacketBatch:
        """After `stop`: batches until nothing is waiting any more."""
        if self._drain_left < 0:
            # the kernel has not yet handed over the blocks that were being filled
            time.sleep(3 * TIMEOUT_MS / 1000)
            self._drain_left = self._ring_bytes
            self._drain()
        self._drain_left -= self._end
        if self._drain_left <= 0 or all(interface.short for interface in self._interfaces):
            self._over = True
            self._look(time.monotonic())
        return self._give(hold=False)

    # -- what is told --------------------------------------------------------
    def _sums(self) -> tuple[int, int, int, int, int]:
        stats = self.by_interface()
        return (sum(s.packets for s in stats), sum(s.bytes for s in stats), sum(s.received for s in stats),
                sum(s.dropped_by_kernel for s in stats), sum(s.dropped_by_interface for s in stats))

    def by_interface(self) -> list[InterfaceStats]:
        """Of each interface, what came so far; counters of the kernel as of the last full second."""
        return [interface.stats() for interface in self._interfaces]

    def stats(self) -> Mapping[str, int]:
        """Counters since the start: "packets" and "bytes" given out; "received" by the kernel (passed the filter; dropped ones
        included); "dropped_by_kernel" (its ring was full), "dropped_by_interface" (the card missed them), "dropped" (both);
        "unhandled" (see `InterfaceStats`).
        """
        for interface in self._interfaces:
            interface.count()
        packets, size, received, by_kernel, by_interface = self._sums()
        return {"packets": packets, "bytes": size, "received": received, "dropped": by_kernel + by_interface,
                "dropped_by_kernel": by_kernel, "dropped_by_interface": by_interface,
                "unhandled": sum(s.unhandled for s in self.by_interface())}

    # -- the end -------------------------------------------------------------
    def stop(self) -> None:
        """Give out what has arrived, and end; may be called by a signal handler or another thread, and twice."""
        self._stopping = True
        with suppress(OSError):
            os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Give back interfaces and buffers. There are no more batches."""
        self._over = self._stopping = True
        for interface in self._interfaces:
            interface.count()
            interface.close()
        for fd in (self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._wake_read = self._wake_write = -1
        self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_live(interfaces: Sequence[str], *, filter: str = "", snaplen: int = 65_535, buffer_bytes: int = 64 << 20,
              promiscuous: bool = True, run_seconds: float = 0.5, batch_bytes: int = BATCH_BYTES) -> LiveCapture:
    """Capture from network interfaces ("any": all of them, cooked); a packet's capture point is the place of its interface.

    `filter`: in the language of pcap-filter(7), added to what is kept by default (see `capture_filter`).
    `snaplen`: bytes kept of a packet. `buffer_bytes`: the kernel's ring, for each interface.
    `run_seconds`: a batch is given out after this time at the latest, if need be an empty one; before, if its packets might
    not fit into `batch_bytes` for long.
    An interface that is down, or goes away later, is waited for and goes on by itself; `warnings` tells.
    Raises CaptureError for an interface that does not exist or a filter that cannot be understood, CapturePermissionError
    without CAP_NET_RAW.
    """
    if not 0 < len(interfaces) <= _INTERFACES_MAX:
        raise CaptureError(f"{len(interfaces)} interfaces: 1 to {_INTERFACES_MAX} can be captured from")
    for number, name in enumerate(interfaces):
        if not name or len(name.encode(errors="replace")) > _NAME_MAX or "\0" in name:  # libpcap would take another one
            raise CaptureError(f"{one_line(name)!r} is no name of an interface")
        if name in interfaces[:number]:
            raise CaptureError(f"{one_line(name)}: named twice")
    for what, value, least, most in (("snaplen", snaplen, _SNAPLEN_MIN, _SNAPLEN_MAX),
                                     ("buffer", buffer_bytes, _BUFFER_MIN, _BUFFER_MAX),
                                     ("batch", batch_bytes, _BATCH_MIN, _BUFFER_MAX)):
        if not least <= value <= most:
            raise CaptureError(f"{what} of {value:,} bytes: must be {least:,} to {most:,}")
    if filter.strip():
        check_filter(filter, snaplen)
    return LiveCapture(interfaces, Options(filter, snaplen, buffer_bytes, promiscuous), run_seconds, batch_bytes)
