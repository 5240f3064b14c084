"""The spool: runs on disk until their calls are finalised. One file of segments, which are written, merged and used again.

A segment begins with its size, its epoch (one for each start of capture) and the table of streams that were alive when it
was begun, so that it can be read alone; runs follow, each with its own length and checksum, their sequence numbers ascending
from that in the segment's header. What an earlier use of the same place left behind the newest run has an older epoch or a
lower sequence number and is not read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rokuon.store.runs import HEADER_SIZE, RECORD, STREAM, DamagedRunError, Run

__all__ = ["SLICE", "Segment", "Spool", "read_segments"]

_SEGMENT = struct.Struct("<8sQQQQ")
_MAGIC = b"RKSEG\x00\x00\x01"
_SEGMENT_HEADER = 64
_IOV = 512
_GRAIN = 1 << 16

SLICE = np.dtype([("records_at", "<i8"), ("records", "<i8"), ("payload_at", "<i8"), ("payload", "<i8"), ("payload_base", "<i8"),
                  ("first_ns", "<i8"), ("last_ns", "<i8"), ("segment", "<i8")])
"""A stream's part of one run: where its RECORDs lie in the file and how many they are, where its payload lies and how much
it is, what to take off a record's `offset` to count from there, and the times and the segment of the whole run."""


