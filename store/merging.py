"""Which runs of a spool may become one, the files that they are read from meanwhile, and what becomes of such a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rokuon.store.runs import Run
from rokuon.store.segments import SEGMENT_HEADER

__all__ = ["Files", "neighbours", "put_back"]


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


def put_back(path: Path, free: int) -> None:
    """A segment that nothing needs: kept to be written again while there are fewer than `free` of these, else removed.

    Raises OSError.
    """
    kept = [name for name in os.listdir(path.parent) if name.startswith("free-")]
    if len(kept) < free and not path.name.startswith("m"):
        with open(path, "r+b", buffering=0) as file:
            file.write(bytes(SEGMENT_HEADER))  # what it holds is not taken for its next use's, should that not come to be
        path.rename(path.with_name(f"free-{path.name}"))
    else:
        os.truncate(path, 0)  # whoever has it open yet holds no space
        path.unlink()
