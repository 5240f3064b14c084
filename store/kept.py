"""Signalling of open calls that has to outlive the part of the spool it came in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.classify import Kind
from rokuon.store.runs import PACKET
from rokuon.store.signalling import Frame

__all__ = ["KeptPackets"]


class KeptPackets:
    """Frames by time."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = sorted(frames, key=lambda frame: frame.time_ns)
        self._times = np.array([frame.time_ns for frame in self._frames], np.int64)
        self._ends = np.concatenate([[0], np.cumsum([len(frame.data) for frame in self._frames], dtype=np.int64)])

    def _rows(self, first_ns: int, last_ns: int) -> tuple[int, int]:
        first, end = np.searchsorted(self._times, [first_ns, last_ns + 1])
        return int(first), int(end)

    def size(self, first_ns: int, last_ns: int) -> int:
        """Bytes of the frames from one time to another, the last included."""
        first, end = self._rows(first_ns, last_ns)
        return int(self._ends[end] - self._ends[first])

    def packets(self, first_ns: int, last_ns: int) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
        """PACKET rows of these frames, and their bytes."""
        first, end = self._rows(first_ns, last_ns)
        rows = np.zeros(end - first, PACKET)
        for row, frame in zip(rows, self._frames[first:end], strict=True):
            row["time_ns"], row["captured"], row["wire"] = frame.time_ns, len(frame.data), frame.wire_length
            row["link_type"], row["kind"] = frame.link_type, Kind.SIP
        rows["offset"] = self._ends[first:end] - self._ends[first]
        return rows, np.frombuffer(b"".join(frame.data for frame in self._frames[first:end]), np.uint8)
