"""What correlation advises capture to do with streams, by a small file beside the segments. Losing it costs disk, no more.

The file (little-endian) is written whole and takes its name by a rename:

    magic 8 · epoch u64 · beat i64 · count u32 · 4 zero bytes · checksum u64 · count × ENTRY

`beat` is the clock that nobody sets (CLOCK_MONOTONIC, ns), as of writing; `checksum` that of runs, with itself as 0.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rokuon.store.runs import checksum

__all__ = ["ADVICE", "ALL_TYPES", "ENTRY", "MOST", "Action", "Advice", "AdviceReader", "AdviceWriter", "Entry", "FollowedRows"]

ADVICE = "advice"
"""Name of the file in a capture's part of the spool."""
MOST = 65_536
"""Streams that one capture is advised of."""
ENTRY = np.dtype([("number", "<u4"), ("action", "u1"), ("zero", "u1", 3), ("types", "u1", 16)])
"""A stream as its capture numbers it (ascending, each once), an `Action`, and the RTP payload types that it is for: bit t % 8 of
byte t // 8, from the lowest bit up."""
ALL_TYPES = (1 << 128) - 1

_MAGIC = b"RKADV\x00\x00\x01"
_HEAD = struct.Struct("<8sQqIIQ")
_RENEW_NS = 3_000_000_000
_NOTHING = 0, b""
_VALID_NS = 10_000_000_000
"""Advice that was not renewed for so long is not followed: who gave it does not look at calls any more."""


class Action(IntEnum):
    """What to do with packets of a stream."""

    HEADERS = 1
    """Keep fixed header and CSRCs, and of a header extension the length: packets, losses and jitter can be counted."""
    DROP = 2
    """Count them, and let them go."""


class Entry(NamedTuple):
    """Advice for one stream."""

    number: int
    """As the capture numbers it."""
    action: Action
    types: int = ALL_TYPES
    """The payload types that it is for, a set of 128 bits: bit n for type n."""


class FollowedRows(NamedTuple):
    """What advice means for some packets."""

    headers: NDArray[np.int64]
    """Rows of which only the header is kept."""
    size: NDArray[np.int64]
    """Bytes of each of these."""
    drop: NDArray[np.int64]
    """Rows that are not kept."""


