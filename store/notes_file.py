"""Notes that are added to a file line by line, and read by whoever begins again after a crash."""

from __future__ import annotations

import os
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path

from rokuon.store.layout import FILE_MODE, make_way
from rokuon.store.sidecar import write_file

__all__ = ["NotesFile"]

_LARGEST = 256 << 20


class NotesFile:
    """Lines, in the order in which they were noted."""

    def __init__(self, path: Path) -> None:
        """A directory of that name is moved aside."""
        self._path = path
        self._dirty = False
        with suppress(OSError):
            make_way(path)

    def lines(self) -> list[bytes]:
        """What is noted; a last line that is not whole is left out, and so is all where it cannot be read."""
        try:
            with open(self._path, "rb") as file:
                return file.read(_LARGEST).split(b"\n")[:-1]
        except OSError:
            return []

    def add(self, lines: bytes) -> None:
        """Notes lines, each with its end. Raises OSError, then some of them may be noted."""
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            if os.write(file, b"\n" + lines) <= len(lines):  # the line end before: what was cut short ends here
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        finally:
            os.close(file)
        self._dirty = True

    def replace(self, lines: bytes, sync: bool) -> None:
        """Only these are noted. Raises OSError."""
        write_file(self._path, lines, sync)

    def clear(self) -> None:
        """Nothing is noted, if that can be done."""
        with suppress(OSError):
            os.truncate(self._path, 0)

    def sync(self) -> None:
        """Returns when what was noted is on the disk. Raises OSError."""
        if self._dirty:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(file)
            finally:
                os.close(file)
            self._dirty = False