@dataclass(slots=True)
class Segment:
    """A part of the file."""

    number: int
    base: int
    size: int
    used: int = 0
    """Bytes from `base` on."""
    jobs: int = 0
    """Readers that still need it, beside the runs."""


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
            except Exception as e:  # else whoever waits for this thread waits for ever
                self.error = OSError(errno.EIO, f"{type(e).__name__}: {e}")
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
        self.path = directory / "packets.spool"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        self._end = 0
        self._segments: dict[int, Segment] = {}
        self._free: list[Segment] = []
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
        if segment is None or segment.used + size > segment.size:
            segment = self._begin_segment(merged, size)
        at = segment.base + segment.used
        run.place(segment.number, at)
        parts = run.sections()
        self._writer.put(self._file, at, [memoryview(run.header(self._epoch, parts)), *parts])
        segment.used += size

    def _begin_segment(self, merged: bool, size: int) -> Segment:
        table = np.array(list(self.streams.values()), STREAM) if self.streams else np.zeros(0, STREAM)
        used = _SEGMENT_HEADER + -(-table.nbytes // 8) * 8
        segment = next((s for s in self._free if s.size >= used + size), None)
        if segment is not None:
            self._free.remove(segment)
            self.recycled += 1
        else:
            room = max(self.segment_bytes, -(-(used + size) // _GRAIN) * _GRAIN)
            os.posix_fallocate(self._file, self._end, room)
            segment = Segment(self._next_segment, self._end, room)
            self._next_segment += 1
            self._end += room
        segment.used = used
        self._segments[segment.number] = segment
        self._current[merged] = segment
        head = _SEGMENT.pack(_MAGIC, self._epoch, self._sequence, len(table), segment.size).ljust(_SEGMENT_HEADER, b"\0")
        parts = [memoryview(head), table.view(np.uint8).reshape(-1).data, memoryview(bytes(-table.nbytes % 8))]
        self._writer.put(self._file, segment.base, [part for part in parts if len(part)])
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

    def abandon(self) -> None:
        """Gives the room back at once, whoever still has the file open: nothing will be read from it any more."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)

    def close(self, remove: bool = True) -> None:
        """Ends the writer. `remove`: nothing in it is needed any more."""
        self._writer.stop()
        os.close(self._file)
        if remove:
            self.path.unlink(missing_ok=True)

    # -- reading -------------------------------------------------------------
    def slices(self, numbers: NDArray[np.uint32], since_ns: int, until_ns: int) -> list[NDArray[np.void]]:
        """For each stream number (ascending) its parts in the runs between two times, in order: SLICE rows."""
        found: list[NDArray[np.int64]] = [np.zeros((0, 9), np.int64)]
        for run in self.runs:
            if run.last_ns < since_ns or run.first_ns > until_ns or not len(run.streams):
                continue
            at = np.searchsorted(run.streams, numbers)
            at[at == len(run.streams)] = 0
            which = np.flatnonzero(run.streams[at] == numbers)
            at = at[which]
            rows = np.empty((len(which), 9), np.int64)
            rows[:, 0] = run.starts[at]
            rows[:, 1] = run.starts[at + 1] - run.starts[at]
            rows[:, 0] = run.records_at + rows[:, 0] * RECORD.itemsize
            rows[:, 4] = run.payload_starts[at]
            rows[:, 2], rows[:, 3] = run.payload_at + rows[:, 4], run.payload_starts[at + 1] - run.payload_starts[at]
            rows[:, 5:8] = run.first_ns, run.last_ns, run.segment
            rows[:, 8] = which
            found.append(rows)
        together = np.concatenate(found)
        order = np.argsort(together[:, 8], kind="stable")
        ends = np.searchsorted(together[order, 8], np.arange(1, len(numbers) + 1))
        slices = np.ascontiguousarray(together[order, :8]).view(SLICE).reshape(-1)
        return np.split(slices, ends[:-1]) if len(numbers) else []

    def hold(self, segments: Iterable[int]) -> None:
        """A reader needs these segments until `release`."""
        for number in segments:
            self._segments[number].jobs += 1

    def release(self, segments: Iterable[int]) -> None:
        for number in segments:
            self._segments[number].jobs -= 1

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
        self.settle()
        by_segment: dict[int, list[Run]] = {}
        for run in self.runs:
            by_segment.setdefault(run.segment, []).append(run)
        gone: set[int] = set()
        merged: dict[int, Run] = {}
        places: dict[int, int] = {}
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
                places.update({id(run): i for i, run in enumerate(self.runs)} if not places else {})
                for group in _neighbours(runs, places):
                    gone.update(id(run) for run in group)
                    if any((keep_from[run.streams] <= run.last_ns).any() for run in group):
                        gone.remove(id(group[0]))
                        merged[id(group[0])] = self._merge(group, keep_from)
        if gone or merged:
            self.runs = [merged.get(id(run), run) for run in self.runs if id(run) not in gone]
        used = {run.segment for run in self.runs} | {segment.number for segment in self._current.values()}
        for number in [n for n, segment in self._segments.items() if n not in used and not segment.jobs]:
            self._free.append(self._segments.pop(number))

    def forget(self, numbers: Iterable[int]) -> None:
        """These streams need no entry in the tables of coming segments."""
        for number in numbers:
            self.streams.pop(number, None)

    def _merge(self, runs: list[Run], keep_from: NDArray[np.int64]) -> Run:
        """One run of what is still needed of several that lie side by side, written before they are given up."""
        numbers = np.unique(np.concatenate([run.streams[keep_from[run.streams] <= run.last_ns] for run in runs]))
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
                rows = np.frombuffer(os.pread(self._file, (end - first) * RECORD.itemsize,
                                              run.records_at + first * RECORD.itemsize), RECORD).copy()
                rows["offset"] += np.uint32((size - begin) & 0xFFFF_FFFF)
                records.append(rows)
                payload.append(np.frombuffer(os.pread(self._file, stop - begin, run.payload_at + begin), np.uint8))
                count, size = count + end - first, size + stop - begin
            starts.append(count)
            payload_starts.append(size)
        known = [self.streams[number] for number in numbers.tolist() if number in self.streams]
        replaced = [run.replaces if any(run.replaces) else (run.sequence, run.sequence) for run in runs]
        self._sequence += 1
        merged = Run(min(run.first_ns for run in runs), max(run.last_ns for run in runs), numbers, np.array(starts, np.uint32),
                     np.array(known, STREAM) if known else np.zeros(0, STREAM), runs[0].packets[:0], np.zeros(0, np.uint8),
                     np.concatenate(records), np.concatenate(payload), np.array(payload_starts, np.uint32), self._sequence,
                     (min(first for first, _ in replaced), max(last for _, last in replaced)))
        self._put(merged, merged=True)
        self.merged_bytes += merged.size
        merged.records = merged.payload = None
        merged.fresh = merged.fresh[:0]
        return merged


def _neighbours(runs: list[Run], places: dict[int, int]) -> Iterator[list[Run]]:
    """Runs of one segment in groups between which no other run lies in time: what is merged must not overtake anything."""
    group = runs[:1]
    for run in runs[1:]:
        if places[id(run)] != places[id(group[-1])] + 1:
            yield group
            group = []
        group.append(run)
    yield group


def read_segments(path: Path) -> Iterator[tuple[int, NDArray[np.void], Iterator[Run]]]:
    """What a spool's file says by itself: of each segment its epoch, the streams alive at its begin, and its runs up to
    the first damaged one.

    Ends at the first place where no segment begins. Raises OSError where the file cannot be read.
    """
    data = memoryview(path.read_bytes())
    base = 0
    while base + _SEGMENT_HEADER <= len(data) and data[base:base + 8] == _MAGIC:
        _, epoch, sequence, count, size = _SEGMENT.unpack_from(data, base)
        end = _SEGMENT_HEADER + count * STREAM.itemsize
        if size < end or base + size > len(data):
            return
        table = np.frombuffer(data[base + _SEGMENT_HEADER:base + end], STREAM)
        yield epoch, table, _runs_of(data, base, size, end, epoch, sequence)
        base += size


def _runs_of(data: memoryview, base: int, size: int, at: int, epoch: int, last: int) -> Iterator[Run]:
    at = -(-at // 8) * 8
    while at + HEADER_SIZE <= size:
        try:
            run = Run.parse(data[base + at:base + size], epoch)
        except DamagedRunError:
            return
        if run.sequence < last:
            return  # left from an earlier use of the place
        last = run.sequence + 1
        run.place(-1, base + at)
        yield run
        at += run.size
