"""Which calls the archive has already, or is not to have: asked before a call is finalised that is seen once more.

For as long as a lasting spool tells of calls that are over, two notes lie beside it: of calls whose files are whole while the
index does not list them yet, and of calls that are over and not recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rokuon.sniffer.model import Call
from rokuon.store import coverage
from rokuon.store.call_facts import call_id
from rokuon.store.errors import DataError, IndexBusyError, StoreError
from rokuon.store.index import Index, LegSpan, MediaSpan
from rokuon.store.jobs import Job
from rokuon.store.layout import Layout, identity, is_id, make_id, names_in
from rokuon.store.notes_file import NotesFile
from rokuon.store.sidecar import Sidecar, nanoseconds, read
from rokuon.store.tombstones import Tombstones

__all__ = ["Known", "Looked", "Notes"]

_LONG = 20_000
_NEAR_S = 60
"""So far apart the two halves of a call may be that was cut."""
_MOST_COPIES = 64
"""Calls that one call is held against: whoever uses a Call-ID and tags again and again must not make that long."""
_HOUR_NS, _HOURS = 3600 * 1_000_000_000, 6


class Notes(Protocol):
    """Whoever notes for a lasting spool what of it is in recordings."""

    directory: Path
    """For further notes."""

    def note(self, taken: Sequence[tuple[str, int, int, int, int]]) -> None:
        """Notes source, epoch and number of streams, since and until when they are in recordings. Raises OSError."""

    def sync(self) -> None:
        """Returns when all that was noted is on the disk. Raises OSError."""


class Looked(NamedTuple):
    """What the archive has of calls, by the numbers of their jobs."""

    known: set[int]
    """It has them, or they were left out."""
    unlisted: list[tuple[int, Sidecar]]
    """They are recorded and not in the index: the process ended in between."""
    fuller: list[tuple[Job, list[tuple[str, Sidecar]]]]
    """It has copies of them, which may have less."""
    deleted: set[int]
    """They were deleted for good."""


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

    def __init__(self, layout: Layout, index: Index, lasting: bool, notes: Path | None,
                 warnings: list[str] | None = None) -> None:
        """`notes`: the directory for the notes, of a spool that is lasting; `warnings`: where it is said what cannot be asked."""
        self._warnings = warnings if warnings is not None else []
        self._layout, self._index, self._lasting = layout, index, lasting
        self._hours: dict[Path, dict[str, str]] = {}
        self._unlisted = _Ids(notes / "unlisted" if notes is not None else None)
        self._left_out = _Ids(notes / "left-out" if notes is not None else None)
        self._tombstones = Tombstones(layout)
        self._began_ns = time.time_ns()

    def _deleted(self, jobs: Sequence[Job]) -> set[int]:
        """Numbers of those calls that were deleted for good. Raises StoreError where that cannot be told; what is captured live
        is recorded then.
        """
        try:
            if not self._tombstones.any():
                return set()
        except StoreError as error:
            if not self._lasting:
                raise
            if str(error) not in self._warnings:
                self._warnings.append(str(error))
            return set()
        gone = self._tombstones.among([job.facts for job in jobs])
        return {job.number for job, is_gone in zip(jobs, gone, strict=True) if is_gone}

    def find(self, jobs: Sequence[Job], news_ns: int) -> Looked:
        """What the archive has of these calls. `news_ns`: of calls that began before, whatever a lasting spool still tells is in
        recordings as it was told first.
        """
        lasting = self._lasting
        known = {job.number for job in jobs if job.id in self._left_out.ids}
        deleted = self._deleted(jobs) - known
        if lasting:
            jobs = [job for job in jobs if nanoseconds(job.facts["start"]) < news_ns or self._has(job.id)]
        candidates: dict[int, list[str]] = {}
        try:
            if jobs and self._layout.index.exists():
                candidates = self._candidates(jobs)
        except (DataError, IndexBusyError):  # it is a view: files tell as well
            if not lasting:
                raise
        fuller: list[tuple[Job, list[tuple[str, Sidecar]]]] = []
        unlisted: dict[int, Sidecar] = {}
        for job in jobs:
            if job.number in known or job.number in deleted:
                continue
            replayed = lasting and nanoseconds(job.facts["start"]) < news_ns
            ids = candidates.get(job.number, [])
            if replayed and ids:
                known.add(job.number)
            elif replayed:
                with suppress(StoreError):
                    unlisted[job.number] = read(self._layout.sidecar(job.id))
            elif ids or lasting:
                there = self._fuller_than(job, ids or [job.id])
                if there is None:
                    known.add(job.number)
                elif there:
                    fuller.append((job, there))
        return Looked(known, list(unlisted.items()), fuller, deleted)

    def _has(self, call_id: str) -> bool:
        """Whether there is a sidecar of this id."""
        return self._layout.sidecar(call_id).exists()

    def _candidates(self, jobs: Sequence[Job]) -> dict[int, list[str]]:
        """Ids of calls of which these may be copies, by the jobs' numbers. Raises StoreError."""
        legs: list[LegSpan] = []
        media: list[MediaSpan] = []
        owners: tuple[list[int], list[int]] = [], []
        job_of = {job.number: job for job in jobs}
        for job in jobs:
            for leg in job.facts["legs"]:
                last = max([nanoseconds(leg["start"])] + [nanoseconds(m["time"]) for m in job.facts["messages"][-1:]])
                legs.append(LegSpan.of(leg, last))
                owners[0].append(job.number)
            for stream in job.streams if not self._lasting else ():
                if len(stream.slices):
                    first, last = int(stream.slices["first_ns"].min()), int(stream.slices["last_ns"].max())
                    first = max(first, stream.spans[0][0])
                    media.append(MediaSpan(stream.plan.src, stream.plan.dst, stream.plan.ssrc, first,
                                           max(first, min(last, max(until for _, until in stream.spans)))))
                    owners[1].append(job.number)
        loose = {job.number: job.id for job in jobs if not job.facts["legs"]}
        found: dict[int, dict[str, None]] = {}
        free = [number in loose for number in owners[1]]
        there = self._index.copies(legs, media, free, list(loose.values()), 0 if self._lasting else _NEAR_S)
        near = [[i for i in ids if self._goes_on(job_of[number], i)] if ids else ids
                for number, ids in zip(owners[0], there.near, strict=True)]
        for numbers, lists in ((owners[0], there.legs), (owners[0], near), (owners[1], there.media)):
            for number, ids in zip(numbers, lists, strict=True):
                found.setdefault(number, {}).update(dict.fromkeys(ids))
        for number, own in loose.items():
            if own in there.ids:
                found.setdefault(number, {})[own] = None
        return {number: sorted(ids)[:_MOST_COPIES] for number, ids in found.items() if ids}

    def later_copies(self, job: Job, call: Sidecar | None) -> list[tuple[str, Sidecar]]:
        """Of a long call, which was given out in pieces and is whole now, all that it may be a copy of. Raises StoreError."""
        if call is None or self._lasting or not job.pieced or not self._layout.index.exists():
            return []
        streams = [(s["src"], s["dst"], s["ssrc"], nanoseconds(s["first"]), nanoseconds(s["last"])) for s in call["streams"]]
        last = max([nanoseconds(m["time"]) for m in call["messages"]] + [stream[-1] for stream in streams], default=0)
        legs = [LegSpan.of(leg, last) for leg in call["legs"]]
        media = [MediaSpan(*stream) for stream in streams]
        found = self._index.copies(legs, media, [not legs] * len(media))
        ids = sorted({i for here in (*found.legs, *found.media) for i in here} - {str(call["id"])})[:_MOST_COPIES]
        return [(i, read(self._layout.sidecar(i))) for i in ids if self._has(i)]

    def _goes_on(self, job: Job, call_id: str) -> bool:
        """Whether one of the two is the rest of the other, for a capture ended or began in the middle. (What this recorder itself
        has told apart is not: whether it is in the index yet is chance.)
        """
        path = self._layout.sidecar(call_id)
        try:
            if path.stat().st_mtime_ns >= self._began_ns:
                return False
            call = read(path)
            later = max(call, job.facts, key=lambda facts: str(facts["start"]))
            return bool(later["anomalies"].get("begun-in-mid-call"))
        except (OSError, StoreError, KeyError, TypeError, AttributeError):
            return False

    def _fuller_than(self, job: Job, ids: Sequence[str]) -> list[tuple[str, Sidecar]] | None:
        """Those of the calls that are there; None: one of them has all that the job can give, as far as can be told."""
        whole = job.until_ns is None and not job.pieced
        there = []
        for i in ids:
            path = self._layout.sidecar(i)
            if not path.exists():
                continue  # it is deleted, and the index is behind
            try:
                call = read(path)
                mine = coverage.of_sidecar(call)
            except (StoreError, KeyError, TypeError, ValueError, AttributeError):
                return None  # damaged: nobody knows what would be lost with it
            if whole and mine.is_enough_for(coverage.of_job(job)):
                return None
            there.append((i, call))
        return there

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
