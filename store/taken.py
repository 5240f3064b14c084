"""What of a lasting spool is in recordings already, so that whoever begins again from it records nothing twice.

A line for each stream of a finished call: the capture's epoch, the stream's number there, and up to when (nanoseconds, packet
time) it was the call's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rokuon.store.layout import FILE_MODE
from rokuon.store.sidecar import write_file

__all__ = ["Taken"]

_NAME = "taken"
_LARGEST = 64 << 20


class Taken:
    """The notes of one source."""

    def __init__(self, directory: Path) -> None:
        """Reads what is there; a line that is not whole is left out."""
        self._path = directory / _NAME
        self.until: dict[tuple[int, int], int] = {}
        """By epoch and number."""
        self._written = 0
        try:
            with open(self._path, "rb") as file:
                lines = file.read(_LARGEST).split(b"\n")[:-1]
        except OSError:
            return
        for line in lines:
            parts = line.split()
            if len(parts) == 3 and all(part.isdigit() and len(part) < 20 for part in parts):
                epoch, number, until = map(int, parts)
                self.until[epoch, number] = max(until, self.until.get((epoch, number), 0))

    def add(self, streams: Iterable[tuple[int, int, int]], sync: bool = False) -> None:
        """Notes (epoch, number, until) of streams. Raises OSError."""
        lines = b"".join(b"%d %d %d\n" % stream for stream in streams)
        if not lines:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            os.write(file, lines)
            if sync:
                os.fdatasync(file)
        finally:
            os.close(file)
        self._written += lines.count(b"\n")

    def shorten(self, needed: Iterable[tuple[int, int, int]]) -> None:
        """Puts these in the place of all that was noted. Raises OSError."""
        write_file(self._path, b"".join(b"%d %d %d\n" % stream for stream in needed), sync=False)
        self._written = 0

    @property
    def long(self) -> bool:
        """Whether it is worth to be shortened."""
        return self._written > 20_000
