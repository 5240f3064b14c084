"""Several capture files as one source: all packets in the order of their times."""

from __future__ import annotations

import mmap
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.pcap_file import CHUNK, CaptureError, CaptureFile, one_line

__all__ = ["MergedCaptures", "open_captures"]

PEEK = 1 << 16
CHUNK_MIN = 1 << 16
NOTHING = np.empty(0, np.uint8)
LATEST = (1 << 63) - 1
OPEN_MAX = 32
"""With more files than this at once, descriptors are given back between two reads."""


def join(pieces: Sequence[PacketBatch], order: NDArray[np.int64]) -> PacketBatch:
    """One batch of pieces that share a buffer; its rows are theirs, one after the other, taken in `order`."""
    return PacketBatch(pieces[0].data, *(np.concatenate([getattr(piece, name) for piece in pieces])[order] for name in (
        "offset", "captured_length", "wire_length", "time_ns", "link_type", "capture_point")))


def cut(batch: PacketBatch, begin: int, end: int, data: NDArray[np.uint8]) -> PacketBatch:
    """Rows `begin` to `end`; the buffer may have moved to `data`."""
    rows = slice(begin, end)
    return PacketBatch(data, batch.offset[rows], batch.captured_length[rows], batch.wire_length[rows], batch.time_ns[rows],
                       batch.link_type[rows], batch.capture_point[rows])


class Arena:
    """One buffer that the files which are being merged share, so that a batch of several files' packets needs no copy."""

    def __init__(self) -> None:
        self.data: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._memory = os.memfd_create("captures", os.MFD_CLOEXEC)
        self._top = 0
        self._free: list[tuple[int, int]] = []

    def take(self, size: int) -> tuple[int, int]:
        """A span of at least `size` bytes: where it begins and how long it is. The buffer may move, the spans' places stay."""
        fitting = min((span for span in self._free if span[1] >= size), key=lambda span: span[1], default=None)
        if fitting is not None:
            self._free.remove(fitting)
            return fitting
        size += -size % mmap.PAGESIZE
        begin, self._top = self._top, self._top + size
        if self._top > len(self.data):
            # Pages that no file reads into are never touched, as long as they are not made huge. What was read stays where it is:
            # the larger buffer is another view of the same memory.
            os.ftruncate(self._memory, 2 * self._top)
            pages = mmap.mmap(self._memory, 2 * self._top)
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                pages.madvise(mmap.MADV_NOHUGEPAGE)
            self.data = np.frombuffer(pages, np.uint8)
        return begin, size

    def __del__(self) -> None:
        os.close(self._memory)

    def give(self, span: tuple[int, int]) -> None:
        """Give a span back."""
        self._free.append(span)


@dataclass(slots=True)
class Piece:
    """A batch of which a part may be given out already."""

    batch: PacketBatch
    keys: NDArray[np.int64]
    """What its packets are merged by: the latest time in the file so far, so that a file keeps its own order."""
    span: int
    """Which of the file's two spans it lies in."""
    next: int = 0


@dataclass(slots=True)
class Reader:
    """A file that is being merged. It reads up to two batches ahead, into two spans in turn."""

    file: CaptureFile
    spans: list[tuple[int, int]]
    rank: int = 0
    """Which of two packets of the same time comes first."""
    pieces: deque[Piece] = field(default_factory=deque)
    latest_ns: int = -(1 << 63)
    """What comes behind the pieces does not belong before this."""
    over: bool = False
    span: int = 0
    """Which of the spans the file reads into."""

    def follow(self, arena: Arena) -> None:
        """The arena has moved."""
        begin, size = self.spans[self.span]
        self.file.follow_buffer(arena.data[begin:begin + size])

    def read(self, arena: Arena) -> None:
        """Queue the next batch."""
        span = 1 - self.pieces[-1].span if self.pieces else 0
        begin, size = self.spans[span]
        self.file.use_buffer(arena.data[begin:begin + size])
        self.span = span
        batch = next(self.file, None)
        if batch is None:
            self.over = True
            return
        batch.offset += begin
        batch.data = NOTHING  # the arena may have moved when it is its turn
        keys = np.maximum.accumulate(batch.time_ns)
        np.maximum(keys, self.latest_ns, out=keys)
        self.latest_ns = int(keys[-1])
        self.pieces.append(Piece(batch, keys, span))

    def cut(self, until: int, including: bool, data: NDArray[np.uint8]) -> Iterator[tuple[PacketBatch, NDArray[np.int64], int]]:
        """Give out what belongs before `until` (or also at that time), with its keys and the file's rank."""
        while self.pieces:
            piece = self.pieces[0]
            end = int(np.searchsorted(piece.keys, until, "right" if including else "left"))
            if end > piece.next:
                yield cut(piece.batch, piece.next, end, data), piece.keys[piece.next:end], self.rank
                piece.next = end
            if end < len(piece.keys):
                return
            self.pieces.popleft()


