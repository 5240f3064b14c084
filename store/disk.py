"""How full the disks are, and what is done about it: the policies of [disk].

From the top down: *alarm*, below which people are told; *stop*, below which the policy acts; *floor*, below which no sound is
written any more. What lies between stop and floor is the reserve, in which calls in progress are finished; what lies below the
floor is for what must be written whatever happens: the index's commits, sidecars, counts, state.

Percentages are of what the file system has. On a large one 3 % are more than any reserve needs, on a small one less than one
commit of the index: so both marks have a ceiling and a bottom (`Marks.of`).
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rokuon.store.errors import IndexBusyError, StoreError, why
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.retention import BATCH, Removed, Veto, finish_removals, oldest_calls, remove_calls, removing
from rokuon.store.settings import DiskSettings
from rokuon.store.sidecar import Sidecar

__all__ = ["DiskWatch", "Marks", "Room"]

_MIB, _GIB = 1 << 20, 1 << 30
_LEVELS = ("ok", "low", "full")
_FULL = 2
_YOUNG_S = 120.0
"""How long a call stays whatever the policy says: it may yet be joined with another, and hooks read it."""
_AGAIN_S = 60.0
"""After which calls are looked for again, when all that there were had to stay."""
_SETTLE_S = 5.0
"""How long a file system may take to show the room of what was deleted."""
_WALK_S = 3600.0
"""After which the oldest calls are looked for from the beginning: a hold was released, old captures were imported."""
_STEP_S = 0.2
_BUCKET_S, _BUCKETS = 600.0, 144
"""What was written is counted by ten minutes, for a day: calls come by day, not by night."""


class StatVfs(Protocol):
    """The part of os.statvfs_result that is looked at."""

    @property
    def f_frsize(self) -> int: ...
    @property
    def f_blocks(self) -> int: ...
    @property
    def f_bfree(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...
    @property
    def f_files(self) -> int: ...
    @property
    def f_favail(self) -> int: ...


class Room(NamedTuple):
    """What a file system has, for those who are not root."""

    free: int
    total: int
    files_free: int
    """Files that can still be made."""
    files: int
    """Files that there can be; 0: as many as there is room for."""

    @classmethod
    def of(cls, found: StatVfs) -> Room:
        used = found.f_blocks - found.f_bfree
        return cls(found.f_bavail * found.f_frsize, (used + found.f_bavail) * found.f_frsize, found.f_favail, found.f_files)


class Marks(NamedTuple):
    """Bytes free at which something happens."""

    clear: int
    """From here on all is well again."""
    alarm: int
    resume: int
    """From here on the policy rests again."""
    stop: int
    floor: int

    @classmethod
    def of(cls, total: int, settings: DiskSettings) -> Marks:
        """The marks of a file system of `total` bytes.

        stop: per cent as set, but at least 32 MiB (of a small one an eighth) and at most 50 GiB; alarm: at least 64 MiB (a
        quarter) and at most 500 GiB, never below stop; floor: half of stop, at most 256 MiB. Above alarm and stop there is a
        margin, so that a disk that is filled and emptied by turns gives one alarm and not a hundred: a quarter of the mark, at
        most 1 GiB.
        """
        least = min(32 * _MIB, total // 8)
        stop = min(max(int(total * settings.stop / 100), least), 50 * _GIB)
        alarm = max(min(int(total * settings.alarm / 100), 500 * _GIB), 2 * least, stop)
        resume = stop + min(stop // 4, _GIB)
        return cls(max(alarm + min(alarm // 4, _GIB), resume), alarm, resume, stop, min(stop // 2, 256 * _MIB))

    def level(self, free: int, before: int) -> int:
        """0 ok, 1 low, 2 full; `before`: the level it had."""
        if free < self.stop or (before == 2 and free < self.resume):
            return 2
        if free < self.alarm or (before and free < self.clear):
            return 1
        return 0


class _FileSystem:
    """One of them, looked at now and then."""

    def __init__(self, path: Path, statvfs: Callable[[Path], StatVfs]) -> None:
        self._path, self._statvfs = path, statvfs
        self.room = Room(0, 0, 0, 0)
        self.level = 0
        self.error = ""

    def look(self, settings: DiskSettings) -> None:
        """Raises nothing: one that cannot be looked at keeps the level that it had."""
        path = self._path
        while not path.exists() and path != path.parent:
            path = path.parent
        try:
            self.room = Room.of(self._statvfs(path))
        except OSError as error:
            self.error = f"cannot look at the file system of {self._path}: {why(error)}"
            return
        self.error = ""
        if self.room.total:
            self.level = self.marks(settings).level(self.free, self.level)

    def marks(self, settings: DiskSettings) -> Marks:
        return Marks.of(self.room.total, settings)

    @property
    def free(self) -> int:
        """Bytes free, or less where it runs out of files before."""
        room = self.room
        return min(room.free, int(room.total * (room.files_free / room.files))) if room.files else room.free


class DiskWatch:
    """Looks at the disks and carries out the policy. For one thread, which calls again and again:

        if disk.look(now_ns): …       the level has changed: `disk.level`, "ok", "low" or "full"
        disk.make_room(index)         keep-newest: a step of work, if there is any to do
        disk.refuses(start_ns)        asked for each call
        disk.fits(octets)             asked before sound is written
        disk.wrote(octets)            told of each call that was finished
        disk.state()                  for people

    New `settings` may be put in at any time.
    """

    def __init__(self, layout: Layout, settings: DiskSettings, *, clock: Callable[[], float] = time.monotonic,
                 now: Callable[[], float] = time.time, statvfs: Callable[[Path], StatVfs] = os.statvfs) -> None:
        """clock: seconds, monotonic; now: seconds since 1970, as file times are."""
        self._layout, self.settings = layout, settings
        self._clock, self._now = clock, now
        self._recordings = _FileSystem(layout.recordings, statvfs)
        self._spool = _FileSystem(layout.spool, statvfs)
        self.level = "ok"
        self.stuck = False
        """keep-newest: nothing may be deleted any more, and new calls are refused as with keep-oldest."""
        self.deleted = self.deleted_bytes = 0
        """What the policy deleted since this process began."""
        self.kept: Counter[str] = Counter()
        """When it was stuck: calls that have to stay, by what speaks against it."""
        self.warnings: deque[str] = deque(maxlen=20)
        """Lines for people; whoever shows them takes them out."""
        self._begun = clock()
        self._looked = self._rest_until = self._stuck_until = self._finish_at = float("-inf")
        self._full_since_ns = 0
        self._since_look = 0
        self._written: deque[tuple[float, int]] = deque(maxlen=_BUCKETS)
        self._behind = True  # a deletion may have been broken off before this process began
        self._ready = False
        self._lacking = 0
        self._walk: Iterator[str] | None = None
        self._walk_begun = float("-inf")
        self._walk_kept: Counter[str] = Counter()

    # -- looking -------------------------------------------------------------
    def look(self, now_ns: int) -> bool:
        """Looks at the disks, once a second at most. `now_ns`: packet time as far as it is processed; 0: nothing is yet.
        Returns whether the level has changed. Raises nothing.
        """
        if self._clock() - self._looked < 1:
            return False
        self._looked, self._since_look = self._clock(), 0
        for disk in (self._recordings, self._spool):
            known = disk.error
            disk.look(self.settings)
            if disk.error and disk.error != known:
                self.warnings.append(disk.error)
        level = _LEVELS[max(self._recordings.level, self._spool.level)]
        if level == self.level:
            return False
        self.level = level
        if level == "full":
            self._full_since_ns = now_ns or int(self._now() * 1e9)
        return True

    def refuses(self, start_ns: int) -> bool:
        """Whether a call that started then (packet time, ns) is not to be recorded, as things are: the disk is full, and was not
        when the call began. Calls that were in progress are finished; the reserve is for them.
        """
        if self.level != "full" or start_ns <= self._full_since_ns:
            return False
        return self.settings.policy == "keep-oldest" or self.stuck or self._recordings.level < _FULL

    def fits(self, octets: int) -> bool:
        """Whether so many bytes may be written below DATA/recordings; below the floor only what is no sound or packets may."""
        disk = self._recordings
        return not disk.room.total or disk.free - self._since_look - octets >= disk.marks(self.settings).floor

    def wrote(self, octets: int) -> None:
        """So many bytes were written below DATA/recordings."""
        self._since_look += octets
        bucket = self._clock() // _BUCKET_S
        if self._written and self._written[-1][0] == bucket:
            octets += self._written.pop()[1]
        self._written.append((bucket, octets))

    def rate(self) -> float:
        """Bytes a second that `wrote` was told of, on average over the last day or since the start; 0.0 in the first minute."""
        known_s = min(self._clock() - self._begun, _BUCKETS * _BUCKET_S)
        since = (self._clock() - _BUCKETS * _BUCKET_S) // _BUCKET_S
        return sum(octets for bucket, octets in self._written if bucket > since) / known_s if known_s >= 60 else 0.0

    def state(self) -> dict[str, Any]:
        """The "disk" of correlate.json. `days_left`: until nothing but the reserve is left; None where nothing is written, or
        where keep-newest makes room. `acting`: "no", "refusing", "deleting", or "stuck" (neither is left to delete nor room).
        """
        disk, rate = self._recordings, self.rate()
        refusing = self.level == "full" and (self.settings.policy == "keep-oldest" or disk.level < _FULL)
        acting = "refusing" if refusing else "no" if self.level != "full" else "stuck" if self.stuck else "deleting"
        spare = max(0, disk.free - disk.marks(self.settings).stop)
        endless = not rate or (self.settings.policy == "keep-newest" and disk.level > 0)
        return {"free": disk.room.free, "total": disk.room.total, "bytes_per_s": round(rate),
                "days_left": None if endless else round(spare / rate / 86_400, 2), "level": self.level,
                "policy": self.settings.policy, "deleted": self.deleted, "deleted_bytes": self.deleted_bytes, "acting": acting,
                "kept": dict(self.kept) if self.stuck else {}, "files_free": disk.room.files_free if disk.room.files else None,
                "spool": {"free": self._spool.room.free, "total": self._spool.room.total, "level": _LEVELS[self._spool.level]}}

    # -- keep-newest ---------------------------------------------------------
    def make_room(self, index: Index, vetoes: Sequence[Veto] = ()) -> Removed:
        """Deletes the oldest calls where the policy is keep-newest and the disk of the recordings is full: a step of 0.2 s or a
        batch, whichever takes longer. Returns what was done in it. Raises nothing.
        """
        removed = Removed()
        newest = self.settings.policy == "keep-newest"
        try:
            self._prepare(index, newest, removed)
            if not newest or self._recordings.level < _FULL:
                self.stuck = False
            elif self._wanting():
                self._delete(index, vetoes, removed)
        except IndexBusyError:  # somebody else deletes: the next step
            pass
        except StoreError as error:
            self._give_up(str(error))
        self.deleted += removed.calls
        self.deleted_bytes += removed.bytes
        for line in removed.failed:
            self._warn(line)
        return removed

    def _prepare(self, index: Index, newest: bool, removed: Removed) -> None:
        """Does what is left of deletions that were broken off, and makes the directory of notes while there is room for it."""
        if not (self._behind or (newest and not self._ready)) or self._clock() < self._finish_at:
            return
        self._finish_at = self._clock() + _SETTLE_S
        try:
            removed.add(finish_removals(self._layout, index))
            self._behind = removed.behind > 0
            if newest:
                with removing(self._layout):
                    self._ready = True
        except StoreError as error:
            self._warn(str(error))

    def _wanting(self) -> bool:
        """Whether it is time to delete more; `_lacking` then says how much."""
        disk, marks, clock = self._recordings, self._recordings.marks(self.settings), self._clock()
        if clock < self._stuck_until or (clock < self._rest_until and disk.free > (marks.stop + marks.floor) // 2):
            return False
        if self._lacking <= 0:
            disk.look(self.settings)
            self._lacking = marks.resume - disk.free
        return self._lacking > 0

    def _delete(self, index: Index, vetoes: Sequence[Veto], removed: Removed) -> None:
        begun = self._clock()
        while self._lacking > 0:
            if self._walk is None or begun - self._walk_begun > _WALK_S:
                self._walk, self._walk_begun, self._walk_kept = oldest_calls(self._layout), begun, Counter()
            ids = list(islice(self._walk, BATCH))
            step = remove_calls(self._layout, index, ids, reason="disk-full", vetoes=(self._young, *vetoes))
            removed.add(step)
            self._walk_kept += step.kept
            self._lacking -= step.bytes
            if step.behind:
                self._behind = True
            if len(ids) < BATCH:
                self._walk = None
                if self._lacking > 0:
                    self._give_up("")
                    return
            if self._clock() - begun >= _STEP_S:
                break
        self.stuck = False
        if self._lacking <= 0:  # perhaps not all of it shows at once, or somebody has a file open
            self._rest_until = self._clock() + _SETTLE_S

    def _give_up(self, why: str) -> None:
        """For a while: nothing is left that may be deleted."""
        self._stuck_until, self._lacking = self._clock() + _AGAIN_S, 0
        self.kept, self._walk = self._walk_kept, None
        if not self.stuck:
            because = why or ", ".join(f"{count:,} {reason}" for reason, count in self.kept.most_common(4)) or "there are none"
            self._warn(f"the disk is full and no call may be deleted ({because}): new calls are not recorded")
        self.stuck = True

    def _young(self, call_id: str, _: Sidecar) -> str:
        try:
            age_s = self._now() - self._layout.sidecar(call_id).stat().st_mtime
        except OSError:
            return ""
        return "just recorded" if 0 <= age_s < _YOUNG_S else ""

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)
