"""Which runs of a spool may become one, and the files that they are read from meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rokuon.store.runs import Run

__all__ = ["Files", "neighbours"]


class Files:
    """Files of segments, opened once while a block lasts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def open(self, name: str) -> int:
        if name not in self._open:
            self._open[name] = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            os.close(file)


def neighbours(runs: list[Run], every: list[Run], span_ns: int = 0) -> Iterator[list[Run]]:
    """Runs of one segment in groups between which no other run of their source and epoch lies: what is merged must not overtake
    anything. `span_ns`: that a group lasts at most; 0: any time.
    """
    source, wanted = runs[0].source, {id(run) for run in runs}
    group: list[Run] = []
    for run in every:
        if run.source != source:
            continue
        fits = not group or (group[-1].epoch == run.epoch and (not span_ns or run.last_ns - group[0].first_ns <= span_ns))
        if id(run) in wanted and fits:
            group.append(run)
            continue
        if group:
            yield group
        group = [run] if id(run) in wanted else []
    if group:
        yield group