class Overlap:
    """Finds packets that several files hold because they overlap: same time, same bytes, in different files."""

    def __init__(self) -> None:
        self.count = 0
        self._time_ns = -(1 << 63)
        self._seen: dict[tuple[object, ...], dict[int, int]] = {}
        """Packets of the newest time, and how often each file had them."""

    def rows(self, batch: PacketBatch, files: NDArray[np.int64]) -> NDArray[np.intp] | None:
        """Rows to be kept (None: all) of packets in order of time; `files`: where each is from."""
        time_ns = batch.time_ns
        again = time_ns[1:] == time_ns[:-1]
        shared = np.zeros(len(batch), np.bool_)
        if time_ns[0] == self._time_ns or (again & (files[1:] != files[:-1])).any():
            shared[0] = time_ns[0] == self._time_ns
            shared[1:] |= again
            shared[:-1] |= again
        shared[int(np.flatnonzero(np.append(True, ~again))[-1]):] = True  # the next batch may go on at this time
        rows = np.flatnonzero(shared)
        gone = []
        for row, file in zip(rows.tolist(), files[rows].tolist(), strict=True):
            at, size, now = int(batch.offset[row]), int(batch.captured_length[row]), int(time_ns[row])
            if now != self._time_ns:
                self._time_ns = now
                self._seen = {}
            key = (batch.data[at:at + size].tobytes(), int(batch.wire_length[row]), int(batch.link_type[row]),
                   int(batch.capture_point[row]))
            had = self._seen.setdefault(key, {})
            most = max(had.values(), default=0)
            had[file] = had.get(file, 0) + 1
            if had[file] <= most:
                gone.append(row)
        self.count += len(gone)
        return np.setdiff1d(np.arange(len(batch)), gone) if gone else None


_CAPTURE = re.compile(r"\.(pcap|pcapng|cap|dmp)\d*(\.gz)?$", re.IGNORECASE)
"""Names that say that a file is one."""


@dataclass(slots=True)
class Candidate:
    """A file whose turn has not come yet."""

    path: str
    first_ns: int
    reader: Reader | None = None
    """Of a pipe, which cannot be opened once more."""


