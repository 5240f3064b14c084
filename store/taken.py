"""What of a lasting spool is in recordings already, so that whoever begins again from it records nothing twice.

A line for each time that a stream was a finished call's: the capture's epoch, the stream's number there, since and until when
(nanoseconds, packet time).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rokuon.store.notes_file import NotesFile

__all__ = ["Span", "Taken", "join"]

Span = tuple[int, int]
"""Since and until when; nanoseconds."""

_NAME = "taken"
_LONG = 20_000


def join(spans: list[Span], more: Span) -> None:
    """Adds a span to others; those that touch become one."""
    touching = [span for span in spans if span[0] <= more[1] and more[0] <= span[1]]
    spans[:] = [span for span in spans if span not in touching]
    spans.append((min(since for since, _ in [more, *touching]), max(until for _, until in [more, *touching])))


class Taken:
    """The notes of one source."""

    def __init__(self, directory: Path) -> None:
        """Reads what is there; a line that is not whole is left out."""
        self._file = NotesFile(directory / _NAME)
        self.spans: dict[tuple[int, int], list[Span]] = {}
        """By epoch and number."""
        self._written = 0
        for line in self._file.lines():
            parts = line.split()
            if len(parts) == 4 and all(part.isdigit() and len(part) < 20 for part in parts):
                epoch, number, since, until = map(int, parts)
                join(self.spans.setdefault((epoch, number), []), (since, until))

    def add(self, streams: Sequence[tuple[int, int, int, int]]) -> None:
        """Notes (epoch, number, since, until) of streams. Raises OSError."""
        if not streams:
            return
        self._file.add(b"".join(b"%d %d %d %d\n" % stream for stream in streams))
        self._written += len(streams)
        for epoch, number, since, until in streams:
            join(self.spans.setdefault((epoch, number), []), (since, until))

    def sync(self) -> None:
        """Returns when what was noted is on the disk. Raises OSError."""
        self._file.sync()

    def shorten(self, needed: set[tuple[int, int]]) -> None:
        """Keeps of all that was noted what speaks of these. Raises OSError."""
        spans = {key: self.spans[key] for key in needed if key in self.spans}
        self._file.replace(b"".join(b"%d %d %d %d\n" % (*key, *span) for key, each in spans.items() for span in each), sync=True)
        self.spans = spans
        self._written = 0

    @property
    def long(self) -> bool:
        """Whether it is worth to be shortened."""
        return self._written > _LONG
