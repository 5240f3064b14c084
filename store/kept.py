"""Signalling of open calls that has to outlive the part of the spool it came in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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

    def among(self, packets: NDArray[np.void], data: NDArray[np.uint8]) -> tuple[NDArray[np.void], bytes]:
        """Those PACKET rows that are such frames, and their bytes. `data`: the bytes that the rows' `offset` counts in."""
        rows: list[np.void] = []
        parts: list[bytes] = []
        size = 0
        for row in packets:
            time_ns, at = int(row["time_ns"]), int(row["offset"])
            first, end = self._rows(time_ns, time_ns)
            if first == end:
                continue
            mine = data[at:at + int(row["captured"])].tobytes()
            if any(frame.data == mine for frame in self._frames[first:end]):
                rows.append(row.copy())
                rows[-1]["offset"] = size
                parts.append(mine)
                size += len(mine)
        return np.array(rows, PACKET) if rows else np.zeros(0, PACKET), b"".join(parts)