class MergedCaptures:
    """Iterate for the packets of all files, those of a file in its own order, files against each other by time.

    Of packets of the same time those of the file that begins earlier come first, then those of the file named first.
    A packet that several files hold, at the same time, is given out once.
    A file is read only when its first packet's turn comes, so a ring of any number of files is read as one.
    """

    def __init__(self, paths: Sequence[Path | str], *, chunk: int = CHUNK) -> None:
        """See `open_captures`."""
        self._chunk = chunk
        self._warnings: list[str] = []
        self._packets = 0
        self._done_bytes = 0
        self._arena = Arena()
        self._active: list[Reader] = []
        self._waiting: deque[Candidate] = deque()
        self._rank = 0
        self._overlap = Overlap()
        self.size: int | None = 0
        """Bytes of all files together; None where one is a pipe."""
        try:
            for path in self._expand(paths):
                self._look_at(path)
        except BaseException:
            self.close()
            raise
        self._waiting = deque(sorted(self._waiting, key=lambda candidate: candidate.first_ns))
        self._batches = self._merge()

    def _expand(self, paths: Sequence[Path | str]) -> Iterator[str]:
        """The files that are meant, each once."""
        seen = set()
        for path in map(str, paths):
            names = [path]
            if path != "-" and os.path.isdir(path):
                names = self._captures_in(path)
            for name in names:
                real = name if name == "-" else os.path.realpath(name)
                if real not in seen:
                    seen.add(real)
                    yield name

    def _captures_in(self, directory: str) -> list[str]:
        """The captures that lie directly in a directory."""
        shown = one_line(directory)
        try:
            names = sorted(entry.path for entry in os.scandir(directory) if entry.is_file())
        except OSError as error:
            raise CaptureError(f"{shown}: {error.strerror or error}") from None
        found, others = [], []
        for name in names:
            try:
                CaptureFile(name).close()
            except CaptureError as error:
                if _CAPTURE.search(name):
                    self._warnings.append(f"{error}; skipped")
                else:
                    others.append(one_line(os.path.basename(name)))
            else:
                found.append(name)
        if others:
            which = f"{others[0]} is no capture" if len(others) == 1 else f"{len(others):,} files are no captures ({others[0]} …)"
            self._warnings.append(f"{shown}: {which}; skipped")
        if not found:
            raise CaptureError(f"{shown}: no capture in this directory")
        return found

    def _look_at(self, path: str) -> None:
        """Open a file, so that what cannot be read is known before anything is recorded, and see when it begins."""
        file = CaptureFile(path, chunk=PEEK)
        if self.size is not None:
            self.size = None if file.size is None else self.size + file.size
        if file.regular:
            with file:
                batch = next(file, None)
                if batch is None:
                    self._retire(file)
                else:
                    self._waiting.append(Candidate(path, int(batch.time_ns[0])))
            return
        file.chunk = self._chunk
        reader = self._reader(file)
        reader.read(self._arena)
        if reader.over:
            self._retire(file)
        else:
            self._waiting.append(Candidate(path, int(reader.pieces[0].keys[0]), reader))

    def _reader(self, file: CaptureFile) -> Reader:
        before = self._arena.data
        spans = [self._arena.take(file.room), self._arena.take(file.room)]
        if self._arena.data is not before:
            for reader in self._readers():
                reader.follow(self._arena)
        return Reader(file, spans)

    def _readers(self) -> list[Reader]:
        """All that have begun."""
        return [*self._active, *(candidate.reader for candidate in self._waiting if candidate.reader)]

    def _activate(self) -> None:
        """Begin with the file whose turn it is."""
        candidate = self._waiting.popleft()
        reader = candidate.reader
        if reader is None:
            chunk = max(min(CHUNK_MIN, self._chunk), self._chunk // (len(self._active) + 1))
            try:
                reader = self._reader(CaptureFile(candidate.path, chunk=chunk))
            except CaptureError as error:  # it could be read a moment ago
                self._warnings.append(str(error))
                return
        reader.rank = self._rank
        self._rank += 1
        self._active.append(reader)

    def _retire(self, file: CaptureFile) -> None:
        """Keep what is to be known of a file that is read to its end."""
        self._warnings += file.warnings
        self._done_bytes += file.bytes_read
        file.close()

    def _refill(self) -> None:
        """Have something of every active file at hand; let go of those that are through."""
        for reader in self._active:
            while not reader.over and len(reader.pieces) < (1 if len(self._active) == 1 else 2):
                reader.read(self._arena)
                if len(self._active) > OPEN_MAX:
                    reader.file.park()
        for reader in [reader for reader in self._active if reader.over and not reader.pieces]:
            self._active.remove(reader)
            self._retire(reader.file)
            for span in reader.spans:
                self._arena.give(span)

    def _merge(self) -> Iterator[PacketBatch]:
        while self._active or self._waiting:
            self._refill()
            # Up to where nothing can come any more that belongs before it, and whose packets of that very time are first.
            limits = [(reader.latest_ns, reader.rank) for reader in self._active if not reader.over]
            if self._waiting:
                limits.append((self._waiting[0].first_ns, self._rank))
            until, rank = min(limits, default=(LATEST, self._rank))
            found = [piece for reader in self._active for piece in reader.cut(until, reader.rank <= rank, self._arena.data)]
            if found:
                batches, keys, ranks = zip(*found, strict=True)
                if len(found) == 1:
                    batch, files = batches[0], np.full(len(keys[0]), ranks[0])
                else:
                    order = np.argsort(np.concatenate(keys), kind="stable")
                    batch, files = join(batches, order), np.repeat(ranks, [len(k) for k in keys])[order]
                kept = self._overlap.rows(batch, files) if self._rank > 1 or self._waiting else None
                if kept is not None:
                    batch = join([batch], kept)
                self._packets += len(batch)
                if len(batch):
                    yield batch
            elif self._waiting:
                self._activate()

    def __iter__(self) -> Iterator[PacketBatch]:
        return self._batches

    def __next__(self) -> PacketBatch:
        return next(self._batches)

    @property
    def warnings(self) -> list[str]:
        """What could not be read, one line each; complete after the last batch."""
        return [*self._warnings, *(line for reader in self._active for line in reader.file.warnings)]

    @property
    def bytes_read(self) -> int:
        """Of the files as they lie on disk, for comparison with `size`."""
        return self._done_bytes + sum(reader.file.bytes_read for reader in self._active)

    def stats(self) -> Mapping[str, int]:
        """See `Source`."""
        return {"packets": self._packets, "bytes_read": self.bytes_read}

    @property
    def copies(self) -> int:
        """Packets that were left out because another file holds them too."""
        return self._overlap.count

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers():
            reader.file.close()
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_captures(paths: Sequence[Path | str], *, chunk: int = CHUNK) -> MergedCaptures:
    """Open captures, or directories of them ("-": standard input), as one source in the order of packet times.

    A directory stands for the captures that lie directly in it; what else lies there is left out with a warning.
    Damage further on in a file is a warning once it is met.
    Raises CaptureError if any of them is missing, unreadable, empty or no capture, or a directory holds none.
    """
    return MergedCaptures(paths, chunk=chunk)