@dataclass(slots=True, frozen=True, eq=False)
class Advice:
    """A table of ENTRY rows for one start of a capture."""

    epoch: int
    beat_ns: int
    entries: NDArray[np.void]

    @classmethod
    def of(cls, epoch: int, entries: Sequence[Entry], beat_ns: int = 0) -> Self:
        """The table of these, the highest numbers (the newest streams) where there are more than `MOST`."""
        chosen = sorted({entry.number: entry for entry in entries}.values())[-MOST:]
        table = np.zeros(len(chosen), ENTRY)
        for row, entry in zip(table, chosen, strict=True):
            row["number"], row["action"] = entry.number, entry.action
            row["types"] = np.frombuffer(entry.types.to_bytes(16, "little"), np.uint8)
        return cls(epoch, beat_ns, table)

    def pack(self) -> bytes:
        """The file's bytes."""
        fields = (_MAGIC, self.epoch, self.beat_ns, len(self.entries), 0)
        body = self.entries.tobytes()
        return _HEAD.pack(*fields, checksum([memoryview(_HEAD.pack(*fields, 0)), memoryview(body)])) + body

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises ValueError where it is no table, damaged, or too long."""
        if len(data) < _HEAD.size or data[:8] != _MAGIC:
            raise ValueError("no advice")
        magic, epoch, beat_ns, count, zero, total = _HEAD.unpack_from(data)
        if zero or count > MOST or len(data) != _HEAD.size + count * ENTRY.itemsize:
            raise ValueError("sizes do not add up")
        body = data[_HEAD.size:]
        if checksum([memoryview(_HEAD.pack(magic, epoch, beat_ns, count, zero, 0)), memoryview(body)]) != total:
            raise ValueError("checksum")
        entries = np.frombuffer(body, ENTRY)
        known = (entries["action"] == Action.HEADERS) | (entries["action"] == Action.DROP)
        if not known.all() or entries["zero"].any() or (entries["number"][1:] <= entries["number"][:-1]).any():
            raise ValueError("no such advice")
        return cls(epoch, beat_ns, entries)

    def rows(self, data: NDArray[np.uint8], streams: NDArray[np.uint32], starts: NDArray[np.int64], order: NDArray[np.int64],
             payload: NDArray[np.int64]) -> FollowedRows | None:
        """What it means for packets; None: nothing.

        streams (k, ascending): numbers; starts (k + 1): where in `order` (n) the rows of each begin, and n; payload, by row:
        where in `data` its RTP packet begins, of which 2 bytes at least are there.
        """
        numbers = self.entries["number"]
        if not len(numbers) or not len(streams):
            return None
        at = np.searchsorted(numbers, streams)
        at[at == len(numbers)] = 0
        which = np.flatnonzero(numbers[at] == streams)
        if not len(which):
            return None
        begin, count = starts[which], starts[which + 1] - starts[which]
        rank = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        rows = order[np.repeat(begin, count) + rank]
        entry = self.entries[np.repeat(at[which], count)]
        first, second = data[payload[rows]].astype(np.int64), data[payload[rows] + 1]
        meant = (entry["types"][np.arange(len(rows)), (second & 0x7F) >> 3] >> (second & 7)) & 1 != 0
        cut = meant & (entry["action"] == Action.HEADERS)
        return FollowedRows(rows[cut], kept_size(first[cut]), rows[meant & ~cut])


def kept_size(first: NDArray[np.int64]) -> NDArray[np.int64]:
    """How much of RTP packets `Action.HEADERS` keeps, by their first octets (RFC 3550 sections 5.1 and 5.3.1), bytes."""
    return 12 + 4 * (first & 0x0F) + 4 * (first >> 4 & 1)


class AdviceWriter:
    """Correlation's end: one for each capture."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the capture's part of the spool."""
        self._path = directory / ADVICE
        self._written: tuple[int, bytes] | None = None
        self._beat_ns = 0

    def put(self, epoch: int, entries: Sequence[Entry], now_ns: int | None = None) -> bool:
        """Writes the file, or removes it, where it says something else or is to be renewed; returns whether it did.

        epoch: of the start of capture that the numbers are from; now_ns: CLOCK_MONOTONIC. Raises OSError.
        """
        now = time.monotonic_ns() if now_ns is None else now_ns
        if not entries:
            if self._written == _NOTHING:
                return False
            self._path.unlink(missing_ok=True)
            self._written = _NOTHING
            return True
        advice = Advice.of(epoch, entries, now)
        says = epoch, advice.entries.tobytes()
        if says == self._written and now - self._beat_ns < _RENEW_NS:
            return False
        temporary = self._path.with_name(f".{ADVICE}.part")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        with open(file, "wb") as out:
            out.write(advice.pack())
        os.replace(temporary, self._path)  # not synced: it is of no use after a crash
        self._written, self._beat_ns = says, now
        return True

    def withdraw(self) -> None:
        """Advises nothing any more. Never raises."""
        with contextlib.suppress(OSError):
            self.put(0, ())


class AdviceReader:
    """Capture's end."""

    def __init__(self, directory: Path, epoch: int) -> None:
        """`directory`: the capture's part of the spool; `epoch`: of this start of it."""
        self._path, self._epoch = directory / ADVICE, epoch
        self._seen: tuple[int, ...] = ()
        self._advice: Advice | None = None
        self.counts: Counter[str] = Counter()
        """Files that were not followed, each once: `advice_damaged`, `advice_stale`."""

    def look(self, now_ns: int | None = None) -> Advice | None:
        """What is to be followed; None: nothing. Never raises. `now_ns`: CLOCK_MONOTONIC."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        try:
            there = os.lstat(self._path)
        except OSError:
            self._seen, self._advice = (), None
            return None
        seen = (there.st_dev, there.st_ino, there.st_mtime_ns, there.st_ctime_ns, there.st_size)
        if seen != self._seen:
            self._seen, self._advice = seen, None
            try:
                advice = Advice.parse(self._read())
            except (OSError, ValueError):
                self.counts["advice_damaged"] += 1
                return None
            if advice.epoch == self._epoch:
                self._advice = advice
            else:
                self.counts["advice_stale"] += 1
        if self._advice is not None and not 0 <= now - self._advice.beat_ns <= _VALID_NS:
            self._advice = None
            self.counts["advice_stale"] += 1
        return self._advice

    def _read(self) -> bytes:
        file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(file, "rb", buffering=0) as source:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ValueError("no file")
            most = _HEAD.size + MOST * ENTRY.itemsize
            data = bytearray()
            while len(data) <= most and (more := source.read(most + 1 - len(data))):
                data += more
        return bytes(data)
