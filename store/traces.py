"""Where a run of the recorder writes, noted beside its spool, so that what a killed one left unfinished can be swept away.

A note is a line: the number of a process that writes, or a folder of the archive that it writes to. Unfinished files are
hidden, and bear the number of their process: `.NAME.PID.part`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rokuon.store.layout import Layout

__all__ = ["Traces", "sweep"]

_NAME = "traces"
_FOLDER = re.compile(r"recordings/\d{4}/\d\d/\d\d/\d\d", re.ASCII)
_UNFINISHED = re.compile(r"\..+\.(\d+)\.(?:part|new)(?:\.wal)?", re.ASCII)


class Traces:
    """Notes of one run."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the run's spool."""
        self._path = directory / _NAME
        self._noted: set[str] = set()

    def process(self, pid: int) -> None:
        """This process is going to write. Raises OSError."""
        self._note(str(pid))

    def folder(self, path: str) -> None:
        """Files will be written here; relative to the archive, with slashes. Raises OSError."""
        self._note(path)

    def _note(self, line: str) -> None:
        if line not in self._noted:
            with open(self._path, "a", encoding="ascii") as file:
                file.write(line + "\n")
            self._noted.add(line)


def sweep(layout: Layout, directory: Path, processes: set[int] | None = None) -> None:
    """Removes the unfinished files of the run whose spool is `directory`: of `processes`, or of all that have ended."""
    try:
        notes = (directory / _NAME).read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return
    if processes is None:
        processes = {int(note) for note in notes if note.isdecimal() and not _runs(int(note))}
    folders = [layout.root / note for note in notes if _FOLDER.fullmatch(note)]
    for folder in [layout.root, layout.quarantine, *folders]:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            match = _UNFINISHED.fullmatch(name)
            if match and int(match[1]) in processes:
                (folder / name).unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    """Whether the process runs; this one, which has only begun, took the number of one that does not."""
    if pid == os.getpid():
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"
