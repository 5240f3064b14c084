"""Writing the spool: runs into segment files, by a thread whose bounded queue rides out a disk that stalls.

A segment is a file of the spool's directory, made in one piece, and named by a number that only goes up. It begins with its
epoch (one for each start of capture), the sequence number of its first run, and its size; runs follow, each with its own length
and checksum, their sequence numbers ascending. What an earlier use of the same file left behind the newest run has an older
epoch or a lower sequence number and is not read. Whoever reads the spool gives a segment back by renaming it to `free-…`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rokuon.store.layout import make_way
from rokuon.store.runs import Run

__all__ = ["HEAD", "SEGMENT_HEADER", "SEGMENT_NAME", "UNHEARD_OF", "Head", "HeadState", "SpoolWriter", "segment_header"]

SEGMENT_NAME = re.compile(r"(free-)?(m?)(\d{8,12})\.seg", re.ASCII)
SEGMENT_HEADER = 64
HEAD = "head"
"""Name of the file that says how far a source's spool is written."""
_SEGMENT = struct.Struct("<8sQQQ")
_MAGIC = b"RKSEG\x00\x00\x02"
UNHEARD_OF = 10**11
"""No segment has such a number: a file of somebody else's."""
_IOV = 512
_GRAIN = 1 << 16
_OWED_BYTES = 32 << 20
_RETRY_S = 1.0
_HEAD = struct.Struct("<Q8sQQQqq64sQ")
_HEAD_MAGIC = b"RKHEAD\x00\x02"


def segment_header(data: bytes | memoryview) -> tuple[int, int, int] | None:
    """Epoch, sequence number of the first run and size of the segment with these first bytes; None: it is none."""
    if len(data) < SEGMENT_HEADER:
        return None
    magic, epoch, sequence, size = _SEGMENT.unpack_from(data)
    return (epoch, sequence, size) if magic == _MAGIC else None


class HeadState(NamedTuple):
    """How far a source's spool is written."""

    counter: int
    epoch: int
    used: int
    """Bytes of the segment that hold whole runs."""
    sequence: int
    """Of the newest run."""
    now_ns: int
    """All packets up to this packet time are in the spool; it goes on while none come."""
    beat_ns: int
    """Monotonic clock, when it was last renewed."""
    segment: str


class Head:
    """A small file in which the writer of a spool tells its reader how far it is. Losing it costs a second look at the newest
    segment. Written and read as a whole, with a counter at both ends: no memory is shared, for a store into a mapped page stops
    the whole process while the file system is frozen.
    """

    def __init__(self, path: Path, write: bool = False) -> None:
        """Raises OSError, also where there is none to read yet."""
        if write:
            make_way(path)
        self._file = os.open(path, (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | os.O_CLOEXEC, 0o640)
        before = self._read() if write else None
        self._counter = before.counter if before is not None else 0
        self.epoch = before.epoch if before is not None else 0
        """Of whoever wrote it before."""
        self._values = (0, 0, 0, 0, b"")

    def write(self, epoch: int, segment: str, used: int, sequence: int, now_ns: int) -> None:
        """Says how far the spool is written."""
        self._values = (epoch, used, sequence, now_ns, segment.encode())
        self._put(time.monotonic_ns())

    def beat(self, epoch: int, now_ns: int) -> None:
        """Time has passed, and nothing is waiting to be written."""
        _, used, sequence, before, segment = self._values
        self._values = (epoch, used, sequence, max(before, now_ns), segment)
        self._put(time.monotonic_ns())

    def leave(self) -> None:
        """The writer is about to end, on purpose."""
        self._put(0)

    def _put(self, beat_ns: int) -> None:
        epoch, used, sequence, now_ns, segment = self._values
        self._counter += 1
        with contextlib.suppress(OSError):  # readers then take longer
            os.pwrite(self._file, _HEAD.pack(self._counter, _HEAD_MAGIC, epoch, used, sequence, now_ns, beat_ns, segment,
                                             self._counter), 0)

    def read(self) -> HeadState | None:
        """What it says; None where that is nothing sound."""
        for _ in range(100):
            state = self._read()
            if state is not None:
                return state
        return None

    def _read(self) -> HeadState | None:
        data = b""
        with contextlib.suppress(OSError):  # it is a directory, say
            data = os.pread(self._file, _HEAD.size, 0)
        if len(data) < _HEAD.size:
            return None
        counter, magic, epoch, used, sequence, now_ns, beat_ns, name, again = _HEAD.unpack(data)
        segment = name.rstrip(b"\0").decode("ascii", "replace")
        if magic != _HEAD_MAGIC or counter != again or (segment and not SEGMENT_NAME.fullmatch(segment)):
            return None
        return HeadState(counter, epoch, used, sequence, now_ns, beat_ns, segment)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)


