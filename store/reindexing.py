"""Sidecars read for a new index: taken apart by as many processes as there are processors, in the order of their ids."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rokuon.store.errors import StoreError
from rokuon.store.layout import Layout
from rokuon.store.rows import texts_of
from rokuon.store.sidecar import Sidecar, problems, read

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

__all__ = ["Batch", "Readers", "readers"]

BATCH = 500
"""Sidecars at a time: bounds the memory that their text takes."""
FEW = 2000
"""Fewer are read in the time that it takes to start processes."""
MOST_PROCESSES = 8
"""More than DuckDB takes rows from: it spends a fifth of all the time, in one thread."""
AHEAD = 3
"""Batches for each process that are begun, or done and not taken yet."""


class Batch(NamedTuple):
    """What some sidecars give."""

    texts: dict[str, str]
    """Rows of each table as JSON; tables without any are left out."""
    warnings: list[str]
    """A line for each sidecar that could not be taken."""


class Readers:
    """Reads the sidecars of an archive."""

    def __init__(self, layout: Layout, region: str | None, executor: ProcessPoolExecutor | None, processes: int) -> None:
        self._root, self._region, self._executor, self._processes = layout.root, region, executor, processes

    def batches(self) -> Iterator[Batch]:
        """All sidecars there are, in the order of their ids. Raises StoreError."""
        ids = Layout(self._root).ids()
        chosen = iter(lambda: list(islice(ids, BATCH)), [])
        if self._executor is None:
            for some in chosen:
                yield taken_apart(self._root, self._region, some)
            return
        from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415 -- not needed for a small archive

        begun: deque[Future[Batch]] = deque()
        try:
            for some in chosen:
                begun.append(self._executor.submit(taken_apart, self._root, self._region, some))
                if len(begun) >= AHEAD * self._processes:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BrokenProcessPool:
            raise StoreError("a process that read sidecars was ended, maybe for want of memory; the index is as it was") from None


@contextmanager
def readers(layout: Layout, region: str | None, processes: int | None = None) -> Iterator[Readers]:
    """To be opened before the index is locked or opened: processes that begin later would have both.

    `processes`: None: as many as there are processors, or for a small archive none but this one; as is 0.
    """
    if processes is None:
        processors = len(os.sched_getaffinity(0))
        many = processors > 1 and sum(1 for _ in islice(layout.ids(), FEW)) == FEW
        processes = min(processors, MOST_PROCESSES) if many else 0
    if not processes:
        yield Readers(layout, region, None, 0)
        return
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 -- not needed for a small archive
    from multiprocessing import get_context  # noqa: PLC0415

    executor = ProcessPoolExecutor(processes, get_context("fork"), _begin)
    try:
        executor.submit(os.getpid).result()  # with the first work all processes begin
        yield Readers(layout, region, executor, processes)
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """What a process does first: it leaves Ctrl-C to its parent, and does not outlive it."""
    from rokuon.store.process import end_with_parent  # noqa: PLC0415 -- not needed for a small archive

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # else it ends when nobody asks it any more
        end_with_parent(signal.SIGKILL)


def taken_apart(root: Path, region: str | None, ids: list[str]) -> Batch:
    """Rows of these calls."""
    layout, warnings, sound = Layout(root), list[str](), list[Sidecar]()
    for call_id in ids:
        path = layout.sidecar(call_id)
        try:
            sidecar = read(path)
        except StoreError as error:
            warnings.append(str(error))
            continue
        wrong = problems(sidecar)
        if not wrong and sidecar["id"] != call_id:
            wrong = ["id"]
        if wrong:
            warnings.append(f"{path}: not a sound sidecar: {', '.join(wrong[:8])}")
            continue
        sound.append(sidecar)
    return Batch(texts_of(sound, region), warnings)
