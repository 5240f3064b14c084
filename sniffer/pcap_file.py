"""Capture files as a source of packets: pcap and pcapng, plain or compressed with gzip, from a path or standard input."""

from __future__ import annotations

import os
import select
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.errors import CaptureError, CapturePermissionError
from rokuon.sniffer.packet import SLACK, PacketBatch
from rokuon.sniffer.pcap_format import MAGIC_SIZE, RECORD_MAX, Format, format_of
from rokuon.sniffer.pcap_times import Times

__all__ = ["CHUNK", "CaptureError", "CaptureFile", "CapturePermissionError", "open_capture"]

CHUNK = 1 << 22
"""Larger ones fall out of the cache, smaller ones cost more steps than bytes."""
CHUNK_MIN = 1 << 10
ZIPPED_PIECE = 1 << 18
LINGER_S = 0.05
"""How long a pipe that has nothing more at the moment is waited for before what came is handed on."""


def one_line(name: str) -> str:
    """A file's name as it may be shown: whatever it is made of, it stays one printable line."""
    return "".join(c if c.isprintable() else "�" for c in name.encode(errors="replace").decode(errors="replace"))


class ByteStream:
    """The bytes of a file, decompressed; a regular file may be closed in between and goes on where it was."""

    def __init__(self, path: str) -> None:
        """Open `path` ("-": standard input). Raises OSError."""
        self._path = path
        self._fd: int | None = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise IsADirectoryError("is a directory")
        self.regular = stat.S_ISREG(status.st_mode) and path != "-"
        self.size: int | None = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.bytes_read = 0
        self.damage: str | None = None
        """Why the stream ended early."""
        self._head = b""
        self._inflate: zlib._Decompress | None = None
        self._zipped = b""
        self._step = ZIPPED_PIECE
        """Bytes that are decompressed at once; fewer where damage is near."""
        while len(self._head) < 2 and (more := self._read_some()):
            self._head += more
        if self._head[:2] == b"\x1f\x8b":
            self._inflate, self._zipped, self._head = zlib.decompressobj(31), self._head, b""

    def _read_some(self) -> bytes:
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            os.lseek(self._fd, self.bytes_read, os.SEEK_SET)
        piece = os.read(self._fd, MAGIC_SIZE if not self.bytes_read else ZIPPED_PIECE)
        self.bytes_read += len(piece)
        return piece

    def readinto(self, into: memoryview) -> int:
        """Fill up `into` as far as bytes are there; 0 at the end. What breaks the stream is told by `damage`."""
        if self.damage or not len(into):
            return 0
        try:
            if self._head:
                count = min(len(self._head), len(into))
                into[:count], self._head = self._head[:count], self._head[count:]
                return count
            if self._inflate is not None:
                return self._inflate_into(into)
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                os.lseek(self._fd, self.bytes_read, os.SEEK_SET)
            count = os.readv(self._fd, [into])
        except OSError as error:
            self.damage = error.strerror or str(error)
            return 0
        self.bytes_read += count
        return count

    def unread(self, head: bytes) -> None:
        """Give back what was read last: it is read again first."""
        self._head = head + self._head

    def _inflate_into(self, into: memoryview) -> int:
        while True:
            assert self._inflate is not None
            if not self._zipped and not self._inflate.eof:
                self._zipped = self._read_some()
                if not self._zipped:
                    self.damage = "gzip data cut short"
                    return 0
            before = self._inflate.copy()
            try:
                piece = self._inflate.decompress(self._zipped[:self._step], len(into))
            except zlib.error:
                if self._step == 1:
                    self.damage = "gzip data damaged"
                    return 0
                # It gives nothing of what it had before it met the damage: come near in smaller steps.
                self._inflate, self._step = before, self._step >> 3
                continue
            rest = self._zipped[self._step:]
            self._zipped = self._inflate.unconsumed_tail + rest
            if self._inflate.eof:
                # Members follow one another (RFC 1952 section 2.2); what is behind the last, or padding, is not ours.
                self._zipped = (self._inflate.unused_data + rest).lstrip(b"\0") or self._read_some().lstrip(b"\0")
                if self._zipped[:1] == b"\x1f":
                    self._inflate = zlib.decompressobj(31)
                elif not piece:
                    return 0
            if piece:
                into[:len(piece)] = piece
                return len(piece)

    def waits(self) -> bool:
        """Whether a reader might have to wait long for more bytes (never for a regular file)."""
        return not self.regular and self._fd is not None and not self._zipped and not self._head \
            and not select.select([self._fd], [], [], LINGER_S)[0]

    def park(self) -> None:
        """Give back the descriptor of a regular file until more is read from it."""
        if self.regular:
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None and self._path != "-":
            os.close(self._fd)
        self._fd = None

_FCS = 4
"""Some count the frame check sequence to the length on the wire, which no card hands over: that is no cut."""


def _joined(one: PacketBatch, other: PacketBatch) -> PacketBatch:
    """Both, of one buffer."""
    return PacketBatch(other.data, *(np.concatenate([getattr(one, name), getattr(other, name)]) for name in (
        "offset", "captured_length", "wire_length", "time_ns", "link_type", "capture_point")))


