"""Files that appear whole: written under another name, flushed to the disk, then renamed. Many at once cost little more than one.

A file system writes its journal for each file that is flushed; files that are flushed side by side share that.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

__all__ = ["Batch", "give_name"]

_SIDE_BY_SIDE = 8


class Batch:
    """Files of this process that wait to be flushed together. Nothing of them shows before `flush`."""

    current: ClassVar[Batch | None] = None
    """The one that files are added to; None: each is flushed at once."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, str, str]] = []
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, file: int, temporary: str, path: str) -> None:
        """An open file, its present name and the one it is to have; the file is the batch's from now on."""
        self._waiting.append((file, temporary, path))

    def forget(self, since: int) -> None:
        """Those that were added after there were so many are not wanted: nothing stays of them."""
        for file, temporary, _ in self._waiting[since:]:
            os.close(file)
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        del self._waiting[since:]

    def flush(self) -> None:
        """Flushes them all, and gives them their names in the order in which they came.

        Raises OSError: then nothing stays of any that has not its name yet.
        """
        try:
            if len(self._waiting) > 2:
                try:
                    if self._threads is None:
                        self._threads = ThreadPoolExecutor(_SIDE_BY_SIDE, "flush")
                    list(self._threads.map(os.fsync, [file for file, _, _ in self._waiting]))
                except RuntimeError:  # no memory for threads: a codec has eaten it
                    self._threads = None
                    self._one_by_one()
            else:
                self._one_by_one()
            while self._waiting:
                file, temporary, path = self._waiting[0]
                os.rename(temporary, path)
                del self._waiting[0]
                os.close(file)
        except BaseException:
            self.forget(0)
            raise

    def _one_by_one(self) -> None:
        for file, _, _ in self._waiting:
            os.fsync(file)


def give_name(file: int, temporary: str, path: str, sync: bool) -> None:
    """An open file that is written whole gets its name, once it is on the disk if `sync`; the file is closed.

    Raises OSError.
    """
    if sync and Batch.current is not None:
        Batch.current.add(file, temporary, path)
        return
    try:
        if sync:
            os.fsync(file)
    finally:
        os.close(file)
    os.rename(temporary, path)
