"""The call hook's queue: DATA/state/finished.jsonl, read from where it was left.

The correlating process appends a line for each finished call and renames the file to finished.jsonl.1 when it has grown large;
nobody tells the reader. So a file is known by its first line, not by its name or inode (the next file often gets the inode of
the one that was just removed), and both are looked at each time. Lines are counted when they come, not when they are taken: a
file that is gone before it was read leaves the number of calls that were skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rokuon.appliance.shapes import rows, whole
from rokuon.store.layout import is_id

__all__ = ["FinishedQueue"]

_HEAD = 4096
_CHUNK = 1 << 16
_LONGEST_LINE = 4096


@dataclass(slots=True)
class _File:
    """How far one file was looked at."""

    head: str
    read: int = 0
    """Offset up to which calls were taken."""
    taken: int = 0
    """Lines before it."""
    counted: int = 0
    """Offset up to which lines were counted."""
    lines: int = 0
    """Lines before that one."""
    path: Path | None = None
    size: int = 0
    ahead: deque[tuple[str | None, int]] = field(default_factory=deque)
    """Lines that were read and not taken yet: the call's id (None: not a line of ours), the offset of the line's end."""

    @property
    def left(self) -> int:
        return max(0, self.lines - self.taken)


class FinishedQueue:
    """Calls that finished and that no hook was run for.

    `saved`: what `state()` gave when we last ran; None: the first time, where calls that are there already are left out.
    """

    def __init__(self, folder: Path, saved: Any = None) -> None:
        self._paths = [folder / "finished.jsonl", folder / "finished.jsonl.1"]
        self.skipped = 0
        """Lines that went away unread since the start."""
        self.unreadable = 0
        if saved is None:
            self._files: list[_File] = []
            self.refresh()
            for file in self._files:
                file.read, file.taken = file.counted, file.lines
        else:
            self._files = [_File(row["head"], whole(row.get("read")), whole(row.get("taken")), whole(row.get("counted")),
                                 whole(row.get("lines"))) for row in rows(saved)[:2] if isinstance(row.get("head"), str)]
            self.refresh()

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(file.left for file in self._files)

    def state(self) -> list[dict[str, Any]]:
        """What has to be kept so that the next start goes on behind the last call that was taken."""
        return [{"head": f.head, "read": f.read, "taken": f.taken, "counted": f.counted, "lines": f.lines} for f in self._files]

    def refresh(self) -> None:
        """Looks at the files again: what was appended, renamed, removed."""
        found: list[_File] = []
        known = {file.head: file for file in self._files}
        for path in self._paths:  # in this order a file that is renamed meanwhile is seen twice, never missed
            try:
                with open(path, "rb") as opened:
                    head, size = _head(opened), os.fstat(opened.fileno()).st_size
                    if head is None or any(file.head == head for file in found):
                        continue
                    file = known.get(head)
                    if file is None:
                        file = _File(head)
                    elif size < max(file.read, file.counted):  # cut, by a power failure perhaps
                        file = _File(head, min(file.read, size), 0, min(file.read, size), 0)
                    file.path, file.size = path, size
                    _count(opened, file)
                    found.append(file)
            except OSError:  # not there, or not readable now: looked at again next time
                if path.exists():
                    found += [file for file in self._files if file.path == path and file not in found]
        self.skipped += sum(file.left for file in self._files if all(file is not other for other in found))
        found.reverse()  # the older one first
        self._files = found

    def take(self) -> str | None:
        """The id of the call that waited longest; None: none waits."""
        for file in self._files:
            while file.left or file.ahead:
                if not file.ahead and not _fill(file):
                    break
                call_id, file.read = file.ahead.popleft()
                file.taken += 1
                if call_id is not None:
                    return call_id
                self.unreadable += 1
        return None


def _head(file: BinaryIO) -> str | None:
    """What tells the file from others; None while its first line is not whole."""
    start = file.read(_HEAD)
    line, end, _ = start.partition(b"\n")
    if not end and len(start) < _HEAD:
        return None
    return hashlib.sha256(line).hexdigest()[:32]


def _count(opened: BinaryIO, file: _File) -> None:
    """Counts the lines that were appended."""
    if file.size <= file.counted:
        return
    opened.seek(file.counted)
    while block := opened.read(_CHUNK):
        if last := block.rfind(b"\n") + 1:
            file.lines += block.count(b"\n")
            file.counted = opened.tell() - len(block) + last


def _fill(file: _File) -> bool:
    """Reads some lines ahead; whether there were any."""
    if file.path is None:
        return False
    try:
        with open(file.path, "rb") as opened:
            if _head(opened) != file.head:  # renamed since: the next refresh finds it
                return False
            opened.seek(file.read)
            start, block, whole_line = file.read, opened.read(_CHUNK), True
            while block and b"\n" not in block:  # no line of ours is that long
                start, block, whole_line = start + len(block), opened.read(_CHUNK), False
    except OSError:
        return False
    for line in block.split(b"\n")[:-1]:
        start += len(line) + 1
        file.ahead.append((_call(line) if whole_line else None, start))
        whole_line = True
    return bool(file.ahead)


def _call(line: bytes) -> str | None:
    """The call that a line names."""
    if len(line) > _LONGEST_LINE:
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    call_id = entry.get("id") if isinstance(entry, dict) else None
    return call_id if isinstance(call_id, str) and is_id(call_id) else None