class SpoolWriter:
    """The one who adds runs to a directory of segments."""

    def __init__(self, directory: Path, *, segment_bytes: int = 64 << 20, epoch: int = 1, prefix: str = "", sync: bool = False,
                 queue_bytes: int = 64 << 20, patient: bool = True, room: Callable[[int], bool] | None = None,
                 head: Head | None = None, first: int = 1) -> None:
        """`prefix`: "m" for merged runs, whose files are not used again. `sync`: runs are flushed to the disk, not only to the
        kernel. `patient`: `append` waits where the queue is full, and an error of the disk is raised; else packets are let go
        and counted in `not_written`. `room`: whether a segment of so many bytes may be made. `first`: number of the first
        segment where there is none; not to be one that there ever was.
        """
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.epoch = epoch
        self.not_written: Counter[str] = Counter()
        """Packets by reason: "disk-slow" (the queue was full), "spool-full", "disk-full", "disk-error"."""
        self.error: OSError | None = None
        self.recycled = 0
        self.current = ""
        """Name of the segment that is being written."""
        self._prefix, self._sync, self._patient, self._room, self._head = prefix, sync, patient, room, head
        self._queue: deque[tuple[Run, int]] = deque()
        self._limit = queue_bytes
        self.waiting_bytes = 0
        self._changed = threading.Condition()
        self._stopping = self._beating = False
        self._now_ns = 0
        self._owed: deque[Run] = deque()
        self._owed_bytes = 0
        self._retry = 0.0
        self._reason = "disk-full"
        self._file = -1
        self._used = self._size = 0
        self._sequence = 0
        numbers = (int(m[3]) for name in os.listdir(directory) if (m := SEGMENT_NAME.fullmatch(name)))
        self._next = max((number for number in numbers if number < UNHEARD_OF), default=first - 1) + 1
        self._thread = threading.Thread(target=self._work, name="spool-writer", daemon=True)
        self._thread.start()

    # -- in ------------------------------------------------------------------
    def append(self, run: Run) -> None:
        """Takes the run to be written. OSError where an earlier write failed, of a patient writer."""
        size = run.size
        with self._changed:
            if self._patient:
                while self.waiting_bytes > self._limit and self.error is None:
                    self._changed.wait()
                if self.error is not None:
                    raise self.error
            elif self.waiting_bytes + size > self._limit:
                run = self._without_voice(run, "disk-slow")
                size = run.size
                if self.waiting_bytes + size > 2 * self._limit:
                    self.not_written["disk-slow"] += len(run.packets)
                    return
            self._queue.append((run, size))
            self.waiting_bytes += size
            self._changed.notify_all()

    def _without_voice(self, run: Run, reason: str) -> Run:
        """What is kept of a run in any case: new streams and signalling, which are small."""
        count = 0 if run.records is None else len(run.records)
        self.not_written[reason] += count
        bare = Run.empty(run.first_ns, run.last_ns)
        bare.fresh, bare.packets, bare.packet_bytes, bare.dropped = run.fresh, run.packets, run.packet_bytes, run.dropped + count
        return bare

    def beat(self, now_ns: int) -> None:
        """Tells readers that time has passed to `now_ns`, packet time, as soon as nothing is waiting to be written."""
        with self._changed:
            self._now_ns = max(self._now_ns, now_ns)
            self._beating = self._head is not None
            self._changed.notify_all()

    def drain(self) -> None:
        """Returns when all that was taken is written, and on the disk where that was asked for. Raises OSError: see `append`."""
        with self._changed:
            while self._queue and self.error is None:
                self._changed.wait()
            if self.error is not None:
                raise self.error

    def close(self) -> None:
        """Writes what is waiting, and ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # -- the thread ----------------------------------------------------------
    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self._stopping or self._beating):
                    self._changed.wait(_RETRY_S if self._owed else None)
                    if self._owed:
                        break
                lot, now_ns, beating = list(self._queue), self._now_ns, self._beating
                self._beating = False
            if not lot and self._stopping:
                if self._head is not None:
                    self._head.leave()
                return
            if self._owed and time.monotonic() >= self._retry:
                self._pay()
            if beating and not lot and not self._owed and self._head is not None:
                self._head.beat(self.epoch, now_ns)
            for run, size in lot:
                self._take(run)
                if not self._sync:
                    self._done(1, size)
            if self._sync and lot:
                if self._file >= 0:
                    try:
                        os.fdatasync(self._file)
                    except OSError as error:
                        self.error = self.error or (error if self._patient else None)
                self._done(len(lot), sum(size for _, size in lot))

    def _done(self, count: int, size: int) -> None:
        with self._changed:
            for _ in range(count):
                self._queue.popleft()
            self.waiting_bytes -= size
            self._changed.notify_all()

    def _take(self, run: Run) -> None:
        if self.error is not None:
            return
        try:
            if self._owed or time.monotonic() < self._retry:
                raise OSError(errno.EAGAIN, "not yet")
            self._write(run)
        except OSError as error:
            self._fail(run, error)
        except Exception as error:  # else whoever waits for this thread waits for ever
            self._fail(run, OSError(errno.EIO, f"{type(error).__name__}: {error}"))

    def _fail(self, run: Run, error: OSError) -> None:
        if self._patient:
            self.error = error
            return
        reason = {errno.EDQUOT: "disk-full", errno.ENOSPC: "disk-full", errno.EFBIG: "spool-full",
                  errno.EAGAIN: self._reason}.get(error.errno or 0, "disk-error")
        self._reason = reason
        if error.errno != errno.EAGAIN:
            self._retry = time.monotonic() + _RETRY_S
            self._give_up_segment()
        bare = self._without_voice(run, reason)
        self._owed.append(bare)
        self._owed_bytes += bare.size
        while self._owed_bytes > _OWED_BYTES:
            gone = self._owed.popleft()
            self._owed_bytes -= gone.size
            self.not_written[reason] += len(gone.packets)

    def _pay(self) -> None:
        """Writes the signalling that could not be written before."""
        while self._owed:
            try:
                self._write(self._owed[0])
            except OSError:
                self._give_up_segment()
                self._retry = time.monotonic() + _RETRY_S
                return
            self._owed_bytes -= self._owed.popleft().size

    def _give_up_segment(self) -> None:
        """After a failed write nobody knows what lies behind the last run: the next one begins another segment."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._used, self._size = -1, 0, 0

    def _write(self, run: Run) -> None:
        size = run.size
        head = b""
        self._sequence += 1
        run.sequence = self._sequence
        if self._file < 0 or self._used + size > self._size:
            self._begin(SEGMENT_HEADER + size)
            head = _SEGMENT.pack(_MAGIC, self.epoch, run.sequence, self._size).ljust(SEGMENT_HEADER, b"\0")
        at = self._used + len(head)
        parts = run.sections()
        start = [memoryview(head), memoryview(run.header(run.epoch or self.epoch, parts))]
        _write_all(self._file, [*start, *parts], self._used)
        run.epoch = run.epoch or self.epoch
        run.place(self.current, at)
        self._used = at + size
        if self._head is not None:
            self._head.write(self.epoch, self.current, self._used, run.sequence, run.last_ns)

    def _begin(self, least: int) -> None:
        """Goes on in another segment: one that was given back, or a new one."""
        self._end_segment()
        name = f"{self._prefix}{self._next:08}.seg"
        path = self.directory / name
        self._next += 1
        file, size = (-1, 0) if self._prefix else self._given_back(path, least)
        if file < 0:
            size = max(self.segment_bytes, -(-least // _GRAIN) * _GRAIN)
            if self._room is not None and not self._room(size):
                raise OSError(errno.EFBIG, "the spool is full")
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(file, 0, size)
            except OSError:
                os.close(file)
                path.unlink(missing_ok=True)
                raise
        self._file, self._used, self._size, self.current = file, 0, size, name

    def _end_segment(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                if self._sync:
                    os.fdatasync(file)
            finally:
                os.close(file)

    def _given_back(self, path: Path, least: int) -> tuple[int, int]:
        """A segment that is not needed any more, under its new name; -1: there is none."""
        for name in os.listdir(self.directory):
            if name.startswith("free-") and SEGMENT_NAME.fullmatch(name):
                free = self.directory / name
                with contextlib.suppress(OSError):
                    if not free.is_file():
                        continue
                    size = free.stat().st_size
                    if size >= least and size <= 4 * max(self.segment_bytes, least):
                        free.rename(path)
                        self.recycled += 1
                        return os.open(path, os.O_RDWR | os.O_CLOEXEC), size
                    free.unlink()
        return -1, 0


def _write_all(file: int, parts: list[memoryview], at: int) -> None:
    """Raises OSError."""
    parts = [part for part in parts if len(part)]
    for i in range(0, len(parts), _IOV):
        some = parts[i:i + _IOV]
        size = sum(map(len, some))
        written = os.pwritev(file, some, at)
        if written != size:  # the rest in one piece: rare, and os.pwrite then says what is wrong (a full disk)
            rest = b"".join(some)[written:]
            while rest:
                done = os.pwrite(file, rest, at + written)
                rest, written = rest[done:], written + done
        at += size
