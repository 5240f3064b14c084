"""What is told of each finished call: to the call hook, and how long it took until the call could be found."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from rokuon.store.layout import FILE_MODE, Layout
from rokuon.store.sidecar import dumps, iso, nanoseconds

__all__ = ["Finished"]

_LARGEST = 4 << 20
_EDGES = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_OLD_S = 3600.0


class Finished:
    """The queue of finished calls, and a histogram of the seconds from a call's end to where queries find it."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state / "finished.jsonl"
        self._counts = [0] * (len(_EDGES) + 1)
        self._sum = 0.0

    def add(self, sidecar: Mapping[str, Any]) -> None:
        """A call can be queried. Raises OSError."""
        if sidecar.get("end") and sidecar.get("end_reason") in ("bye", "cancel", "reject"):
            took = time.time() - nanoseconds(sidecar["end"]) / 1e9
            if 0 <= took < _OLD_S:  # else it lay in the spool while nobody looked
                self._counts[bisect_left(_EDGES, took)] += 1
                self._sum += took
        now = iso(time.time_ns())
        line = f"{dumps({'time': now, 'id': sidecar['id'], 'state': sidecar.get('state')})}\n".encode()
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            os.write(file, line)
            large = os.fstat(file).st_size > _LARGEST
        finally:
            os.close(file)
        if large:
            os.replace(self._path, self._path.with_name("finished.jsonl.1"))

    def histogram(self) -> dict[str, Any]:
        """Cumulative counts by seconds, their sum and number, as Prometheus has it."""
        total, buckets = 0, []
        for edge, count in zip(_EDGES, self._counts, strict=False):
            total += count
            buckets.append([edge, total])
        return {"buckets": buckets, "sum": round(self._sum, 3), "count": total + self._counts[-1]}
