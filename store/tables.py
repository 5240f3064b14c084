"""The tables of runs that are on the disk: where they are large, they are read from there rather than kept.

Of thousands of calls each run tells of thousands of streams, five times a second for as long as a call may last: kept in memory,
these tables would be most of what a recorder takes. In the file they are the page cache's, which gives them up for whoever needs
the room. They are read and not mapped: a file that was cut short, or a disk that fails, must not end the process.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from rokuon.store.runs import HEADER_SIZE, RECORD, Run, padded

__all__ = ["LARGE", "Tables"]

LARGE = 1000
"""Streams of a run whose tables are not kept. Below, a slow disk that has to be asked for them is the larger evil."""


class Tables:
    """Reads tables, into memory that is used again: what it returns holds until it is asked for the next."""

    def __init__(self) -> None:
        self._room = bytearray()

    def of(self, run: Run, file: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
        """`starts`, `payload_starts` and `last` of a run. `file`: its segment, open.

        Raises OSError where they are not there any more.
        """
        k = len(run.streams)
        four, more = padded(4 * k), padded(4 * k + 4)  # k numbers, and k + 1
        size = 2 * more + 8 * k
        if len(self._room) < size:
            self._room = bytearray(size * 5 // 4)
        view = memoryview(self._room)[:size]
        if os.preadv(file, [view], run.at + HEADER_SIZE + four) != size:
            raise OSError("cut short")
        starts = np.frombuffer(view[:4 * k + 4], "<u4")
        payload_starts = np.frombuffer(view[more:more + 4 * k + 4], "<u4")
        ends = int(starts[-1]) * RECORD.itemsize, int(payload_starts[-1])
        ascend = all(not table[0] and (table[1:] >= table[:-1]).all() for table in (starts, payload_starts))
        if not ascend or ends != (run.records_bytes, run.payload_bytes):
            raise OSError("overwritten")
        return starts, payload_starts, np.frombuffer(view[2 * more:], "<i8")
