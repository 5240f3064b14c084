"""The spool: runs on disk until their calls are finalised. Segments of fixed size are written, merged and used again.

A segment begins with its epoch (one for each start of capture) and the table of streams that were alive when it was
begun, so that it can be read alone; runs follow, each with its own length and checksum. What an earlier use of the same
file left behind the newest run has an older epoch or sequence number and is not read.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.store.runs import HEADER_SIZE, RECORD, STREAM, DamagedRunError, Run

__all__ = ["Segment", "Slice", "Spool", "read_segment"]

_SEGMENT = struct.Struct("<8sQQQQ")
_MAGIC = b"RKSEG\x00\x00\x01"
_SEGMENT_HEADER = 64
_IOV = 512


class Slice(NamedTuple):
    """A stream's part of one run: where its records and its payload lie."""

    segment: int
    records_at: int
    records: int
    payload_at: int
    payload: int
    payload_base: int
    """What to take off a record's `offset` to get its place within this slice's payload."""
    first_ns: int
    """Of the whole run, as is `last_ns`."""
    last_ns: int


@dataclass(slots=True)
class Segment:
    """One file of the spool."""

    number: int
    path: Path
    used: int = 0
    runs: int = 0
    jobs: int = 0
    """Readers that still need it, beside the runs."""
    merged: bool = False


class _Writer(threading.Thread):
    """Writes runs in order; its bounded queue rides out a disk that stalls."""

    def __init__(self, depth: int, sync: bool) -> None:
        super().__init__(name="spool-writer", daemon=True)
        self._queue: queue.Queue[tuple[int, int, list[memoryview]] | None] = queue.Queue(depth)
        self._sync = sync
        self.error: OSError | None = None

    def put(self, descriptor: int, at: int, parts: list[memoryview]) -> None:
        if self.error:
            raise self.error
        self._queue.put((descriptor, at, parts))

    def drain(self) -> None:
        """Returns when all that was put is written."""
        self._queue.join()
        if self.error:
            raise self.error

    def stop(self) -> None:
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self.error is None:
                    self._write(*item)
            except OSError as e:
                self.error = e
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _write(self, descriptor: int, at: int, parts: list[memoryview]) -> None:
        for i in range(0, len(parts), _IOV):
            some = parts[i:i + _IOV]
            size = sum(map(len, some))
            written = os.pwritev(descriptor, some, at)
            if written != size:  # the rest in one piece: rare, and os.pwrite then says what is wrong (a full disk)
                rest = b"".join(some)[written:]
                while rest:
                    done = os.pwrite(descriptor, rest, at + written)
                    rest, written = rest[done:], written + done
            at += size
        if self._sync:
            os.fdatasync(descriptor)