class CaptureFile:
    """One capture file; iterate for its packets, in the order they are stored.

    `warnings` is complete after the last batch.
    The buffer of a batch is used again for the next one.
    """

    def __init__(self, path: Path | str, *, chunk: int = CHUNK, lanes: int | None = None) -> None:
        """Open and read the file's header; see `open_capture`."""
        self.name = "standard input" if str(path) == "-" else one_line(str(path))
        self._warnings: list[str] = []
        self.packets = 0
        """Given out so far."""
        self._cut = 0
        """Of them such as are not whole."""
        self._times = Times()
        self.chunk = max(chunk, CHUNK_MIN)
        """Bytes read at once; may be set before the first batch is asked for."""
        self._begin = self._end = 0
        self._base = 0
        """Where in the (decompressed) file the buffer's first byte is."""
        self._over = False
        try:
            self._stream = ByteStream(str(path))
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror or error}") from None
        self._data: NDArray[np.uint8] = np.empty(0, np.uint8)
        try:
            self._format = self._open()
        except CaptureError:
            self._stream.close()
            raise

    def _open(self) -> Format:
        start = bytearray(MAGIC_SIZE)
        have = 0
        while have < MAGIC_SIZE and (more := self._stream.readinto(memoryview(start)[have:])):
            have += more
        if not have:
            raise CaptureError(f"{self.name}: {self._stream.damage or 'empty file'}")
        try:
            found = format_of(bytes(start[:have]))
        except ValueError as error:
            raise CaptureError(f"{self.name}: {self._stream.damage or error}") from None
        self._stream.unread(bytes(start[found.header:have]))
        self._base = found.header
        return found

    @property
    def warnings(self) -> list[str]:
        """What kept the file from being read to its end or is wrong with its packets, one line each."""
        if not self._times.mended:
            return self._warnings
        return [*self._warnings, f"{self.name}: {self._times.mended:,} of {self.packets:,} packets are dated long after what "
                                 "follows them; they are taken to be of the time before them"]

    @property
    def bytes_read(self) -> int:
        """Of the file as it lies on disk."""
        return self._stream.bytes_read

    @property
    def size(self) -> int | None:
        """Of the file as it lies on disk, in bytes; None for a pipe."""
        return self._stream.size

    @property
    def regular(self) -> bool:
        """Whether the file could be opened once more and would say the same."""
        return self._stream.regular

    @property
    def room(self) -> int:
        """Bytes of buffer that this file needs: a chunk, a record that began before it, `SLACK` behind it."""
        return self.chunk + RECORD_MAX + SLACK

    def use_buffer(self, data: NDArray[np.uint8]) -> None:
        """Read into this array of `room` bytes from now on; what is not yet given out moves with it."""
        self._to_front(data)
        self._data = data

    def follow_buffer(self, data: NDArray[np.uint8]) -> None:
        """The buffer was moved to this array, with all that is in it."""
        self._data = data

    def _to_front(self, data: NDArray[np.uint8]) -> None:
        """Move what is not yet given out to the front of `data` (the buffer itself, or the next one)."""
        done = min(self._begin, self._end)
        left = self._end - done
        data.data[:left] = self._data.data[done:self._end]
        self._base += done
        self._begin, self._end = self._begin - done, left

    def park(self) -> None:
        """Give back the descriptor until the next batch is asked for."""
        self._stream.park()

    def __iter__(self) -> Iterator[PacketBatch]:
        return self

    def __next__(self) -> PacketBatch:
        batch = self._next_batch()
        while not self._times.mend(batch.time_ns, more=self._begin < self._end and not self._over):
            try:
                batch = _joined(batch, self._next_batch(in_buffer=True))
            except StopIteration:
                self._times.mend(batch.time_ns)
                break
        return batch

    def _next_batch(self, in_buffer: bool = False) -> PacketBatch:
        """The next packets as their records have it; `in_buffer`: if they are read already. Raises StopIteration."""
        while not self._over:
            parsed = self._format.parse(self._data, self._begin, self._end)
            moved = parsed.end > self._begin
            self._begin = parsed.end
            if parsed.batch is not None:
                self.packets += len(parsed.batch)
                short = parsed.batch.wire_length - parsed.batch.captured_length
                self._cut += int(np.count_nonzero(short > _FCS))
            if parsed.damage:
                self._finish(parsed.damage)
            if parsed.batch is not None:
                return parsed.batch
            if not moved and not self._over:
                if in_buffer:
                    break
                self._fill()
        raise StopIteration

    def _fill(self) -> None:
        """Move what is left to the buffer's front and read on behind it; at the file's end, finish."""
        if not len(self._data):
            self._data = np.empty(self.room, np.uint8)
        data = self._data.data
        self._to_front(self._data)
        while self._begin:  # a long block that holds nothing for us
            skipped = self._stream.readinto(data[:min(self._begin, self.chunk)])
            if not skipped:
                self._base, self._begin = self._base + self._begin, 0
                self._finish(self._stream.damage or "cut short inside a block")
                return
            self._base += skipped
            self._begin -= skipped
        left = self._end
        stop = left + self.chunk
        while self._end < stop:
            count = self._stream.readinto(data[self._end:stop])
            if not count:
                break
            self._end += count
            if self._stream.waits():
                break
        if self._end == left:
            self._finish(self._stream.damage or ("cut short inside a record" if left else None))

    def _finish(self, damage: str | None) -> None:
        self._over = True
        if damage:
            self._warnings.append(f"{self.name}: {damage}; read up to packet {self.packets:,}, byte {self._base + self._begin:,}")
        if self._cut:
            self._warnings.append(f"{self.name}: {self._cut:,} of {self.packets:,} packets are not whole (captured with a snap "
                                 "length?): signalling and sound may be missing")
        self._warnings += [f"{self.name}: {note}" for note in self._format.notes]
        self._stream.close()

    def close(self) -> None:
        """Close the file; there are no more batches."""
        self._over = True
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_capture(path: Path | str, *, chunk: int = CHUNK) -> CaptureFile:
    """Open a capture: pcap (micro- and nanoseconds, either byte order) or pcapng, plain or gzip; "-" is standard input.

    `chunk`: bytes that are read at once, and so roughly the size of a batch.
    Raises CaptureError for a file that is missing, unreadable, empty, or no capture.
    """
    return CaptureFile(path, chunk=chunk)
