"""A capture sent again at its own pace, straight from where it was read (sendmmsg(2))."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from sender_ring import raw_socket

from rokuon.sniffer.pcap_file import open_capture

TICK_NS = 2_000_000
MOST = 1024  # UIO_MAXIOV
_IOVEC = np.dtype([("base", np.uint64), ("size", np.uint64)])
_MESSAGE = np.dtype([("name", np.uint64), ("name_size", np.uint64), ("iov", np.uint64), ("iov_count", np.uint64),
                     ("control", np.uint64), ("control_size", np.uint64), ("flags", np.uint64), ("sent", np.uint64)])
"""struct mmsghdr on 64-bit Linux."""


class Replay:
    """Packets of a capture, in ticks of 2 ms."""

    def __init__(self, interface: str, capture: Path) -> None:
        self._socket = raw_socket(interface)
        self._source = open_capture(capture)
        self._batches = iter(self._source)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._at = self._tick = 0
        self._times = np.zeros(0, np.int64)
        self._first: int | None = None
        self.over = False
        self.rtp = self.messages = 0
        self._load()

    def _load(self) -> bool:
        """The next packets; False: there are none."""
        batch = next((b for b in self._batches if len(b)), None)
        if batch is None:
            self.over = True
            return False
        self._data = batch.data
        parts = np.zeros(len(batch), _IOVEC)
        parts["base"] = self._data.ctypes.data + batch.offset.astype(np.uint64)
        parts["size"] = batch.captured_length
        heads = np.zeros(len(batch), _MESSAGE)
        heads["iov"] = parts.ctypes.data + np.arange(len(batch), dtype=np.uint64) * np.uint64(_IOVEC.itemsize)
        heads["iov_count"] = 1
        self._parts, self._heads, self._times, self._at = parts, heads, batch.time_ns.copy(), 0
        self._is_rtp = (batch.data[batch.offset + 12] != 0x08) | (batch.data[batch.offset + 42] & 0xC0 == 0x80)
        if self._first is None:
            self._first = int(self._times[0])
        return True

    def tick(self) -> None:
        """All packets up to now."""
        until = self._tick * TICK_NS
        self._tick += 1
        while not self.over:
            assert self._first is not None
            end = int(np.searchsorted(self._times, self._first + until, "right"))
            while self._at < end:
                count = min(end - self._at, MOST)
                sent = self._libc.sendmmsg(self._socket.fileno(), ctypes.c_void_p(self._heads[self._at:].ctypes.data), count, 0)
                if sent < 0:
                    raise OSError(ctypes.get_errno(), "sendmmsg")
                rtp = int(np.count_nonzero(self._is_rtp[self._at:self._at + sent]))
                self.rtp += rtp
                self.messages += sent - rtp
                self._at += sent
            if end < len(self._times) or not self._load():
                return

    def close(self) -> None:
        self._source.__exit__(None, None, None)
        self._socket.close()