class Spool:
    """The one writer of a spool directory, and the index of what lies in it."""

    def __init__(self, directory: Path, *, segment_bytes: int = 64 << 20, epoch: int = 1, depth: int = 4,
                 sync: bool = False) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self._epoch = epoch
        self._writer = _Writer(depth, sync)
        self._writer.start()
        self._segments: dict[int, Segment] = {}
        self._free: list[Segment] = []
        self._open: dict[int, int] = {}  # descriptors by segment
        self._current: dict[bool, Segment] = {}  # by: holds merged runs
        self._sequence = 0
        self._next_segment = 0
        self.runs: list[Run] = []
        """On disk or on their way there, in order of time; merged ones in the place of the first they stand for."""
        self.streams: dict[int, np.void] = {}
        """STREAM row of every stream that is still needed."""
        self.merged_bytes = 0
        self.recycled = 0

    # -- writing -------------------------------------------------------------
    def append(self, run: Run) -> None:
        """Gives the run its place and writes it. OSError where an earlier write failed (a full disk)."""
        for row in run.fresh:
            self.streams[int(row["number"])] = row
        self._sequence += 1
        run.sequence = self._sequence
        self._put(run, merged=False)
        self.runs.append(run)

    def _put(self, run: Run, merged: bool) -> None:
        size = run.size
        segment = self._current.get(merged)
        if segment is None or segment.used + size > self.segment_bytes:
            segment = self._begin_segment(merged, size)
        run.place(segment.number, segment.used)
        parts = run.sections()
        head = memoryview(run.header(self._epoch, parts))
        self._writer.put(self._open[segment.number], segment.used, [head, *parts])
        segment.used += size
        segment.runs += 1

    def _begin_segment(self, merged: bool, size: int) -> Segment:
        table = np.array(list(self.streams.values()), STREAM) if self.streams else np.zeros(0, STREAM)
        need = _SEGMENT_HEADER + -(-table.nbytes // 8) * 8 + size
        if self._free and need <= self.segment_bytes:
            segment = self._free.pop()
            segment.used = segment.runs = 0
            self.recycled += 1
        else:
            segment = Segment(self._next_segment, self.directory / f"{self._next_segment:08d}.seg")
            self._next_segment += 1
            self._open[segment.number] = os.open(segment.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            os.posix_fallocate(self._open[segment.number], 0, max(self.segment_bytes, need))
        segment.merged = merged
        self._segments[segment.number] = segment
        self._current[merged] = segment
        head = _SEGMENT.pack(_MAGIC, self._epoch, self._sequence, len(table), 0).ljust(_SEGMENT_HEADER, b"\0")
        parts = [memoryview(head), table.view(np.uint8).reshape(-1).data, memoryview(bytes(-table.nbytes % 8))]
        self._writer.put(self._open[segment.number], 0, [part for part in parts if len(part)])
        segment.used = _SEGMENT_HEADER + -(-table.nbytes // 8) * 8
        return segment

    def settle(self) -> None:
        """Returns when all runs are on disk; their bytes are let go from memory."""
        self._writer.drain()
        for run in reversed(self.runs):
            if run.records is None:
                break
            run.records = run.payload = None
            run.packets, run.packet_bytes = run.packets[:0], run.packet_bytes[:0]
            run.fresh = run.fresh[:0]

    def close(self, remove: bool = True) -> None:
        """Ends the writer. `remove`: nothing in it is needed any more."""
        self._writer.stop()
        for descriptor in self._open.values():
            os.close(descriptor)
        if remove:
            for segment in [*self._segments.values(), *self._free]:
                segment.path.unlink(missing_ok=True)

    # -- reading -------------------------------------------------------------
    def slices(self, numbers: NDArray[np.uint32], since_ns: int, until_ns: int) -> list[list[Slice]]:
        """For each stream number its parts in the runs between two times, in order."""
        found: list[list[Slice]] = [[] for _ in numbers]
        for run in self.runs:
            if run.last_ns < since_ns or run.first_ns > until_ns or not len(run.streams):
                continue
            at = np.searchsorted(run.streams, numbers)
            at[at == len(run.streams)] = 0
            which = np.flatnonzero(run.streams[at] == numbers)
            at = at[which]
            columns = (which, run.starts[at], run.starts[at + 1], run.payload_starts[at], run.payload_starts[at + 1])
            for i, first, end, begin, stop in zip(*(column.tolist() for column in columns), strict=True):
                found[i].append(Slice(run.segment, run.records_at + first * RECORD.itemsize, end - first,
                                      run.payload_at + begin, stop - begin, begin, run.first_ns, run.last_ns))
        return found

    def hold(self, segments: Iterable[int]) -> None:
        """A reader needs these segments until `release`."""
        for number in segments:
            self._segments[number].jobs += 1

    def release(self, segments: Iterable[int]) -> None:
        for number in segments:
            self._segments[number].jobs -= 1

    def path(self, segment: int) -> Path:
        return self._segments[segment].path

    @property
    def segment_count(self) -> int:
        """Segments in use and free."""
        return len(self._segments) + len(self._free)

    # -- recycling -----------------------------------------------------------
    def recycle(self, keep_from: NDArray[np.int64], old_ns: int) -> None:
        """Frees segments that nothing needs, and merges old ones that little is needed of.

        keep_from: by stream number, the time from which on its packets are needed (the largest int64: not at all).
        old_ns: only runs that end before it are merged: younger ones may yet be let go whole.
        """
        if len(self._segments) < 2:
            return
        by_segment: dict[int, list[Run]] = {}
        for run in self.runs:
            by_segment.setdefault(run.segment, []).append(run)
        gone: set[int] = set()
        current = {segment.number for segment in self._current.values()}
        for number, runs in by_segment.items():
            if number in current or self._segments[number].jobs:
                continue
            live = total = 0
            for run in runs:
                needed = keep_from[run.streams] <= run.last_ns
                sizes = np.diff(run.payload_starts.astype(np.int64))
                live += int(sizes[needed].sum())
                total += int(sizes.sum())
            if live == 0:
                gone.update(id(run) for run in runs)
            elif live * 2 <= total and max(run.last_ns for run in runs) < old_ns:
                merged = self._merge(runs, keep_from)
                self.runs[self.runs.index(runs[0])] = merged
                gone.update(id(run) for run in runs[1:])
        if gone:
            self.runs = [run for run in self.runs if id(run) not in gone]
        used = {run.segment for run in self.runs} | {segment.number for segment in self._current.values()}
        for number in [n for n, segment in self._segments.items() if n not in used and not segment.jobs]:
            self._free.append(self._segments.pop(number))

    def forget(self, numbers: Iterable[int]) -> None:
        """These streams need no entry in the tables of coming segments."""
        for number in numbers:
            self.streams.pop(number, None)

    def _merge(self, runs: list[Run], keep_from: NDArray[np.int64]) -> Run:
        """One run of what is still needed of several, written beside them before they are given up."""
        self._writer.drain()
        numbers = np.unique(np.concatenate([run.streams[keep_from[run.streams] <= run.last_ns] for run in runs]))
        descriptor = self._open[runs[0].segment]
        records: list[NDArray[np.void]] = []
        payload: list[NDArray[np.uint8]] = []
        starts, payload_starts, count, size = [0], [0], 0, 0
        for number in numbers.tolist():
            for run in runs:
                k = int(np.searchsorted(run.streams, number))
                if k == len(run.streams) or run.streams[k] != number:
                    continue
                first, end = int(run.starts[k]), int(run.starts[k + 1])
                begin, stop = int(run.payload_starts[k]), int(run.payload_starts[k + 1])
                rows = np.frombuffer(os.pread(descriptor, (end - first) * RECORD.itemsize,
                                              run.records_at + first * RECORD.itemsize), RECORD).copy()
                rows["offset"] += np.uint32((size - begin) & 0xFFFF_FFFF)
                records.append(rows)
                payload.append(np.frombuffer(os.pread(descriptor, stop - begin, run.payload_at + begin), np.uint8))
                count, size = count + end - first, size + stop - begin
            starts.append(count)
            payload_starts.append(size)
        merged = Run(runs[0].first_ns, max(run.last_ns for run in runs), numbers, np.array(starts, np.uint32),
                     np.zeros(0, STREAM), runs[0].packets[:0], np.zeros(0, np.uint8), np.concatenate(records),
                     np.concatenate(payload), np.array(payload_starts, np.uint32), runs[0].sequence,
                     (runs[0].sequence, max(run.sequence for run in runs)))
        self._put(merged, merged=True)
        self.merged_bytes += merged.size
        merged.records = merged.payload = None
        return merged


def read_segment(path: Path) -> tuple[int, NDArray[np.void], Iterator[Run]]:
    """What one segment file says by itself: epoch, the streams alive at its begin, its runs up to the first damaged one.

    Raises DamagedRunError where the file is no segment, OSError where it cannot be read.
    """
    data = memoryview(path.read_bytes())
    if len(data) < _SEGMENT_HEADER or data[:8] != _MAGIC:
        raise DamagedRunError(f"{path.name}: no segment of a spool")
    _, epoch, sequence, count, _ = _SEGMENT.unpack_from(data)
    end = _SEGMENT_HEADER + count * STREAM.itemsize
    if end > len(data):
        raise DamagedRunError(f"{path.name}: cut short")

    def runs() -> Iterator[Run]:
        at, last = -(-end // 8) * 8, 0
        while at + HEADER_SIZE <= len(data):
            try:
                run = Run.parse(data[at:], epoch)
            except DamagedRunError:
                return
            if run.sequence < last or run.sequence > sequence + (1 << 40):
                return  # left from an earlier use of the file
            last = run.sequence
            run.place(int(path.stem), at)
            yield run
            at += run.size

    return epoch, np.frombuffer(data[_SEGMENT_HEADER:end], STREAM), runs()
