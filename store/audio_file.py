"""WAV files that grow: stereo, 16-bit PCM or G.711 code words (RIFF formats 1, 6 and 7; RFC 2361).

A file appears under its name whole or not at all. What is short is held in memory until it is complete, so that it is
written and hashed in one go; what is long goes to disk as it comes, and header and hash are made up in the end.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.store.durable import give_name
from rokuon.store.layout import DIRECTORY_MODE, FILE_MODE

__all__ = ["AudioFile", "WavFile", "wav_header"]

CHANNELS = 2
TAGS = {"pcm16": (1, 2), "alaw": (6, 1), "ulaw": (7, 1)}
"""WAV format tag and bytes a sample."""
HELD = 6 << 20
"""Bytes that are held in memory before anything is written."""
BLOCK = 1 << 20


class AudioFile(NamedTuple):
    """A finished file."""

    path: Path | str
    """As it was given."""
    format: str
    """"wav/ulaw", "wav/alaw" or "wav/pcm16"."""
    channels: int
    sample_rate: int
    frames: int
    """Samples of each channel."""
    bytes: int
    sha256: str


def wav_header(kind: str, rate: int, size: int) -> bytes:
    """Everything before the samples of a stereo file. `kind`: pcm16, ulaw or alaw; `size`: bytes of samples (even)."""
    tag, width = TAGS[kind]
    frame = CHANNELS * width
    form = struct.pack("<HHIIHH", tag, CHANNELS, rate, rate * frame, frame, 8 * width)
    fact = b""
    if tag != 1:  # other formats than PCM have the size of an extension and say how many samples there are
        form += bytes(2)
        fact = struct.pack("<4sII", b"fact", 4, size // frame)
    chunks = struct.pack("<4sI", b"fmt ", len(form)) + form + fact + struct.pack("<4sI", b"data", size)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks) + size, b"WAVE") + chunks


class WavFile:
    """A stereo WAV file in the making."""

    def __init__(self, path: Path | str, kind: str, rate: int) -> None:
        """`kind`: pcm16, ulaw or alaw; `rate`: samples a second. Nothing is written yet."""
        self.path = path
        self.kind = kind
        self.rate = rate
        self.size = 0
        """Bytes of samples so far."""
        folder, name = os.path.split(path)
        self._temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
        self._held: list[NDArray[np.uint8]] = []
        self._fd = -1

    @property
    def frames(self) -> int:
        """Samples of each channel so far."""
        return self.size // (CHANNELS * TAGS[self.kind][1])

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append interleaved samples; the array is the file's from now on. Raises OSError."""
        if not len(frames):
            return
        self._held.append(frames)
        self.size += len(frames)
        if self._fd >= 0 or self.size > HELD:
            self._spill()

    def close(self, sync: bool = True) -> AudioFile:
        """Write what is left, flush to disk if `sync`, give the file its name. Raises OSError, then nothing is left of it."""
        header = wav_header(self.kind, self.rate, self.size)
        try:
            digest = hashlib.sha256(header)
            if self._fd < 0:
                self._open()
                for part in self._held:
                    digest.update(part.data)
                _write_all(self._fd, [memoryview(header), *(part.data for part in self._held)])
                self._held = []
            else:
                self._spill()
                os.pwrite(self._fd, header, 0)
                place = len(header)
                while block := os.pread(self._fd, BLOCK, place):
                    digest.update(block)
                    place += len(block)
            file, self._fd = self._fd, -1
            give_name(file, self._temporary, os.fspath(self.path), sync)
        except BaseException:
            self.discard()
            raise
        return AudioFile(self.path, f"wav/{self.kind}", CHANNELS, self.rate, self.frames, len(header) + self.size,
                         digest.hexdigest())

    def discard(self) -> None:
        """Forget the file; nothing is left of it on disk."""
        self._held = []
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _spill(self) -> None:
        try:
            head: list[memoryview] = []
            if self._fd < 0:
                self._open(readable=True)
                head = [memoryview(bytes(len(wav_header(self.kind, self.rate, 0))))]
            _write_all(self._fd, [*head, *(part.data for part in self._held)])
        except BaseException:
            self.discard()
            raise
        self._held = []

    def _open(self, readable: bool = False) -> None:
        flags = (os.O_RDWR if readable else os.O_WRONLY) | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self._temporary, flags, FILE_MODE)
        except FileNotFoundError:
            make_directories(Path(self.path).parent)
            self._fd = os.open(self._temporary, flags, FILE_MODE)


def make_directories(directory: Path) -> None:
    """Make a directory and what is missing above it, mode 0750. Raises OSError."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)


def _write_all(fd: int, parts: list[memoryview]) -> None:
    """os.writev of all parts, however many and however little the system takes at once."""
    while parts:
        taken = os.writev(fd, parts[:256])
        while parts and taken >= len(parts[0]):
            taken -= len(parts[0])
            parts.pop(0)
        if taken:
            parts[0] = parts[0][taken:]
