"""Finished calls on their way into the index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rokuon.store.errors import DataError, IndexBusyError, StoreError
from rokuon.store.index import Index
from rokuon.store.jobs import Job
from rokuon.store.known import Known
from rokuon.store.revision import Revised, Revisions
from rokuon.store.summary import Summary

__all__ = ["Listing"]

_MANY = 1000
_EVERY_S = 0.35
"""Between two commits of a lasting recorder: each costs as much as many calls."""
_RETRY_S = 2.0
_MOST = 10_000
"""Finished calls that wait for an index which cannot be written."""


class Listing:
    """Calls are put into the index many at a time."""

    def __init__(self, index: Index, archive: Known, lasting: bool, summary: Summary, lost: Counter[str],
                 notice: Callable[[dict[str, Any]], None] | None, revisions: Revisions) -> None:
        """`lost`: where calls are counted that are not listed, by reason; `notice` is told of each that is; `revisions`
        of those that took others' places.
        """
        self._revisions = revisions
        self._index, self._archive, self._lasting = index, archive, lasting
        self._summary, self._lost, self._notice = summary, lost, notice
        self._waiting = archive.left_over()
        self._revised: list[Revised] = []
        self.left_over = len(self._waiting)
        """Calls that a process before this one recorded, and did not list."""
        self._at = 0.0
        self._complaint = ""

    def __len__(self) -> int:
        """Calls that wait."""
        return len(self._waiting) + len(self._revised)

    def add(self, sidecar: dict[str, Any]) -> None:
        """A call whose files are whole."""
        self._waiting.append(sidecar)
        if sidecar.get("end_reason") == "recovered":
            self._summary.recovered += 1

    def revise(self, job: Job, sidecar: dict[str, Any], copies: Sequence[tuple[str, dict[str, Any]]] = ()) -> None:
        """A call that may be the fuller copy of others, of these too, and whose files are whole. Raises StoreError, OSError."""
        try:
            revised = self._revisions.settle(job, sidecar, copies)
        except (StoreError, OSError) as error:  # what was recorded before is as it was
            if not self._lasting:
                raise
            self._summary.warnings.append(f"call {sidecar['id']} stays as it was recorded before: {error}")
            revised = None
        if revised is None:
            self._summary.calls_known += 1
        else:
            self._revised.append(revised)

    def commit_many(self) -> None:
        """Lists them where they are many. Raises StoreError: see `commit_or_wait`."""
        if len(self) >= _MANY:
            self.commit_or_wait()

    def commit_in_time(self) -> None:
        """Lists them where the last were listed long enough ago. Raises StoreError: see `commit_or_wait`."""
        if len(self) and time.monotonic() >= self._at:
            with suppress(IndexBusyError):  # somebody reads it for long: tried again the next time
                self.commit_or_wait()

    def commit_or_wait(self) -> None:
        """Lists them; a lasting recorder tries again later where there is no room, or the index is damaged or long in use.

        Raises StoreError, OSError where it is not lasting.
        """
        try:
            self.commit()
            self._complaint = ""
        except (DataError, IndexBusyError, OSError) as error:
            if not self._lasting:
                raise
            if self._complaint != str(error):
                self._complaint = str(error)
                self._summary.warnings.append(f"{error}; until then calls are recorded, and not listed")
            self._at = time.monotonic() + _RETRY_S
            if (more := len(self._waiting) - _MOST) > 0:  # their files are there: `rokuon reindex` lists them
                del self._waiting[:more]
                self._lost["not-in-the-index"] += more

    def commit(self) -> None:
        """Lists them now. Raises StoreError, OSError."""
        listed, revised = self._waiting, self._revised
        self._index.add_calls([*listed, *(one.call for one in revised)], [i for one in revised for i in one.replaces])
        self._waiting, self._revised = [], []
        self._archive.listed()
        self._at = time.monotonic() + _EVERY_S
        summary, added = self._summary, sum(one.added for one in revised)
        summary.calls_added += len(listed) + added
        summary.calls_known += len(revised) - added
        summary.calls_revised += len(revised) - added
        summary.calls_found = summary.calls_added + summary.calls_known
        self._revisions.listed(revised)
        if self._notice is not None:
            for sidecar in [*listed, *(one.call for one in revised)]:
                self._notice(sidecar)
