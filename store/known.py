"""Which calls the archive has already, or is not to have: asked before a call is finalised that is seen once more.

For as long as a lasting spool tells of calls that are over, two notes lie beside it: of calls whose files are whole while the
index does not list them yet, and of calls that are over and not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rokuon.sniffer.model import Call
from rokuon.store.call_facts import call_id
from rokuon.store.errors import DataError, IndexBusyError, StoreError
from rokuon.store.index import Index, LegSpan
from rokuon.store.jobs import Job
from rokuon.store.layout import Layout, identity, is_id, make_id, names_in
from rokuon.store.notes_file import NotesFile
from rokuon.store.sidecar import nanoseconds, read

__all__ = ["Known", "Notes"]

_LONG = 20_000
_HOUR_NS, _HOURS = 3600 * 1_000_000_000, 6


class Notes(Protocol):
    """Whoever notes for a lasting spool what of it is in recordings."""

    directory: Path
    """For further notes."""

    def note(self, taken: Sequence[tuple[str, int, int, int, int]]) -> None:
        """Notes source, epoch and number of streams, since and until when they are in recordings. Raises OSError."""

    def sync(self) -> None:
        """Returns when all that was noted is on the disk. Raises OSError."""


class _Ids:
    """Ids of calls in a file, a line each."""

    def __init__(self, path: Path | None) -> None:
        """`path`: None: nothing is kept."""
        self._file = NotesFile(path) if path is not None else None
        lines = [line.decode("ascii", "replace") for line in self._file.lines()] if self._file is not None else []
        self.ids: dict[str, None] = dict.fromkeys(line for line in lines if is_id(line))

    def add(self, ids: Sequence[str]) -> None:
        """Raises OSError."""
        if ids and self._file is not None:
            self._file.add("".join(f"{i}\n" for i in ids).encode())
            self.ids.update(dict.fromkeys(ids))

    def keep(self, ids: Sequence[str]) -> None:
        """Only these. Raises OSError."""
        if self._file is not None:
            self._file.replace("".join(f"{i}\n" for i in ids).encode(), sync=False)
        self.ids = dict.fromkeys(ids)

    def clear(self) -> None:
        """None."""
        if self.ids and self._file is not None:
            self.ids = {}
            self._file.clear()

    def sync(self) -> None:
        """Returns when it is on the disk. Raises OSError."""
        if self._file is not None:
            self._file.sync()


class Known:
    """What is asked of index, files and notes."""

    def __init__(self, layout: Layout, index: Index, lasting: bool, notes: Path | None) -> None:
        """`notes`: the directory for the notes, of a spool that is lasting."""
        self._layout, self._index, self._lasting = layout, index, lasting
        self._hours: dict[Path, dict[str, str]] = {}
        self._unlisted = _Ids(notes / "unlisted" if notes is not None else None)
        self._left_out = _Ids(notes / "left-out" if notes is not None else None)

    def find(self, jobs: Sequence[Job]) -> tuple[set[int], list[tuple[int, dict[str, Any]]]]:
        """Numbers of those calls that the index has, or that were left out; number and sidecar of those that are recorded and not
        in the index, for the process ended in between.
        """
        legs: list[LegSpan] = []
        owners: list[int] = []
        for job in jobs:
            for leg in job.facts["legs"]:
                last = max([nanoseconds(leg["start"])] + [nanoseconds(m["time"]) for m in job.facts["messages"][-1:]])
                legs.append(LegSpan.of(leg, last))
                owners.append(job.number)
        known = {job.number for job in jobs if job.id in self._left_out.ids}
        try:
            if self._layout.index.exists():
                known.update(owner for owner, found in zip(owners, self._index.known_calls(legs), strict=True) if found)
                loose = {job.id: job.number for job in jobs if not job.facts["legs"]}
                if loose:
                    known.update(loose[i] for i in self._index.known_ids(loose))
        except (DataError, IndexBusyError):  # it is a view: files tell as well
            if not self._lasting:
                raise
        unlisted: dict[int, dict[str, Any]] = {}
        for job in jobs if self._lasting else ():
            if job.number not in known and job.number not in unlisted:
                with suppress(StoreError):
                    unlisted[job.number] = read(self._layout.sidecar(job.id))
        return known, list(unlisted.items())

    def ended(self, call: Call) -> int | None:
        """When a call that is seen once more ended; None: the archive does not have it."""
        for i in [call_id(call), *self._alike(call)]:
            if i in self._left_out.ids:
                return call.start_ns
            with suppress(StoreError, ValueError):
                end_ns = nanoseconds(str(read(self._layout.sidecar(i)).get("end")))
                if end_ns >= call.start_ns:
                    return end_ns
        return None

    def _alike(self, call: Call) -> list[str]:
        """Ids of calls of the same dialog, where the call's own beginning is not there."""
        leg = call.legs[0]
        if not call.anomalies["begun-in-mid-call"]:
            return []
        mine = {identity(leg.call_id, tag) for tag in (leg.from_tag, leg.to_tag) if tag}
        return [found[i] for hour in range(_HOURS) for found in [self._hour(call.start_ns - hour * _HOUR_NS)]
                for i in mine & found.keys()]

    def _hour(self, time_ns: int) -> dict[str, str]:
        """Ids of that hour's calls, by what tells them apart."""
        folder = self._layout.folder(make_id(time_ns, "a" * 8))
        if folder not in self._hours:
            ids = [name.removesuffix(".json") for name in names_in(folder) if name.endswith(".json")]
            ids += [i for i in self._left_out.ids if self._layout.folder(i) == folder]
            self._hours[folder] = {i.rpartition("-")[2]: i for i in ids if is_id(i)}
        return self._hours[folder]

    def forget_hours(self) -> None:
        """Nobody will ask for calls that ended before any more."""
        self._hours.clear()

    def left_over(self) -> list[dict[str, Any]]:
        """Sidecars of calls that a process before this one recorded, and may not have put into the index."""
        ids = list(self._unlisted.ids)
        with suppress(StoreError):
            if ids and self._layout.index.exists():
                listed = self._index.known_ids(ids)
                ids = [i for i in ids if i not in listed]
        found = []
        for i in ids:
            with suppress(StoreError):  # it was deleted since
                found.append(read(self._layout.sidecar(i)))
        return found

    # -- the notes -----------------------------------------------------------
    def note(self, recorded: Sequence[str], left_out: Sequence[str], oldest: Callable[[], str]) -> None:
        """Notes calls; `oldest`: an id below which no call is asked for any more. Raises OSError."""
        self._unlisted.add(recorded)
        self._left_out.add(left_out)
        if len(self._left_out.ids) > _LONG and left_out:
            least = oldest()
            self._left_out.keep([i for i in self._left_out.ids if i >= least])

    def listed(self) -> None:
        """All that is recorded is in the index."""
        self._unlisted.clear()

    def sync(self) -> None:
        """Returns when what was noted is on the disk. Raises OSError."""
        self._unlisted.sync()
        self._left_out.sync()
